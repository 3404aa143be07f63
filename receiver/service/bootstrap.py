"""Puts the receiver together from its configuration, and runs it. The only place that names adapters.

What is opened is closed in reverse: the store first and last.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp

from receiver import __version__
from receiver.archive.archiver import Archiver, Copies, leave
from receiver.archive.fetcher import Fetcher
from receiver.archive.s3 import opened
from receiver.delivery.dispatcher import Dispatcher, Lane
from receiver.delivery.replay import Replayer
from receiver.delivery.retry import Pace, RetryPolicy
from receiver.delivery.route_states import Holds
from receiver.delivery.senders.process import end_left_behind
from receiver.delivery.senders.script import ScriptSender
from receiver.delivery.senders.sender import Sender
from receiver.delivery.senders.webhook import ReplySender, WebhookSender
from receiver.domain.clock import Clock, Ids, SystemClock
from receiver.domain.errors import ConfigurationError, ReceiverError, StoreUnavailable
from receiver.domain.model import Secret
from receiver.domain.notifier import Bells
from receiver.events.alerts import Alerts
from receiver.events.factory import Announcer
from receiver.events.routing import REPLY, compile_routes
from receiver.kling.client import Kling
from receiver.net.http_client import Outbound
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service.retention import Retention
from receiver.service.startup_gate import Anteroom
from receiver.service.supervisor import Supervisor, Work
from receiver.service.systemd import Notifier, listen_fds
from receiver.settings import Address, Loaded, RouteSettings, Settings
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.executor import Creates
from receiver.submission.recorder import Outcomes
from receiver.submission.recovery import Recovery
from receiver.submission.submitter import Submitter
from receiver.tasks.alerts import Alarm, RoomWatch
from receiver.tasks.batches import Gatherer
from receiver.tasks.explain import Explainer
from receiver.tracking.inbox import Inbox
from receiver.tracking.poller import Reconciler
from receiver.tracking.result_refresher import Renewer
from receiver.web.admin import Parts, admin_app
from receiver.web.callbacks import public_app
from receiver.web.resources.health import with_room
from receiver.web.server.allowed_hosts import Names
from receiver.web.server.client_address import Proxies
from receiver.web.server.connections import Limits
from receiver.web.server.listener import Listener

log = structlog.get_logger()

GRACE = timedelta(seconds=20)
"""How long work under way may go on after a stop was asked for: longer than a webhook's time-out."""

_LISTENER_GRACE = timedelta(seconds=5)
_REPLY_TIMEOUT = timedelta(seconds=15)
_REPLY_CONCURRENCY = 8
_REPLY_POLICY = RetryPolicy(
    schedule=[timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)],
    give_up_after=timedelta(hours=96),
)
_CONNECTIONS = 1000
_ADMIN_LIMITS = Limits(request=timedelta(minutes=5))  # pictures come in by base64


