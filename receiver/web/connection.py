"""Bounds on what one connection may take: time, bytes, and company. uvicorn has none of them of its own.

A peer that says nothing, half a head or half a body is cut off after a while, and so is one that does not read
its answer; until then it costs a little memory and no worker. One sweep over all connections does it, so that
a request costs no timers. Where all places are taken, whoever has kept one for longest without asking for anything
gives it up to the next, so that slow clients keep out nobody but each other.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, TypeAlias

import h11
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http import h11_impl, httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from receiver.web.callers import Proxies, peer
from receiver.web.problems import MEDIA_TYPE, Problem

log = structlog.get_logger()

_NO_PROXIES = Proxies()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a listener allows each connection, and how many of them."""

    head: timedelta = timedelta(seconds=10)  # from the first byte to the end of the head
    request: timedelta = timedelta(seconds=30)  # from the first byte to the end of the body
    idle: timedelta = timedelta(seconds=75)  # between two requests
    stall: timedelta = timedelta(seconds=30)  # an answer of which the peer takes nothing
    head_bytes: int = 16 * 1024
    head_fields: int = 100
    connections: int = 400
    per_peer: int = 200
    proxies: Proxies = _NO_PROXIES  # of whom one connection is as good as another, however many they have


class Part(Enum):
    """Which part of a request a connection is in the middle of sending."""

    NONE = auto()
    HEAD = auto()
    BODY = auto()


