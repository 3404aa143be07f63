"""The bytes of one connection."""

import asyncio
import contextlib
import select

PIECE = 64 * 1024
_MAX_UNREAD = 256 * 1024


class Cut(Exception):
    """The connection is gone."""


class Wire(asyncio.Protocol):
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

    async def write(self, data: bytes) -> None:
        """Send, or keep until there is more to send. Raises Cut."""
        self._outbox.append(data)
        if len(self._outbox) > 1 and sum(map(len, self._outbox)) > PIECE:
            await self._flush()

    async def read(self) -> bytes:
        """Give what has come in, nothing at all once the peer has ended. Raises Cut where it broke off."""
        if self._outbox:
            with contextlib.suppress(Cut):  # the peer may have answered before it hung up
                await self._flush()
        while not self._inbox and not self._ended:
            await self._wait()
        if not self._inbox and (self.trouble is not None or not self.heard):
            raise Cut
        data = bytes(self._inbox)
        self._inbox.clear()
        if self._paused and self._transport is not None and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read, be it the end. The loop may not have looked: the system is asked."""
        if self._ended or self._inbox:
            return True
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if self._transport is None or self._transport.is_closing():
            raise Cut
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
