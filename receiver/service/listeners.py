"""Both listeners and the apps behind them. A reload builds new apps and replaces the old ones.

A request in flight finishes with the app that it began with.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import replace
from starlette.types import ASGIApp

from receiver.delivery.lane_registry import LaneRegistry
from receiver.service.admin_token import admin_token
from receiver.service.admin_wiring import admin_services
from receiver.service.context import Context
from receiver.service.diagnostics import diagnosis
from receiver.service.reload import Reloader
from receiver.service.wiring import DeliveryServices, ResultServices, TaskServices
from receiver.settings import Address, Settings
from receiver.web.admin import admin_app
from receiver.web.callbacks import public_app
from receiver.web.probes import ProbeRegistry
from receiver.web.resources.health import ReadinessCheck
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.body import MAX_JOB_BODY
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

if TYPE_CHECKING:
    from receiver.service.nodes.node import Node

_LISTENER_GRACE = timedelta(seconds=5)
_ADMIN_LIMITS = ConnectionLimits(
    request=timedelta(minutes=5),  # uploads of base64 images are slow
    drained_bytes=2 * MAX_JOB_BODY,  # so that a client with a wrong token reads its 401 after a large upload
)


class Listeners:
    """Builds the listeners once, and their apps at the start and at each reload."""

    def __init__(
        self,
        context: Context,
        tasks: TaskServices,
        deliveries: DeliveryServices,
        lanes: LaneRegistry,
        *,
        node: "Node | None" = None,
        readiness: ReadinessCheck,
        results: ResultServices,
        reloader: Reloader,
        sockets: Mapping[str, Sequence[socket.socket]],
    ) -> None:
        self._context = context
        self._tasks = tasks
        self._deliveries = deliveries
        self._lanes = lanes
        self._node = node
        self._readiness = readiness
        self._results = results
        self._reloader = reloader
        self._probes = ProbeRegistry(clock=context.clock)
        self._tokens, self._revoked = _tokens(context.settings), asyncio.Event()
        self._diagnose = diagnosis(readiness, started_at=context.clock.now())
        public, admin = self._apps(context.settings)
        limits = ConnectionLimits(proxies=TrustedProxies(context.settings.public.proxies))
        listen = {name: getattr(context.settings, name).listen for name in ("public", "admin")}
        self.public = _listener("public", public, listen["public"], sockets, limits)
        self.admin = _listener("admin", admin, listen["admin"], sockets, _ADMIN_LIMITS)

    def apply(self, settings: Settings) -> None:
        """Answer later requests by *settings*. If a token changes, open streams end."""
        if (tokens := _tokens(settings)) != self._tokens:
            self._revoked.set()
            self._tokens, self._revoked = tokens, asyncio.Event()
        self.public.app, self.admin.app = self._apps(settings)

    def _apps(self, settings: Settings) -> tuple[ASGIApp, ASGIApp]:
        """Return the public app and the admin app."""
        context, token = replace(self._context, settings=settings), admin_token(settings)
        if self._node is not None:
            self._probes.share(token)
        proxies = TrustedProxies(settings.public.proxies)
        public = public_app(
            context.tracing.callbacks(self._tasks.inbox),
            max_body=settings.callbacks.max_body,
            allowed_hosts=_public_hosts(settings),
            proxies=proxies,
            probes=self._probes,
            metrics=context.metrics,
            known_tokens=context.store.tasks.known_tokens,
        )
        services = admin_services(
            context,
            self._tasks,
            self._deliveries,
            find_sender=self._lanes.sender,
            readiness=self._readiness,
            diagnose=self._diagnose,
            probes=self._probes,
            reloads=self._reloader,
            origins=self._reloader.origins(),
            results=self._results,
            node=self._node,
        )
        admin = admin_app(
            services,
            token=token,
            read_token=settings.admin.read_token,
            listen=settings.admin.listen,
            hosts=settings.admin.hosts,
            named_tokens=settings.admin.tokens,
            revoked=self._revoked,
        )
        return public, context.tracing.submits(admin)


def _tokens(settings: Settings) -> object:
    return admin_token(settings), settings.admin.read_token, settings.admin.tokens


def _public_hosts(settings: Settings) -> AllowedHosts | None:
    """Return the host names that callbacks may use, or None if no public URL is configured."""
    host = urlsplit(settings.public.url).hostname
    return None if host is None else AllowedHosts(settings.public.listen, {host})


def _listener(
    name: str, app: ASGIApp, address: Address, sockets: Mapping[str, Sequence[socket.socket]], limits: ConnectionLimits
) -> Listener:
    listener = Listener(
        app,
        key=f"[{name}] listen",
        address=address,
        sockets=sockets.get(name, ()),
        limits=limits,
        grace=_LISTENER_GRACE,
    )
    listener.bind()
    return listener
