"""One listening address: uvicorn, run as one service among others.

Some of uvicorn's own behaviour is switched off. The supervisor handles signals, and an occupied port raises an error
instead of exiting. uvicorn's logs are silent, because they contain full paths and so tokens.
"""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from http import HTTPStatus
from typing import Any, cast

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import Server

from receiver.domain.errors import BindFailed
from receiver.net.dialer import plain_host
from receiver.settings import Address
from receiver.web.server.client_address import peer_name
from receiver.web.server.connections import ConnectionLimits, ConnectionRegistry
from receiver.web.server.file_limit import fit_backlog, fit_limits, max_open_files
from receiver.web.server.httptools_connection import HttptoolsConnection
from receiver.web.server.problems import Problem
from receiver.web.server.rejections import HEAD_TOO_LARGE
from receiver.web.server.request_groups import GroupApp, WholeRequest

log = structlog.get_logger()

STOPPING = "receiver.stopping"
"""Scope key of the event that is set when the listener stops, for responses that would never end."""

REVOKED = "receiver.revoked"
"""Scope key of the event that is set when a token of the configuration changes, for responses that need a token."""

_BACKLOG = 1024
_MAX_CHECK_INTERVAL = 1.0  # seconds; uvicorn also updates its Date header this often
_CHECKS_PER_LIMIT = 4
_UVICORN_LOG_LEVEL = "critical"


class Listener:
    """Serves an app at an address, or on sockets that are already open.

    ``key`` is the config key of the address, for messages. ``started`` is set once connections are accepted.
    ``app`` may be replaced; requests in flight finish with the old one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str,
        address: Address | None = None,
        sockets: Sequence[socket.socket] = (),
        limits: ConnectionLimits | None = None,
        grace: timedelta = timedelta(seconds=10),
    ) -> None:
        self.started = asyncio.Event()
        self.app = app
        self._key = key
        self._address = address
        self._sockets = list(sockets)
        self._wanted_limits = limits or ConnectionLimits()
        self._files = max_open_files()
        self._limits = fit_limits(self._wanted_limits, files=self._files)
        self._grace = grace

    def bind(self) -> None:
        """Open the sockets, so that a failure is known before anything else starts. Raises BindFailed."""
        if not self._sockets and self._address is not None:
            self._sockets = bind_sockets(self._address, self._key)
        for each in self._sockets:
            # Accepted sockets inherit both. Without the first a response waits 40 ms for the peer's ACK.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The actual addresses, also if the system chose the port."""
        return tuple(Address(name[0], name[1]) for name in (each.getsockname() for each in self._sockets))

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until *stop* is set. Requests in flight then have the grace period to end. Raises BindFailed."""
        if not self._sockets:
            self.bind()
        app = HeaderValidation(lambda: self.app, self._limits, stop)
        registry = ConnectionRegistry(self._limits, app)
        server = _Server(self._config(app), registry, stop=stop, started=self.started)
        addresses = [str(address) for address in self.addresses]
        log.info("listener.opened", listener=self._key, addresses=addresses)
        if self._limits.connections < self._wanted_limits.connections:
            log.warning(
                "listener.limited",
                listener=self._key,
                connections=self._limits.connections,
                reason=f"This process may open only {self._files} files; {self._wanted_limits.connections} connections "
                "need more.",
                remedy="Run `ulimit -n 4096` before the start, or set LimitNOFILE=4096 in the systemd unit.",
            )
        try:
            await server.serve(sockets=self._sockets)
        finally:
            self.started.clear()
            registry.abort_all()
            for each in self._sockets:
                each.close()
            self._sockets = []
        log.info("listener.closed", listener=self._key, requests=registry.total_requests)

    def _config(self, app: ASGIApp) -> Config:
        return Config(
            app,
            http=HttptoolsConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            loop="none",
            log_config=None,
            log_level=_UVICORN_LOG_LEVEL,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,
            backlog=fit_backlog(_BACKLOG, files=self._files),
            timeout_keep_alive=math.ceil(self._limits.idle.total_seconds()),
            timeout_graceful_shutdown=math.ceil(self._grace.total_seconds()),
        )


def stream_ends(scope: Scope) -> Sequence[asyncio.Event]:
    """Return the events that end a response which would never end by itself."""
    return [scope.get(STOPPING) or asyncio.Event(), scope.get(REVOKED) or asyncio.Event()]


class HeaderValidation:
    """Middleware for checks that the parser omits: size of the head, exactly one host, unambiguous body length.

    *find_app* returns the present app. A GroupApp gets requests in groups too.
    """

    def __init__(self, find_app: Callable[[], ASGIApp], limits: ConnectionLimits, stop: asyncio.Event) -> None:
        self._find_app = find_app
        self._limits = limits
        self._stop = stop

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request with a valid head on, and answer any other."""
        problem = self._check(scope)
        if problem is None:
            scope[STOPPING] = self._stop
            return self._find_app()(scope, receive, send)
        log.debug("request.refused", peer=peer_name(scope.get("client")), code=problem.code)
        problem.headers["connection"] = "close"
        return problem.response()(scope, receive, send)

    def takes(self, scope: Scope) -> bool:
        """Return whether the app answers a request in a group. Its head is small: it arrived at once."""
        takes: Callable[[Scope], bool] | None = getattr(self._find_app(), "takes", None)  # of a GroupApp
        return takes is not None and takes(scope)

    async def answer_group(self, requests: Sequence[WholeRequest]) -> None:
        """Let the app answer the requests that it takes."""
        await cast("GroupApp", self._find_app()).answer_group(requests)

    def _check(self, scope: Scope) -> Problem | None:
        headers = scope["headers"]
        names = [name for name, _ in headers]
        size = len(scope.get("raw_path", b"")) + len(scope["query_string"]) + len(b": \r\n") * len(names)
        size += sum(map(len, names)) + sum([len(value) for _, value in headers])
        if size > self._limits.head_bytes or len(names) > self._limits.head_fields:
            return HEAD_TOO_LARGE.problem()
        if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
            # A proxy might see the end of this request elsewhere than we do, which allows request smuggling.
            return Problem(HTTPStatus.BAD_REQUEST, "bad_http", "Content-Length and Transfer-Encoding disagree.")
        hosts = names.count(b"host")
        if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
            return Problem(HTTPStatus.BAD_REQUEST, "bad_http", "A request must have exactly one Host header.")
        return None