class Crowd(ServerState):
    """All connections of one listener; uvicorn hands it to each."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self._present = 0
        self._by_peer: Counter[str] = Counter()

    def enter(self, connection: "Bounded") -> bool:
        """Count a connection in; tell whether there is room for it, or somebody who can make room."""
        self._present += 1
        self._by_peer[connection.peer] += 1
        if self.count(connection) > self.limits.per_peer:
            return False
        return self._present <= self.limits.connections or self._make_room(connection)

    def count(self, connection: "Bounded") -> int:
        """Tell how many connections a connection's peer has; those of a proxy are nobody's in particular."""
        return 0 if self.limits.proxies.include(connection.client) else self._by_peer[connection.peer]

    def _make_room(self, newcomer: "Bounded") -> bool:
        idle = [each for each in self.connections if isinstance(each, Bounded) and each.is_dispensable()]
        least = min((each for each in idle if each is not newcomer), key=Bounded.worth, default=None)
        if least is not None:
            least.turn_away(*_TOO_MANY)
        return least is not None

    def leave(self, connection: "Bounded") -> None:
        """Count a connection out."""
        self._present -= 1
        self._by_peer[connection.peer] -= 1
        if not self._by_peer[connection.peer]:
            del self._by_peer[connection.peer]

    def sweep(self, now: float) -> None:
        """Cut off whoever has overstayed."""
        for connection in list(self.connections):
            if isinstance(connection, Bounded):
                connection.enforce(now)

    def disperse(self) -> None:
        """Drop every connection that is still there, without a word."""
        for connection in list(self.connections):
            connection.transport.abort()


class Bounded(asyncio.Protocol, ABC):
    """What both parsers' connections add to uvicorn's: deadlines and caps."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    client: tuple[str, int] | None
    server_state: Any  # a Crowd, which uvicorn knows as its ServerState
    cycle: Any  # uvicorn's RequestResponseCycle, a class for each parser
    peer: str

    # Since when the connection is in the middle of what it is in the middle of, in the loop's seconds.
    _since: float
    _unread: tuple[int, float]
    _head_bytes: int = 0
    _is_leaving: bool = False

    @property
    def crowd(self) -> Crowd:
        """All connections of this one's listener."""
        crowd: Crowd = self.server_state
        return crowd

    @abstractmethod
    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._unread = (0, self._since)
        self.peer = peer(self.client)
        if not self.crowd.enter(self):
            self.turn_away(*_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self.transport.is_closing():
            return
        before = self.part()
        try:
            super().data_received(data)
        except h11.ProtocolError:
            self.send_400_response("")
        if self._is_leaving and self.cycle is not None:
            self.cycle.keep_alive = False
        after = self.part()
        if before is Part.NONE and after is not Part.NONE:
            self._since = self.loop.time()
        if before is after is Part.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self.crowd.limits.head_bytes:
                self.turn_away(*_HEAD_TOO_LARGE)
        else:
            self._head_bytes = 0

    def shutdown(self) -> None:
        """End the connection, since the listener stops. Whoever has only just come, or begun to ask, is heard first:
        who calls once, as Kling may, must not meet an end between the connection and the request."""
        self._is_leaving = True
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy or (self.cycle is not None and self.part() is Part.NONE):
            super().shutdown()  # type: ignore[misc]  # uvicorn's, beside us in each class below
        else:
            self.loop.call_later(_LAST_HEARING, self._end_hearing)

    def _end_hearing(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()  # type: ignore[misc]  # as above

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's, beside us in each class below

    def send_400_response(self, _msg: str) -> None:
        """Say that this is no HTTP; uvicorn's own words would break off in a half-sent answer."""
        self.turn_away(HTTPStatus.BAD_REQUEST, "bad_http", "This is not HTTP.")

    def enforce(self, now: float) -> None:
        """Cut the connection off if it has overstayed."""
        limits = self.crowd.limits
        if self._is_stalled(now):
            self.transport.abort()
        if self.transport.is_closing():
            return
        waited = timedelta(seconds=now - self._since)
        match self.part():
            case Part.HEAD if waited > limits.head:
                self.turn_away(*_TOO_SLOW)
            case Part.BODY if waited > limits.request:
                self.turn_away(*_TOO_SLOW)
            case Part.NONE if not self._is_answering() and waited > (limits.idle if self.cycle else limits.head):
                self.transport.close()

    def is_dispensable(self) -> bool:
        """Whether the connection can be ended without a request being lost that is here already."""
        return not self._is_answering() and not self.transport.is_closing()

    def worth(self) -> tuple[bool, int, float]:
        """Say which of the dispensable should stay, the greatest first: who was served and waits to ask again,
        then who has few connections, then who has come last."""
        served = self.cycle is not None and self.part() is Part.NONE
        return served, -self.crowd.count(self), self._since

    def turn_away(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Say why, and close. A request that is whole already is answered first."""
        if self.transport.is_closing():
            return
        log.debug("connection.refused", peer=self.peer, code=code)
        if self._is_answering():
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        elif self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        else:
            self.transport.write(_last_words(Problem(status, code, detail)))
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _is_stalled(self, now: float) -> bool:
        unread, since = self.transport.get_write_buffer_size(), self._unread[1]
        if not unread or unread != self._unread[0]:
            self._unread = (unread, now)
            return False
        return timedelta(seconds=now - since) > self.crowd.limits.stall


class HttptoolsConnection(Bounded, httptools_impl.HttpToolsProtocol):
    """A connection read by httptools, which is quick and has no limits at all."""

    _part = Part.NONE

    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""
        return self._part

    def on_message_begin(self) -> None:
        """Notice the first byte of a request."""
        self._part = Part.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Notice the end of the head."""
        super().on_headers_complete()
        self._part = Part.BODY

    def on_message_complete(self) -> None:
        """Notice the end of the request."""
        self._part = Part.NONE
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        # The parser reads nothing after a request for another protocol, so a client that goes on speaking
        # HTTP/1.1, as it may when not answered with 101, needs a new connection.
        self.cycle.keep_alive = False


class H11Connection(Bounded, h11_impl.H11Protocol):
    """A connection read by h11, which is slow and careful."""

    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return Part.BODY
        return Part.HEAD if state is h11.IDLE and self.conn.trailing_data[0] else Part.NONE


ConnectionMaker: TypeAlias = Callable[..., asyncio.Protocol]


class CarefulHead:
    """Refuses what the parsers let pass: heads too large, no host or two, and two readings of where a body ends."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a bad head at once, hand a good one on."""
        problem = self._look_at(scope)
        if problem is None:
            await self._app(scope, receive, send)
            return
        log.debug("request.refused", peer=peer(scope.get("client")), code=problem.code)
        problem.headers["connection"] = "close"
        await problem.response()(scope, receive, send)

    def _look_at(self, scope: Scope) -> Problem | None:
        size = len(scope.get("raw_path", b"")) + len(scope["query_string"])
        framings, hosts = set(), 0
        for name, value in scope["headers"]:
            size += len(name) + len(value) + len(b": \r\n")
            if name in (b"content-length", b"transfer-encoding"):
                framings.add(name)
            hosts += name == b"host"
        if size > self._limits.head_bytes or len(scope["headers"]) > self._limits.head_fields:
            return Problem(*_HEAD_TOO_LARGE)
        if len(framings) > 1 or (b"transfer-encoding" in framings and scope["http_version"] == "1.0"):
            # A proxy before us and we could differ on where this request ends and a smuggled one begins.
            return Problem(HTTPStatus.BAD_REQUEST, "bad_http", "Content-Length and Transfer-Encoding disagree.")
        if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
            return Problem(HTTPStatus.BAD_REQUEST, "bad_http", "A request names one host.")
        return None


_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "The request's head is too large, or has too many fields.",
)
_TOO_MANY = (HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "Too many connections.")
_LAST_HEARING = 2.0
_TOO_SLOW = (HTTPStatus.REQUEST_TIMEOUT, "too_slow", "The request took too long to arrive.")


def _last_words(problem: Problem) -> bytes:
    body = problem.body()
    head = (
        f"HTTP/1.1 {problem.status.value} {problem.status.phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
