"""Open connections, the HTTP/1.1 that is spoken over each, and which of them are idle.

h11 holds both sides to the protocol; what it does not do, waiting and timing, the wire and the request do.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TypeAlias

import h11

from receiver.outbound.wire import PIECE, Cut, Wire

IDLE_SECONDS = 4.0  # under the 5 s after which uvicorn and node hang up: a request must not meet a closing connection
_LONGEST_HEAD = 100 * 1024
_CLOSING_SECONDS = 1.0

_Heard: TypeAlias = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class Line:
    """One connection, and the one exchange at a time that takes place on it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._idle_since = 0.0

    async def ask(self, request: h11.Request, content: bytes) -> h11.Response:
        """Send a request and wait for the head of its answer. Raises Cut or h11's ProtocolError."""
        self.wire.begin()
        with contextlib.suppress(Cut):  # the peer may have answered before it hung up
            await self._say(request)
            for start in range(0, len(content), PIECE):
                await self._say(h11.Data(data=content[start : start + PIECE]))
            await self._say(h11.EndOfMessage())
        while not isinstance(heard := await self._hear(), h11.Response):
            continue  # an interim answer
        return heard

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Give the answer's body as it comes."""
        while isinstance(heard := await self._hear(), h11.Data):
            yield bytes(heard.data)

    def rest(self) -> bool:
        """Make ready for the next exchange; False where the last one did not end in order."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._idle_since = time.monotonic()
        return True

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection is too old, or has something to say, which can only be its end."""
        return time.monotonic() - self._idle_since > IDLE_SECONDS or self.wire.is_readable

    async def _say(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            await self.wire.write(data)

    async def _hear(self) -> _Heard:
        while (heard := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.wire.read())
        return heard


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

    def add(self, wire: Wire) -> Line:
        """Take in a connection that has just been made, unless it has already ended."""
        if wire.stands:
            self._open.add(wire)
        return Line(wire)

    def take(self, origin: str) -> Line | None:
        """Take the idle connection to *origin* that was used last, if it still stands."""
        idle = self._idle.get(origin, [])
        while idle:
            line = idle.pop()
            if not line.is_stale:
                return line
            line.wire.abort()
        return None

    def give_back(self, origin: str, line: Line) -> None:
        """Keep a connection whose exchange ended in order, drop any other."""
        if not line.rest() or sum(map(len, self._idle.values())) >= self._most_idle:
            line.wire.abort()
            return
        self._idle.setdefault(origin, []).append(line)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody used for a while."""
        self._sweeping = None
        for origin, lines in list(self._idle.items()):
            self._idle[origin] = []
            for line in lines:
                if line.is_stale:
                    line.wire.abort()
                else:
                    self._idle[origin].append(line)
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
