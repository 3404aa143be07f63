"""Open connections: the bytes of each, and which of them are idle."""

import asyncio
import contextlib
import select
from dataclasses import dataclass

import httpcore2

IDLE_SECONDS = 4.0  # under the 5 s after which uvicorn and node hang up: a request must not meet a closing connection
PIECE = 64 * 1024
_MAX_UNREAD = 256 * 1024
_CLOSING_SECONDS = 1.0


class Wire(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection's bytes, without a task or a time-out per read: the deadline around the request is enough.

    What is written is kept until a piece is full or an answer is wanted, so that headers and body leave together.
    """

    def __init__(self, open_wires: set["Wire"]) -> None:
        self.wrote = False
        self.heard = False
        self.trouble: Exception | None = None
        self._open_wires = open_wires
        self._transport: asyncio.Transport | None = None
        self._outbox: list[bytes] = []
        self._inbox = bytearray()
        self._ended = False
        self._paused = False
        self._choked = False
        self._change: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Forget the exchange before."""
        self.wrote = self.heard = False

    @property
    def stands(self) -> bool:
        """Whether there is a connection to close."""
        return self._transport is not None

    def abort(self) -> None:
        """Close at once; what is still unsent is not wanted any more."""
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that the connection stands."""
        self._transport = transport  # type: ignore[assignment]  # of a stream socket it is a full transport

    def data_received(self, data: bytes) -> None:
        """Keep what came until it is asked for, and ask the peer to wait when that grows large."""
        self.heard = True
        self._inbox += data
        if len(self._inbox) > _MAX_UNREAD and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        """Note that the peer says no more; the loop closes the connection by itself."""
        self._ended = True
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and the trouble that brought it, if any."""
        self._ended = True
        self.trouble = exc
        self._transport = None  # what is gone must not be called again
        self._open_wires.discard(self)
        self._tell()

    def pause_writing(self) -> None:
        """Note that the peer does not keep up."""
        self._choked = True

    def resume_writing(self) -> None:
        """Note that the peer has caught up."""
        self._choked = False
        self._tell()

    # What the HTTP connection calls.

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109  # httpcore's
        """Send, or keep until there is more to send."""
        self._outbox.append(buffer)
        if len(self._outbox) > 1 and sum(map(len, self._outbox)) > PIECE:
            await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109  # httpcore's
        """Give what has come in, nothing at all once the peer has ended; *max_bytes* is the loop's to keep."""
        if self._outbox:
            with contextlib.suppress(httpcore2.WriteError):  # the peer may have answered before it hung up
                await self._flush()
        while not self._inbox and not self._ended:
            await self._wait()
        if not self._inbox and (self.trouble is not None or not self.heard):
            raise httpcore2.ReadError("closed")
        data = bytes(self._inbox)
        self._inbox.clear()
        if self._paused and self._transport is not None and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    def get_extra_info(self, info: str) -> bool | None:
        """Tell whether an idle connection has something to say, which can only be its end."""
        return (self._ended or bool(self._inbox) or self._is_readable()) if info == "is_readable" else None

    def _is_readable(self) -> bool:
        """Ask the system itself: the loop may not have looked since the peer hung up."""
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if self._transport is None or self._transport.is_closing():
            raise httpcore2.WriteError("closed")
        self.wrote = True
        self._transport.write(data)
        while self._choked and not self._ended:
            await self._wait()

    async def _wait(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        try:
            await self._change
        finally:
            self._change = None

    def _tell(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)


@dataclass(frozen=True, slots=True)
class Line:
    """A wire and the HTTP that is spoken over it."""

    wire: Wire
    connection: httpcore2.AsyncHTTP11Connection


class Lines:
    """Every open connection, and which of them are idle. Nothing here awaits, so that no cancellation can lose one."""

    def __init__(self, *, most_idle: int) -> None:
        self._most_idle = most_idle
        self._open: set[Wire] = set()
        self._idle: dict[str, list[Line]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def wire(self) -> Wire:
        """Make the wire of a new connection."""
        return Wire(self._open)

    def add(self, wire: Wire, origin: httpcore2.Origin) -> Line:
        """Take in a connection that has just been made, unless it has already ended."""
        if wire.stands:
            self._open.add(wire)
        return Line(wire, httpcore2.AsyncHTTP11Connection(origin, wire, keepalive_expiry=IDLE_SECONDS))

    def take(self, origin: str) -> Line | None:
        """Take the idle connection to *origin* that was used last, if it still stands."""
        idle = self._idle.get(origin, [])
        while idle:
            line = idle.pop()
            if not line.connection.has_expired():
                return line
            line.wire.abort()
        return None

    def give_back(self, origin: str, line: Line) -> None:
        """Keep a connection whose exchange ended in order, drop any other."""
        if not line.connection.is_idle() or sum(map(len, self._idle.values())) >= self._most_idle:
            line.wire.abort()
            return
        self._idle.setdefault(origin, []).append(line)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody used for a while."""
        self._sweeping = None
        for origin, lines in list(self._idle.items()):
            for line in lines:
                if line.connection.has_expired():
                    line.wire.abort()
            self._idle[origin] = [line for line in lines if not line.connection.has_expired()]
            if not self._idle[origin]:
                del self._idle[origin]
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    async def aclose(self) -> None:
        """Close all and wait a moment until the system has them back."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._idle.clear()
        for wire in tuple(self._open):
            wire.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                while self._open:  # noqa: ASYNC110  # an event for this would outweigh the wait
                    await asyncio.sleep(0)
