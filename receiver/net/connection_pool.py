"""Keep-alive connections and a pool of idle ones."""

import asyncio
import contextlib
import select
from dataclasses import dataclass
from datetime import timedelta

import httpcore2

MAX_AGE = timedelta(seconds=60)
"""A connection is used no longer than this, so that a name is resolved again even under constant traffic."""

IDLE_SECONDS = 4.0  # below the 5 s after which uvicorn and node close: a request must not meet a closing connection
CHUNK_SIZE = 64 * 1024
_MAX_UNREAD = 256 * 1024
_CLOSING_SECONDS = 1.0


class Connection(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """The byte stream of one connection, without a task or a timeout per read: the request has one deadline.

    Writes are buffered until a chunk is full or a response is read, so that headers and body leave together.
    """

    def __init__(self, open_connections: set["Connection"]) -> None:
        self.sent = False
        self.received = False
        self.error: Exception | None = None
        self._open_connections = open_connections
        self._transport: asyncio.Transport | None = None
        self._write_buffer: list[bytes] = []
        self._read_buffer = bytearray()
        self._ended = False
        self._read_paused = False
        self._write_paused = False
        self._waiter: asyncio.Future[None] | None = None

    def reset(self) -> None:
        """Clear the flags of the previous request."""
        self.sent = self.received = False

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._transport is not None

    def abort(self) -> None:
        """Close at once and drop unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = transport  # type: ignore[assignment]  # a stream socket has a full transport

    def data_received(self, data: bytes) -> None:
        """Buffer *data*, and pause reading when the buffer is large."""
        self.received = True
        self._read_buffer += data
        if len(self._read_buffer) > _MAX_UNREAD and self._transport is not None and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        self._notify_waiter()

    def eof_received(self) -> None:
        """Note that the peer has ended; the loop closes the connection."""
        self._ended = True
        self._notify_waiter()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and the error that caused it, if any."""
        self._ended = True
        self.error = exc
        self._transport = None  # a closed transport must not be used again
        self._open_connections.discard(self)
        self._notify_waiter()

    def pause_writing(self) -> None:
        """Note that the peer reads too slowly."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Note that the peer has caught up."""
        self._write_paused = False
        self._notify_waiter()

    # Called by the HTTP connection.

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109  # httpcore's signature
        """Send *buffer*, or buffer it until there is more."""
        self._write_buffer.append(buffer)
        if len(self._write_buffer) > 1 and sum(map(len, self._write_buffer)) > CHUNK_SIZE:
            await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109  # httpcore's signature
        """Return the bytes received so far; empty once the peer has ended. The event loop bounds their size."""
        if self._write_buffer:
            with contextlib.suppress(httpcore2.WriteError):  # the peer may have answered before it closed
                await self._flush()
        while not self._read_buffer and not self._ended:
            await self._wait_for_change()
        if not self._read_buffer and (self.error is not None or not self.received):
            raise httpcore2.ReadError("closed")
        data = bytes(self._read_buffer)
        self._read_buffer.clear()
        if self._read_paused and self._transport is not None and not self._ended:
            self._read_paused = False
            self._transport.resume_reading()
        return data

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    def get_extra_info(self, info: str) -> bool | None:
        """Return whether an idle connection is readable, which can only mean that the peer closed it."""
        return (self._ended or bool(self._read_buffer) or self._is_readable()) if info == "is_readable" else None

    def _is_readable(self) -> bool:
        """Poll the socket itself: the event loop may not have noticed yet that the peer closed."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def _flush(self) -> None:
        data, self._write_buffer = b"".join(self._write_buffer), []
        if self._transport is None or self._transport.is_closing():
            raise httpcore2.WriteError("closed")
        self.sent = True
        self._transport.write(data)
        while self._write_paused and not self._ended:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _notify_waiter(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class PooledConnection:
    """A connection and its HTTP/1.1 state."""

    connection: Connection
    http: httpcore2.AsyncHTTP11Connection
    retire_at: float

    @property
    def is_reusable(self) -> bool:
        """Whether the next request may go over it: it is idle, open, and neither idle for too long nor too old."""
        is_old = asyncio.get_running_loop().time() >= self.retire_at
        return self.http.is_idle() and not is_old and not self.http.has_expired()


class ConnectionPool:
    """All open connections, and which are idle. Only ``aclose`` awaits, so that no cancellation can lose one."""

    def __init__(self, *, max_idle: int, max_age: timedelta) -> None:
        self._max_idle = max_idle
        self._max_age = max_age.total_seconds()
        self._open: set[Connection] = set()
        self._idle: dict[str, list[PooledConnection]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    def new_connection(self) -> Connection:
        """Make a connection object for the dialer."""
        return Connection(self._open)

    def register(self, connection: Connection, origin: httpcore2.Origin) -> PooledConnection:
        """Track a connection that was just opened, unless it has already closed."""
        if connection.is_open:
            self._open.add(connection)
        http = httpcore2.AsyncHTTP11Connection(origin, connection, keepalive_expiry=IDLE_SECONDS)
        return PooledConnection(connection, http, asyncio.get_running_loop().time() + self._max_age)

    def acquire(self, origin: str) -> PooledConnection | None:
        """Return the most recently used idle connection to *origin* that is still open, or None."""
        idle = self._idle.get(origin, [])
        while idle:
            pooled = idle.pop()
            if pooled.is_reusable:
                return pooled
            pooled.connection.abort()
        return None

    def release(self, origin: str, pooled: PooledConnection) -> None:
        """Keep the connection if its request completed cleanly and there is capacity; otherwise close it."""
        if not pooled.http.is_idle() or sum(map(len, self._idle.values())) >= self._max_idle:
            pooled.connection.abort()
            return
        self._idle.setdefault(origin, []).append(pooled)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_expired)

    def _close_expired(self) -> None:
        """Close connections that were idle too long, or are too old."""
        self._sweep_timer = None
        for origin, idle in list(self._idle.items()):
            del self._idle[origin]
            for pooled in idle:
                if pooled.is_reusable:
                    self._idle.setdefault(origin, []).append(pooled)
                else:
                    pooled.connection.abort()
        if self._idle:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_expired)

    async def aclose(self) -> None:
        """Close all connections and wait up to a second until they are released."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                while self._open:  # noqa: ASYNC110  # an event would cost more than this short wait
                    await asyncio.sleep(0)
