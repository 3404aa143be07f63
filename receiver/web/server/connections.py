"""Limits on connections, which uvicorn lacks: deadlines, sizes and numbers.

- A peer that sends nothing, half a head or half a body is closed after a deadline, and so is one that does not read
  its response. Until then it costs a little memory and no worker.
- One periodic check covers all connections, so a request needs no timers.
- Only a few requests may be pipelined. Trailers are refused, because the parser would add them to the headers.
- When all connections are in use, the ones idle for longest are closed in favour of new ones. So slow clients can
  only keep out each other.
- The rest of a body whose request was already answered is read and discarded, within a limit: closing at once would
  reset the connection, and the client would lose the response.
- A client may close its sending side after a request. It still gets the response.
"""

import asyncio
import heapq
from abc import ABC, abstractmethod
from collections import Counter
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import msgspec
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.rejections import (
    BAD_HTTP,
    HEAD_TOO_LARGE,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    Rejection,
)
from receiver.web.server.request_groups import GroupApp, RequestGroups

log = structlog.get_logger()

_NO_PROXIES = TrustedProxies()
_SHUTDOWN_GRACE = 2.0  # seconds
_EVICTION_SHARE = 20
"""One eviction closes up to this fraction of all connections, so that a flood does not rank all of them each time."""


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a listener: per connection, and on the number of connections."""

    head: timedelta = timedelta(seconds=10)  # from the first byte to the end of the head
    request: timedelta = timedelta(seconds=30)  # from the first byte to the end of the body
    idle: timedelta = timedelta(seconds=75)  # between two requests
    stall: timedelta = timedelta(seconds=30)  # a response of which the peer reads nothing
    head_bytes: int = 16 * 1024
    head_fields: int = 100
    drained_bytes: int = 16 * 1024 * 1024  # of a body whose request was answered before its end
    pipelined: int = 8  # requests waiting for the response to an earlier one
    connections: int = 400
    per_peer: int = 200
    proxies: TrustedProxies = _NO_PROXIES  # exempt from per_peer


class RequestPart(Enum):
    """The part of a request that a connection is receiving."""

    NONE = auto()
    HEAD = auto()
    BODY = auto()


class ConnectionRegistry(ServerState):
    """All connections of one listener; uvicorn passes it to each."""

    def __init__(self, limits: ConnectionLimits, app: GroupApp) -> None:
        super().__init__()
        self.limits = limits
        self.groups = RequestGroups(app, self.tasks)
        self.shortest_limit = min(limits.head, limits.request, limits.idle).total_seconds()
        self._open_count = 0
        self._by_peer: Counter[str] = Counter()

    def admit(self, connection: "BoundedConnection") -> bool:
        """Count a new connection. Return whether it fits within the limits, if necessary by evicting an idle one."""
        self._open_count += 1
        self._by_peer[connection.peer] += 1
        if self.connections_of(connection) > self.limits.per_peer:
            return False
        return self._open_count <= self.limits.connections or self._evict_idle(connection)

    def connections_of(self, connection: "BoundedConnection") -> int:
        """Return how many connections the peer has; 0 for a trusted proxy, whose connections belong to many clients."""
        return 0 if connection.is_trusted_proxy else self._by_peer[connection.peer]

    def _evict_idle(self, newcomer: "BoundedConnection") -> bool:
        idle = [
            each
            for each in self.connections
            if each is not newcomer and isinstance(each, BoundedConnection) and each.can_be_evicted()
        ]
        count = max(1, self.limits.connections // _EVICTION_SHARE)
        lowest = heapq.nsmallest(count, idle, key=BoundedConnection.eviction_rank)
        for position, each in enumerate(lowest):
            if position == 0 or not each.was_served():
                each.reject(TOO_MANY_CONNECTIONS)
        return bool(lowest)

    def remove(self, connection: "BoundedConnection") -> None:
        """Stop counting a closed connection."""
        self._open_count -= 1
        self._by_peer[connection.peer] -= 1
        if not self._by_peer[connection.peer]:
            del self._by_peer[connection.peer]

    def enforce_deadlines(self, now: float) -> None:
        """Close the connections whose deadline has passed."""
        for connection in list(self.connections):
            if isinstance(connection, BoundedConnection):
                connection.check_deadline(now)

    def abort_all(self) -> None:
        """Close every remaining connection without a response."""
        for connection in list(self.connections):
            connection.transport.abort()


class _Flow(FlowControl):
    """uvicorn's flow control with a hold. Without it, an app that reads its body would also read pipelined requests."""

    is_held = False

    def hold(self) -> None:
        """Stop reading."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading unless held."""
        if not self.is_held:
            super().resume_reading()


