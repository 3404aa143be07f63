"""Bounds on what one connection may take: time, bytes, and company. uvicorn has none of them of its own.

A peer that says nothing, half a head or half a body is cut off after a while, and so is one that does not read
its answer; until then it costs a little memory and no worker. One sweep over all connections does it, so that
a request costs no timers. Few requests may come ahead of the answers to those before them, and no trailers, which
would pass for fields of a head. Where all places are taken, whoever has kept one for longest without asking for
anything gives it up to the next, so that slow clients keep out nobody but each other.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, NoReturn, TypeAlias

import h11
import structlog
from uvicorn.protocols.http import h11_impl, httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from receiver.web.server.client_address import TrustedProxies, peer_name
from receiver.web.server.rejections import (
    BAD_HTTP,
    HEAD_TOO_LARGE,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_PIPELINED,
    TOO_SLOW,
    Rejection,
)

log = structlog.get_logger()

ConnectionMaker: TypeAlias = Callable[..., asyncio.Protocol]

_NO_PROXIES = TrustedProxies()
_SHUTDOWN_GRACE = 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a listener allows each connection, and how many of them."""

    head: timedelta = timedelta(seconds=10)  # from the first byte to the end of the head
    request: timedelta = timedelta(seconds=30)  # from the first byte to the end of the body
    idle: timedelta = timedelta(seconds=75)  # between two requests
    stall: timedelta = timedelta(seconds=30)  # an answer of which the peer takes nothing
    head_bytes: int = 16 * 1024
    head_fields: int = 100
    pipelined: int = 8  # requests that came before the one ahead of them was answered
    connections: int = 400
    per_peer: int = 200
    proxies: TrustedProxies = _NO_PROXIES  # of whom one connection is as good as another, however many they have


class RequestPart(Enum):
    """Which part of a request a connection is in the middle of sending."""

    NONE = auto()
    HEAD = auto()
    BODY = auto()


class ConnectionRegistry(ServerState):
    """All connections of one listener; uvicorn hands it to each."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.limits = limits
        self._open_count = 0
        self._by_peer: Counter[str] = Counter()

    def admit(self, connection: "BoundedConnection") -> bool:
        """Count a connection in; tell whether there is room for it, or somebody who can make room."""
        self._open_count += 1
        self._by_peer[connection.peer] += 1
        if self.connections_of(connection) > self.limits.per_peer:
            return False
        return self._open_count <= self.limits.connections or self._evict_idle(connection)

    def connections_of(self, connection: "BoundedConnection") -> int:
        """Tell how many connections a connection's peer has; those of a proxy are nobody's in particular."""
        return 0 if self.limits.proxies.contains(connection.client) else self._by_peer[connection.peer]

    def _evict_idle(self, newcomer: "BoundedConnection") -> bool:
        idle = [each for each in self.connections if isinstance(each, BoundedConnection) and each.can_be_evicted()]
        least = min((each for each in idle if each is not newcomer), key=BoundedConnection.eviction_rank, default=None)
        if least is not None:
            least.reject(TOO_MANY_CONNECTIONS)
        return least is not None

    def remove(self, connection: "BoundedConnection") -> None:
        """Count a connection out."""
        self._open_count -= 1
        self._by_peer[connection.peer] -= 1
        if not self._by_peer[connection.peer]:
            del self._by_peer[connection.peer]

    def enforce_deadlines(self, now: float) -> None:
        """Cut off whoever has overstayed."""
        for connection in list(self.connections):
            if isinstance(connection, BoundedConnection):
                connection.check_deadline(now)

    def abort_all(self) -> None:
        """Drop every connection that is still there, without a word."""
        for connection in list(self.connections):
            connection.transport.abort()


class _Flow(FlowControl):
    """uvicorn's control of reading, which can be held: an app that asks for its body would go on reading what is
    behind it."""

    is_held = False

    def hold(self) -> None:
        """Read nothing more."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless held."""
        if not self.is_held:
            super().resume_reading()