def run(loaded: Loaded) -> int:
    """Run the service until it is told to stop; give the process's exit code.

    Raises ReceiverError when it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that only ask for help or a table never pay for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(loaded))


async def _run(loaded: Loaded) -> int:
    for warning in loaded.warnings:
        log.warning("configuration.doubtful", warning=warning)
    notifier = Notifier.from_environment()
    async with AsyncExitStack() as stack:
        supervisor = await _assemble_where_there_is_room(loaded.settings, stack, notifier)
        if supervisor is None:
            return 0
        gc.freeze()  # all this stays, and looking through it for garbage would stop the loop for some 30 ms each time
        gc.enable()
        if ended := await end_left_behind():
            log.warning("scripts.ended", processes=ended, reason="The receiver that ran them was killed.")
        return await supervisor.run(notifier)


async def _assemble_where_there_is_room(
    settings: Settings, stack: AsyncExitStack, notifier: Notifier
) -> Supervisor | None:
    """Put the parts together, however long that takes on a full disk; None when told to stop before."""
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    anteroom = Anteroom(settings.data_dir, addresses, listen_fds(), notifier=notifier, clock=SystemClock())
    while True:
        try:
            async with AsyncExitStack() as attempt:
                supervisor = await _assemble(settings, anteroom.sockets, attempt)
                stack.push_async_exit(attempt.pop_all())
                return supervisor
        except (StoreUnavailable, OSError):
            if not anteroom.lacks_room():
                raise
        if not await anteroom.wait():
            return None


async def _assemble(
    settings: Settings, sockets: Mapping[str, Sequence[socket.socket]], stack: AsyncExitStack
) -> Supervisor:
    """Put the parts together, from the store up."""
    clock, bells = SystemClock(), Bells()
    store = await SqliteStore.open(settings.store.path)
    stack.push_async_callback(store.aclose)
    ids = Ids(clock, above=await store.newest_id())
    announcer = Announcer(compile_routes(settings.routes), ids, archive=settings.archive.is_on)
    alerts = Alerts(announcer, clock=clock)
    inside, outside = _ways_out(settings, stack)
    lanes = _Lanes(settings, inside, outside)
    kling = Kling(settings.kling, outbound=inside, clock=clock)
    inbox, submitter, work = _with_kling(settings, store, kling, announcer, bells=bells, clock=clock, ids=ids)
    holds = Holds(store, alerts, bells=bells, clock=clock)
    dispatcher = Dispatcher(
        store, lanes, holds, bell=bells.deliveries, clock=clock, ids=ids, rng=SystemRandom(), grace=GRACE
    )
    gatherer = Gatherer(store.batches, announcer, bells=bells, clock=clock)
    replayer = Replayer(store.replays, store, routes=settings.routes, bells=bells, clock=clock, ids=ids)
    kept = await _keeping(settings, store, kling, outside, alerts, stack=stack, bells=bells, clock=clock)
    work = {"dispatch": dispatcher.run, "replay": replayer.run, "batches": gatherer.run, **kept, **work}
    supervisor = Supervisor(broken=store.broken, work=work, bells=bells)
    parts = Parts(
        submitter=submitter,
        kling=kling,
        catalog=store,
        routes=settings.routes,
        states=store,
        holds=holds,
        replayer=replayer,
        batches=gatherer,
        costs=store.costs,
        explainer=Explainer(store, store, routes=[route.name for route in settings.routes], clock=clock),
        senders=lanes.sender,
        events=bells.events,
        ready=with_room(supervisor.checks, store.room.shortage),
        clock=clock,
        ids=ids,
    )
    supervisor.listen(**_listeners(settings, inbox, parts, sockets))
    return supervisor


async def _keeping(
    settings: Settings,
    store: SqliteStore,
    kling: Kling,
    outside: Outbound,
    alerts: Alerts,
    *,
    stack: AsyncExitStack,
    bells: Bells,
    clock: Clock,
) -> Mapping[str, Work]:
    """Put together what brings results home, and what takes away what is old."""
    work: dict[str, Work] = {"retention": Retention(store, settings.retention, clock=clock).run}
    folder, storage = settings.archive.dir, settings.archive.storage
    if not settings.archive.is_on:
        await leave(store, clock=clock)
    else:
        copies = None
        if storage.url:
            kept = await stack.enter_async_context(opened(storage, guard=OperatorGuard()))
            copies = Copies(storage=kept, alone=folder is None)
        has_key = bool(settings.kling.api_key or settings.kling.access_key)
        archiver = Archiver(
            store,
            Fetcher(outside),
            folder or settings.data_dir / "arriving",
            renewal=Renewer(kling) if has_key else None,
            copies=copies,
            voice=alerts,
            bells=bells,
            clock=clock,
            rng=SystemRandom(),
        )
        work["archive"] = archiver.run
    return work


def _listeners(
    settings: Settings, inbox: Inbox, parts: Parts, sockets: Mapping[str, Sequence[socket.socket]]
) -> Mapping[str, Listener]:
    admin = admin_app(parts, token=admin_token(settings), listen=settings.admin.listen)
    proxies = Proxies(settings.public.proxies)
    public = public_app(inbox, max_body=settings.callbacks.max_body, names=_public_names(settings), proxies=proxies)
    return {
        "public": _listener("public", public, settings.public.listen, sockets, Limits(proxies=proxies)),
        "admin": _listener("admin", admin, settings.admin.listen, sockets, _ADMIN_LIMITS),
    }


def _with_kling(
    settings: Settings, store: SqliteStore, kling: Kling, announcer: Announcer, *, bells: Bells, clock: Clock, ids: Ids
) -> tuple[Inbox, Submitter, Mapping[str, Work]]:
    """Put together what submits to Kling, hears from it and asks it; the last of the three is what runs by itself."""
    alarm = Alarm(store, store, announcer, public_url=settings.public.url, bells=bells, clock=clock)
    inbox = Inbox(
        store,
        announcer,
        callbacks=settings.callbacks,
        poll=settings.poll,
        bells=bells,
        clock=clock,
        ids=ids,
        attention=alarm if settings.public.url else None,
    )
    outcomes = Outcomes(store, announcer, poll=settings.poll, bells=bells, clock=clock)
    recovery = Recovery(store, kling, outcomes, store, settings=settings, bells=bells, clock=clock)
    creates = Creates(store, kling, outcomes, recovery, alarm, settings=settings, clock=clock)
    submitter = Submitter(store, creates, outcomes, settings=settings, bells=bells, clock=clock, ids=ids)
    reconciler = Reconciler(
        store,
        kling,
        inbox,
        alarm,
        timeout=settings.kling.timeout,
        tasks_bell=bells.tasks,
        clock=clock,
        latest=ids.latest,
    )
    room = RoomWatch(store.room, alarm, clock=clock)
    work = {"reconcile": reconciler.run, "recover": recovery.run, "submit": submitter.run, "room": room.run}
    return inbox, submitter, work


def _public_names(settings: Settings) -> Names | None:
    """Give the names that callbacks may come by; None where nobody has said how Kling reaches us."""
    host = urlsplit(settings.public.url).hostname
    return None if host is None else Names(settings.public.listen, {host})


def _listener(
    name: str, app: ASGIApp, address: Address, sockets: Mapping[str, Sequence[socket.socket]], limits: Limits
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


def _ways_out(settings: Settings, stack: AsyncExitStack) -> tuple[Outbound, Outbound]:
    """Make the way to what the operator named, and the one to what strangers named."""
    agent = f"kling-receiver/{__version__}"
    inside = Outbound(guard=OperatorGuard(), user_agent=agent, max_connections=_CONNECTIONS)
    outside = Outbound(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_CONNECTIONS)
    stack.push_async_callback(inside.aclose)
    stack.push_async_callback(outside.aclose)
    return inside, outside


class _Lanes:
    """Finds the lane of a route: those of the configuration, and one per host for clients' own URLs."""

    def __init__(self, settings: Settings, inside: Outbound, outside: Outbound) -> None:
        self._lanes = {route.name: _lane(route, inside) for route in settings.routes}
        self._reply = ReplySender(outbound=outside, timeout=_REPLY_TIMEOUT, secret=settings.gateway.secret)

    def __call__(self, route: str) -> Lane | None:
        if route.startswith(REPLY) and route not in self._lanes:
            self._lanes[route] = Lane(sender=self._reply, policy=_REPLY_POLICY, concurrency=_REPLY_CONCURRENCY)
        return self._lanes.get(route)

    def sender(self, route: str) -> Sender | None:
        """Find the sender of a route."""
        lane = self(route)
        return None if lane is None else lane.sender