class BoundedConnection(asyncio.Protocol, ABC):
    """Deadlines and limits of a connection, independent of its parser."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    flow: Any  # a _Flow, which uvicorn knows as its FlowControl
    server_state: Any  # a ConnectionRegistry, which uvicorn knows as its ServerState
    cycle: Any  # uvicorn's RequestResponseCycle, of its parser
    peer: str
    is_trusted_proxy: bool

    # When the current part of a request, or the wait for one, began; in the loop's seconds.
    _state_since: float
    _unsent: tuple[int, float]
    _bytes_without_progress: int = 0  # since the last end of a head or the last bytes of a body
    _is_all_framing: bool = False  # whether the last data of a body had only chunk framing
    _parse_rejection: Rejection  # to be sent if the parser fails
    _pending_rejection: Rejection | None = None  # sent after the outstanding responses; nothing more is read
    _is_shutting_down: bool = False

    @property
    def registry(self) -> ConnectionRegistry:
        """The registry of the listener's connections."""
        registry: ConnectionRegistry = self.server_state
        return registry

    @abstractmethod
    def request_part(self) -> RequestPart:
        """Return the part of a request that is being received."""

    @abstractmethod
    def has_pipelined(self) -> bool:
        """Return whether a request waits for the response to an earlier one."""

    @abstractmethod
    def start_pipelined(self) -> None:
        """Start the oldest request that waits for the response to an earlier one, if there is one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection if the limits allow it."""
        super().connection_made(transport)
        self.flow = _Flow(self.transport)
        self._parse_rejection = BAD_HTTP
        self._state_since = self.loop.time()
        self._unsent = (0, self._state_since)
        self.peer, self.is_trusted_proxy = self.registry.limits.proxies.identify(self.client)
        if not self.registry.admit(self):
            self.reject(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self.registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data of a request, and check the limits."""
        if self.transport.is_closing() or self._pending_rejection is not None:
            return
        before = self.request_part()
        super().data_received(data)
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
        """Close the connection because the listener stops.

        A new connection, or one with an incomplete request, gets a short grace period. Kling may send a callback only
        once, so it must not be cut off between the connection and the request.
        """
        self._is_shutting_down = True
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy or (self.cycle is not None and self.request_part() is RequestPart.NONE):
            super().shutdown()  # type: ignore[misc]  # uvicorn's, the other base class below
        else:
            self.loop.call_later(_SHUTDOWN_GRACE, self._finish_shutdown)

    def _finish_shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()  # type: ignore[misc]  # as above

    def on_response_complete(self) -> None:
        """Start waiting for the next request."""
        self._state_since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.start_pipelined()
        self._hold_pipeline()
        self.flow.resume_reading()
        if self._pending_rejection is not None and not self._is_responding():
            self.reject(self._pending_rejection)

    def send_400_response(self, _msg: str) -> None:
        """Reject what the parser could not read. uvicorn's own response could end up inside a half-sent one."""
        self.reject(self._parse_rejection)

    def check_deadline(self, now: float) -> None:
        """Close the connection if its deadline has passed."""
        limits = self.registry.limits
        if now - self._state_since < self.registry.shortest_limit and not self.transport.get_write_buffer_size():
            return
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
        """Return whether the connection can be closed without losing a complete request."""
        return not self._is_responding() and not self.transport.is_closing()

    def eviction_rank(self) -> tuple[bool, int, float]:
        """Return the rank among idle connections; the lowest is evicted.

        Kept longest are connections that were served before, then those of peers with few connections, then the
        newest.
        """
        return self.was_served(), -self.registry.connections_of(self), self._state_since

    def was_served(self) -> bool:
        """Return whether the connection waits for another request after earlier ones."""
        return self.cycle is not None and self.request_part() is RequestPart.NONE

    def reject(self, rejection: Rejection) -> None:
        """Send the reason and close. Complete requests get their responses first."""
        if self.transport.is_closing() or (self._pending_rejection is not None and self._is_responding()):
            return
        log.debug("connection.refused", peer=self.peer, code=rejection.code)
        if self._is_responding():
            self.cycle.keep_alive = False
            self._pending_rejection = rejection
            self.flow.hold()
        elif self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        elif self.cycle is not None and self.request_part() is RequestPart.BODY and self.cycle.response_complete:
            self.transport.close()  # the request has its response; a second one would belong to no request
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