class BoundedConnection(asyncio.Protocol, ABC):
    """What both parsers' connections add to uvicorn's: deadlines and caps."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    flow: Any  # a _Flow, which uvicorn knows as its FlowControl
    server_state: Any  # a Crowd, which uvicorn knows as its ServerState
    cycle: Any  # uvicorn's RequestResponseCycle, a class for each parser
    peer: str

    # Since when the connection is in the middle of what it is in the middle of, in the loop's seconds.
    _state_since: float
    _unsent: tuple[int, float]
    _bytes_without_progress: int = 0  # since the peer last got on: to the end of a head, or with a body
    _is_all_framing: bool = False  # whether the last piece of a body held nothing of it
    _parse_rejection: Rejection  # to what the parser was given, should it fail
    _pending_rejection: Rejection | None = None  # for after the answers that come first; nothing more is heard
    _is_shutting_down: bool = False

    @property
    def registry(self) -> ConnectionRegistry:
        """All connections of this one's listener."""
        crowd: ConnectionRegistry = self.server_state
        return crowd

    @abstractmethod
    def request_part(self) -> RequestPart:
        """Tell what the peer is in the middle of sending."""

    @abstractmethod
    def has_pipelined(self) -> bool:
        """Whether a request waits for the answer to the one before it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        self.flow = _Flow(self.transport)
        self._parse_rejection = BAD_HTTP
        self._state_since = self.loop.time()
        self._unsent = (0, self._state_since)
        self.peer = peer_name(self.client)
        if not self.registry.admit(self):
            self.reject(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        self.registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self.transport.is_closing() or self._pending_rejection is not None:
            return
        before = self.request_part()
        try:
            super().data_received(data)
        except h11.ProtocolError:
            self.send_400_response("")
        if self._is_shutting_down and self.cycle is not None:
            self.cycle.keep_alive = False
        after = self.request_part()
        if before is RequestPart.NONE and after is not RequestPart.NONE:
            self._state_since = self.loop.time()
        if before is after is RequestPart.HEAD or (before is after is RequestPart.BODY and self._is_all_framing):
            self._bytes_without_progress += len(data)
            if self._bytes_without_progress > self.registry.limits.head_bytes:
                self.reject(HEAD_TOO_LARGE if after is RequestPart.HEAD else BAD_HTTP)
        else:
            self._bytes_without_progress = 0
        self._hold_pipeline()

    def shutdown(self) -> None:
        """End the connection, since the listener stops. Whoever has only just come, or begun to ask, is heard first:
        who calls once, as Kling may, must not meet an end between the connection and the request."""
        self._is_shutting_down = True
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy or (self.cycle is not None and self.request_part() is RequestPart.NONE):
            super().shutdown()  # type: ignore[misc]  # uvicorn's, beside us in each class below
        else:
            self.loop.call_later(_SHUTDOWN_GRACE, self._finish_shutdown)

    def _finish_shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()  # type: ignore[misc]  # as above

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._state_since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's, beside us in each class below
        if self.transport.is_closing():
            return
        self._hold_pipeline()
        self.flow.resume_reading()
        if self._pending_rejection is not None and not self._is_responding():
            self.reject(self._pending_rejection)

    def send_400_response(self, _msg: str) -> None:
        """Say that this is no HTTP; uvicorn's own words would break off in a half-sent answer."""
        self.reject(self._parse_rejection)

    def check_deadline(self, now: float) -> None:
        """Cut the connection off if it has overstayed."""
        limits = self.registry.limits
        if self._is_stalled(now):
            self.transport.abort()
        if self.transport.is_closing() or self.flow.is_held:
            return
        waited = timedelta(seconds=now - self._state_since)
        match self.request_part():
            case RequestPart.HEAD if waited > limits.head:
                self.reject(TOO_SLOW)
            case RequestPart.BODY if waited > limits.request:
                self.reject(TOO_SLOW)
            case RequestPart.NONE if not self._is_responding() and waited > (
                limits.idle if self.cycle else limits.head
            ):
                self.transport.close()

    def can_be_evicted(self) -> bool:
        """Whether the connection can be ended without a request being lost that is here already."""
        return not self._is_responding() and not self.transport.is_closing()

    def eviction_rank(self) -> tuple[bool, int, float]:
        """Say which of the dispensable should stay, the greatest first: who was served and waits to ask again,
        then who has few connections, then who has come last."""
        served = self.cycle is not None and self.request_part() is RequestPart.NONE
        return served, -self.registry.connections_of(self), self._state_since

    def reject(self, rejection: Rejection) -> None:
        """Say why, and close. Requests that are whole already are answered first."""
        if self.transport.is_closing() or (self._pending_rejection is not None and self._is_responding()):
            return
        log.debug("connection.refused", peer=self.peer, code=rejection.code)
        if self._is_responding():
            self.cycle.keep_alive = False
            self._pending_rejection = rejection
            self.flow.hold()
        elif self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        else:
            self.transport.write(rejection.raw_response())
            self.transport.close()

    def _hold_pipeline(self) -> None:
        self.flow.is_held = self._pending_rejection is not None or self.has_pipelined()

    def _is_responding(self) -> bool:
        is_whole = self.cycle is not None and not self.cycle.more_body
        return self.has_pipelined() or (is_whole and not self.cycle.response_complete)

    def _is_stalled(self, now: float) -> bool:
        unread, since = self.transport.get_write_buffer_size(), self._unsent[1]
        if not unread or unread != self._unsent[0]:
            self._unsent = (unread, now)
            return False
        return timedelta(seconds=now - since) > self.registry.limits.stall