def _lane(route: RouteSettings, outbound: Outbound) -> Lane:
    return Lane(
        sender=make_sender(route, outbound),
        policy=RetryPolicy(schedule=route.retry, give_up_after=route.give_up_after),
        concurrency=route.concurrency,
        pace=None if route.rate is None else Pace(count=route.rate.count, per=route.rate.per),
    )


def make_sender(route: RouteSettings, outbound: Outbound) -> Sender:
    """Make the sender for a route's kind of destination."""
    if route.webhook is not None:
        return WebhookSender(route.webhook, outbound=outbound)
    if route.script is not None:
        return ScriptSender(route.script)
    raise ReceiverError(f"Route {route.name} leads nowhere.")


def admin_token(settings: Settings) -> Secret:
    """Give the admin listener's token; at first start it is made and kept beside the store, for its owner alone.

    Raises ConfigurationError where something lies there that is no token, and StoreUnavailable where none can be kept.
    """
    if settings.admin.token:
        return settings.admin.token
    path = settings.data_dir / "admin-token"
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        remedy = "let the service's user read it, or move it away and a new one is made, or set [admin] token"
        raise ConfigurationError([f"admin.token: the token kept in {path} cannot be read: {reason}; {remedy}"]) from exc
    return Secret(kept or _keep_new_token(path))


def _keep_new_token(path: Path) -> str:
    """Make a token; its file is there whole or not at all, for whoever took an empty one for it would let all in."""
    token = Ids.token()
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except OSError as exc:
        raise StoreUnavailable(
            f"The admin token cannot be kept: {draft} cannot be written: {exc.strerror}.",
            remedy="Let the service's user write there, move away what is in its way, or set [admin] token.",
        ) from exc
    return token
