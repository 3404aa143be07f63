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

from receiver.web.server.client_address import Proxies, peer
from receiver.web.server.rejections import BAD_HTTP, HEAD_TOO_LARGE, TOO_FAR_AHEAD, TOO_MANY, TOO_SLOW, Refusal

log = structlog.get_logger()

ConnectionMaker: TypeAlias = Callable[..., asyncio.Protocol]

_NO_PROXIES = Proxies()
_LAST_HEARING = 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a listener allows each connection, and how many of them."""

    head: timedelta = timedelta(seconds=10)  # from the first byte to the end of the head
    request: timedelta = timedelta(seconds=30)  # from the first byte to the end of the body
    idle: timedelta = timedelta(seconds=75)  # between two requests
    stall: timedelta = timedelta(seconds=30)  # an answer of which the peer takes nothing
    head_bytes: int = 16 * 1024
    head_fields: int = 100
    ahead: int = 8  # requests that came before the one ahead of them was answered
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
            least.turn_away(TOO_MANY)
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


class Bounded(asyncio.Protocol, ABC):
    """What both parsers' connections add to uvicorn's: deadlines and caps."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    flow: Any  # a _Flow, which uvicorn knows as its FlowControl
    server_state: Any  # a Crowd, which uvicorn knows as its ServerState
    cycle: Any  # uvicorn's RequestResponseCycle, a class for each parser
    peer: str

    # Since when the connection is in the middle of what it is in the middle of, in the loop's seconds.
    _since: float
    _unread: tuple[int, float]
    _bytes_in_vain: int = 0  # since the peer last got on: to the end of a head, or with a body
    _is_all_framing: bool = False  # whether the last piece of a body held nothing of it
    _objection: Refusal  # to what the parser was given, should it fail
    _refusal: Refusal | None = None  # for after the answers that come first; nothing more is heard
    _is_leaving: bool = False

    @property
    def crowd(self) -> Crowd:
        """All connections of this one's listener."""
        crowd: Crowd = self.server_state
        return crowd

    @abstractmethod
    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""

    @abstractmethod
    def is_queueing(self) -> bool:
        """Whether a request waits for the answer to the one before it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        self.flow = _Flow(self.transport)
        self._objection = BAD_HTTP
        self._since = self.loop.time()
        self._unread = (0, self._since)
        self.peer = peer(self.client)
        if not self.crowd.enter(self):
            self.turn_away(TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another."""
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        if self.transport.is_closing() or self._refusal is not None:
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
        if before is after is Part.HEAD or (before is after is Part.BODY and self._is_all_framing):
            self._bytes_in_vain += len(data)
            if self._bytes_in_vain > self.crowd.limits.head_bytes:
                self.turn_away(HEAD_TOO_LARGE if after is Part.HEAD else BAD_HTTP)
        else:
            self._bytes_in_vain = 0
        self._hold_the_queue()

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
        if self.transport.is_closing():
            return
        self._hold_the_queue()
        self.flow.resume_reading()
        if self._refusal is not None and not self._is_answering():
            self.turn_away(self._refusal)

    def send_400_response(self, _msg: str) -> None:
        """Say that this is no HTTP; uvicorn's own words would break off in a half-sent answer."""
        self.turn_away(self._objection)

    def enforce(self, now: float) -> None:
        """Cut the connection off if it has overstayed."""
        limits = self.crowd.limits
        if self._is_stalled(now):
            self.transport.abort()
        if self.transport.is_closing() or self.flow.is_held:
            return
        waited = timedelta(seconds=now - self._since)
        match self.part():
            case Part.HEAD if waited > limits.head:
                self.turn_away(TOO_SLOW)
            case Part.BODY if waited > limits.request:
                self.turn_away(TOO_SLOW)
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

    def turn_away(self, refusal: Refusal) -> None:
        """Say why, and close. Requests that are whole already are answered first."""
        if self.transport.is_closing() or (self._refusal is not None and self._is_answering()):
            return
        log.debug("connection.refused", peer=self.peer, code=refusal.code)
        if self._is_answering():
            self.cycle.keep_alive = False
            self._refusal = refusal
            self.flow.hold()
        elif self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        else:
            self.transport.write(refusal.last_words())
            self.transport.close()

    def _hold_the_queue(self) -> None:
        self.flow.is_held = self._refusal is not None or self.is_queueing()

    def _is_answering(self) -> bool:
        is_whole = self.cycle is not None and not self.cycle.more_body
        return self.is_queueing() or (is_whole and not self.cycle.response_complete)

    def _is_stalled(self, now: float) -> bool:
        unread, since = self.transport.get_write_buffer_size(), self._unread[1]
        if not unread or unread != self._unread[0]:
            self._unread = (unread, now)
            return False
        return timedelta(seconds=now - since) > self.crowd.limits.stall


class HttptoolsConnection(Bounded, httptools_impl.HttpToolsProtocol):
    """A connection read by httptools, which is quick and has no limits at all."""

    _part = Part.NONE
    _current: Any = None  # the cycle that came first of those without an answer

    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""
        return self._part

    def is_queueing(self) -> bool:
        """Whether a request waits for the answer to the one before it."""
        return bool(self.pipeline)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        self._is_all_framing = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another, and let the app know. uvicorn tells only the last of the requests that came."""
        super().connection_lost(exc)
        if self._current is not None and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()

    def on_message_begin(self) -> None:
        """Notice the first byte of a request."""
        is_ahead = self.cycle is not None and not self.cycle.response_complete
        if is_ahead and len(self.pipeline) >= self.crowd.limits.ahead:
            self._stop_parsing(TOO_FAR_AHEAD)
        self._part = Part.HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a field of the head."""
        if self._part is Part.BODY:
            self._stop_parsing(BAD_HTTP)
        if len(self.headers) >= self.crowd.limits.head_fields:
            self._stop_parsing(HEAD_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Notice the end of the head."""
        super().on_headers_complete()
        self._part = Part.BODY
        if not self.pipeline:
            self._current = self.cycle

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        self._is_all_framing = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Notice the end of the request."""
        self._part = Part.NONE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or go on to the one that waits."""
        if self.pipeline:
            self._current = self.pipeline[-1][0]
        super().on_response_complete()

    def _stop_parsing(self, objection: Refusal) -> NoReturn:
        self._objection = objection
        raise ValueError(objection.code)  # out of a callback, which is the one way to stop this parser

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


class H11Connection(Bounded, h11_impl.H11Protocol):
    """A connection read by h11, which is slow and careful."""

    _came_ahead = 0

    def part(self) -> Part:
        """Tell what the peer is in the middle of sending."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return Part.BODY
        return Part.HEAD if state is h11.IDLE and self.conn.trailing_data[0] else Part.NONE

    def is_queueing(self) -> bool:
        """Whether a request waits for the answer to the one before it."""
        return self.conn.their_state is h11.DONE and bool(self.conn.trailing_data[0])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        self.conn = _PlainH11(h11.SERVER, self.crowd.limits.head_bytes)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        self._came_ahead = 0  # nothing is read while anything waits
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, or go on to the one that waits."""
        self._came_ahead += 1
        super().on_response_complete()

    def handle_events(self) -> None:
        """Take out of the buffer what may be worked on now."""
        super().handle_events()
        if self._came_ahead >= self.crowd.limits.ahead and self.is_queueing():
            self.turn_away(TOO_FAR_AHEAD)