class HttptoolsConnection(BoundedConnection, httptools_impl.HttpToolsProtocol):
    """A connection read by httptools, which is quick and has no limits at all."""

    _request_part = RequestPart.NONE
    _current_cycle: Any = None  # the cycle that came first of those without an answer

    def request_part(self) -> RequestPart:
        """Tell what the peer is in the middle of sending."""
        return self._request_part

    def has_pipelined(self) -> bool:
        """Whether a request waits for the answer to the one before it."""
        return bool(self.pipeline)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        self._is_all_framing = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another, and let the app know. uvicorn tells only the last of the requests that came."""
        super().connection_lost(exc)
        if self._current_cycle is not None and not self._current_cycle.response_complete:
            self._current_cycle.disconnected = True
            self._current_cycle.message_event.set()

    def on_message_begin(self) -> None:
        """Notice the first byte of a request."""
        is_ahead = self.cycle is not None and not self.cycle.response_complete
        if is_ahead and len(self.pipeline) >= self.registry.limits.pipelined:
            self._stop_parsing(TOO_MANY_PIPELINED)
        self._request_part = RequestPart.HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a field of the head."""
        if self._request_part is RequestPart.BODY:
            self._stop_parsing(BAD_HTTP)
        if len(self.headers) >= self.registry.limits.head_fields:
            self._stop_parsing(HEAD_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Notice the end of the head."""
        super().on_headers_complete()
        self._request_part = RequestPart.BODY
        if not self.pipeline:
            self._current_cycle = self.cycle

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        self._is_all_framing = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Notice the end of the request."""
        self._request_part = RequestPart.NONE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or go on to the one that waits."""
        if self.pipeline:
            self._current_cycle = self.pipeline[-1][0]
        super().on_response_complete()

    def _stop_parsing(self, rejection: Rejection) -> NoReturn:
        self._parse_rejection = rejection
        raise ValueError(rejection.code)  # out of a callback, which is the one way to stop this parser

    def _unsupported_upgrade_warning(self) -> None:
        # The parser reads nothing after a request for another protocol, so a client that goes on speaking
        # HTTP/1.1, as it may when not answered with 101, needs a new connection.
        self.cycle.keep_alive = False


class _PlainH11(h11.Connection):
    """h11's parser, which takes no trailers."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Parse on."""
        event = super().next_event()
        if isinstance(event, h11.EndOfMessage) and event.headers:
            raise h11.RemoteProtocolError("trailers")
        return event


class H11Connection(BoundedConnection, h11_impl.H11Protocol):
    """A connection read by h11, which is slow and careful."""

    _pipelined_count = 0

    def request_part(self) -> RequestPart:
        """Tell what the peer is in the middle of sending."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return RequestPart.BODY
        return RequestPart.HEAD if state is h11.IDLE and self.conn.trailing_data[0] else RequestPart.NONE

    def has_pipelined(self) -> bool:
        """Whether a request waits for the answer to the one before it."""
        return self.conn.their_state is h11.DONE and bool(self.conn.trailing_data[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        self.conn = _PlainH11(h11.SERVER, self.registry.limits.head_bytes)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        self._pipelined_count = 0  # nothing is read while anything waits
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or go on to the one that waits."""
        self._pipelined_count += 1
        super().on_response_complete()

    def handle_events(self) -> None:
        """Take out of the buffer what may be worked on now."""
        super().handle_events()
        if self._pipelined_count >= self.registry.limits.pipelined and self.has_pipelined():
            self.reject(TOO_MANY_PIPELINED)