class _Server(Server):
    """uvicorn's server without signal handlers, and with deadlines for its connections."""

    def __init__(
        self, config: Config, registry: ConnectionRegistry, *, stop: asyncio.Event, started: asyncio.Event
    ) -> None:
        super().__init__(config)
        self.server_state = registry
        self._registry = registry
        self._stop = stop
        self._on_started = started

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override] # uvicorn declares a generator
        """Install no signal handlers: uvicorn would raise signals again before the other services have drained."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting connections."""
        await super().startup(sockets=sockets)
        self._on_started.set()

    async def main_loop(self) -> None:
        """Update the Date header and enforce the connections' deadlines until the listener stops."""
        loop = asyncio.get_running_loop()
        limits = self._registry.limits
        shortest = min(limits.head, limits.request, limits.idle, limits.stall)
        pause = min(_MAX_CHECK_INTERVAL, shortest.total_seconds() / _CHECKS_PER_LIMIT)
        while not self._stop.is_set():
            await self.on_tick(0)
            self._registry.enforce_deadlines(loop.time())
            try:
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and let requests in flight end within the grace period."""
        self._on_started.clear()
        await super().shutdown(sockets=sockets)
        if self._registry.tasks:
            log.warning("requests.aborted", requests=len(self._registry.tasks))


def bind_sockets(address: Address, key: str) -> list[socket.socket]:
    """Open the listening sockets of an address, which is configured at *key*. Raises BindFailed."""
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            plain_host(address.host),
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG,
        )
        for family, kind, protocol, _, name in dict.fromkeys(found):
            opened.append(_open(family, kind, protocol, name))
    except OSError as exc:
        for each in opened:
            each.close()
        raise BindFailed(
            f"Cannot listen at {address}: {exc.strerror or exc}.",
            remedy=f"Free the address, or set another one at {key}.",
        ) from exc
    return opened


def _open(family: int, kind: int, protocol: int, name: tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" includes every IPv4 address too; any other IPv6 address is only itself.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, name[0] != "::")
        opened.bind(name)
        # Several sockets may bind to an address while none listens, so only listen() shows that it is free.
        opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
