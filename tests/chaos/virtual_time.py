"""Time that passes only when nobody has anything left to do, so that weeks go by in seconds and always the same way.

The loop is asyncio's own. Where it would sleep until the next timer, its clock jumps there. Nothing of the outside
world takes part: no connected sockets, no threads.
"""

import asyncio
import math
import selectors
import socket
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Protocol

from harness.support import START

from receiver.domain.clock import SystemClock

_MAX_IDLE_TURNS = 200_000
"""So many turns of the loop at one moment mean that somebody waits for something by asking again and again."""


class Network(Protocol):
    """What there is in the place of sockets."""

    async def dial(self, address: str) -> None:
        """Have a connection made, or raise an OSError."""
        ...

    def connection(self, sock: socket.socket, address: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection that was made."""
        ...


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is counted in microseconds of its own."""

    def __init__(self) -> None:
        self.microseconds = 0
        self.idle_turns = 0
        self.network: Network | None = None
        self._dialled: dict[socket.socket, str] = {}
        self._busy: Counter[str] = Counter()
        super().__init__(_TimeJumpSelector(self))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.microseconds / 1e6

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Have the network of this world connect, in the place of the system's."""
        await self._require_network().dial(address[0])
        self._dialled[sock] = address[0]

    async def create_connection(  # type: ignore[override]  # over a connected socket, which is all that is wanted
        self, protocol_factory: Callable[[], asyncio.Protocol], *, sock: socket.socket
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Put a protocol on a connection that the network of this world has made."""
        protocol = protocol_factory()
        transport = self._require_network().connection(sock, self._dialled.pop(sock), protocol)
        protocol.connection_made(transport)
        return transport, protocol

    def _require_network(self) -> Network:
        if self.network is None:
            raise RuntimeError("there is no network in this world")
        return self.network

    def advance(self, seconds: float | None) -> None:
        """Go on to the moment of the next timer."""
        if seconds is None:
            raise RuntimeError("everybody waits and nothing is ever going to happen")
        if seconds > 0:
            self.microseconds += max(1, math.ceil(seconds * 1e6))
            self.idle_turns = 0
            return
        self.idle_turns += 1
        if self.idle_turns > _MAX_IDLE_TURNS:
            self._busy.update(_describe_handle(each) for each in self._ready)  # type: ignore[attr-defined]  # asyncio's own list
        if self.idle_turns > _MAX_IDLE_TURNS + 100:
            busy = "\n".join(f"{count} {what}" for what, count in self._busy.most_common(10))
            raise RuntimeError(f"somebody spins: the loop turns and turns and no time passes\n{busy}")


def _describe_handle(handle: asyncio.Handle) -> str:
    """Name the task behind a callback, and where it is."""
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]  # asyncio's own
    if not isinstance(task, asyncio.Task):
        return repr(handle)
    return " < ".join(f"{frame.f_code.co_name}:{frame.f_lineno}" for frame in reversed(_frames(task.get_coro())))


def _frames(work: Any) -> list[Any]:
    frames = []
    while work is not None and getattr(work, "cr_frame", None) is not None:
        frames.append(work.cr_frame)
        work = work.cr_await
    return frames


class _TimeJumpSelector(selectors.DefaultSelector):
    """Waits for nothing but time."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.advance(timeout)
        return []


class VirtualClock(SystemClock):
    """The machine's clock on a virtual loop: waiting is the real thing, and it can be set wrong."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset = timedelta()

    def now(self) -> datetime:
        return START + timedelta(microseconds=self._loop.microseconds) + self.offset

    def monotonic(self) -> float:
        """Tell the seconds that have gone by, whatever the clock was set to; named as in ``time``."""
        return self._loop.time()
