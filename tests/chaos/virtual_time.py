"""Time that advances only when all work is done, so that weeks run in seconds and deterministically.

The loop is asyncio's own. Instead of sleeping until the next timer, its clock jumps there. No connected sockets and no
threads take part.
"""

import asyncio
import math
import selectors
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import pytest
from harness.clock import START
from harness.logs import configure_plain_logs

from receiver.domain.clock import SystemClock

INCARNATION: ContextVar[int] = ContextVar("incarnation", default=0)
"""The number of the simulated process that work belongs to; 0 is the outside world."""

T = TypeVar("T")

_MAX_IDLE_TURNS = 200_000
"""This many turns of the loop without a time step mean that a task is busy-waiting."""


class Network(Protocol):
    """The replacement for sockets."""

    async def dial(self, address: str) -> None:
        """Connect to an address, or raise an OSError."""
        ...

    def connection(self, sock: socket.socket, address: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Return the open connection."""
        ...


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time, counted in microseconds."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self.microseconds = 0
        self.idle_turns = 0
        self.network: Network | None = None
        self._dialled: dict[socket.socket, str] = {}
        self._busy: Counter[str] = Counter()
        super().__init__(selector or _TimeJumpSelector(self))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.microseconds / 1e6

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect through the simulated network instead of the system's."""
        await self._require_network().dial(address[0])
        self._dialled[sock] = address[0]

    async def create_connection(  # type: ignore[override]  # only over a connected socket
        self, protocol_factory: Callable[[], asyncio.Protocol], *, sock: socket.socket
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Attach a protocol to a connection of the simulated network."""
        protocol = protocol_factory()
        transport = self._require_network().connection(sock, self._dialled.pop(sock), protocol)
        protocol.connection_made(transport)
        return transport, protocol

    def _require_network(self) -> Network:
        if self.network is None:
            raise RuntimeError("there is no network in this world")
        return self.network

    def advance(self, seconds: float | None) -> None:
        """Advance to the next timer."""
        if seconds is None:
            raise RuntimeError("everybody waits and nothing is ever going to happen")
        if seconds > 0:
            self.microseconds += max(1, math.ceil(seconds * 1e6))
            self.idle_turns = 0
            return
        self.idle_turns += 1
        if self.idle_turns > _MAX_IDLE_TURNS:
            self._busy.update(_describe_handle(each) for each in self._ready)  # type: ignore[attr-defined]  # private member of asyncio
        if self.idle_turns > _MAX_IDLE_TURNS + 100:
            busy = "\n".join(f"{count} {what}" for what, count in self._busy.most_common(10))
            raise RuntimeError(f"a task is busy-waiting: the loop turns and no time passes\n{busy}")


def _describe_handle(handle: asyncio.Handle) -> str:
    """Return the task behind a callback and its position."""
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]  # private member of asyncio
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
    """A selector that waits only for time."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.advance(timeout)
        return []


def run_in_virtual_time(
    make_run: Callable[[pytest.MonkeyPatch], Coroutine[Any, Any, T]],
    *,
    make_loop: Callable[[], VirtualLoop] = VirtualLoop,
) -> T:
    """Run a coroutine on a virtual loop. It gets the patch that is undone at the end."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=make_loop) as runner:
        try:
            return runner.run(make_run(patch))
        finally:
            configure_plain_logs()


class VirtualClock(SystemClock):
    """The system clock on a virtual loop. Waiting uses loop time; the clock can be set wrong."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset = timedelta()

    def now(self) -> datetime:
        return START + timedelta(microseconds=self._loop.microseconds) + self.offset

    def monotonic(self) -> float:
        """Return the elapsed seconds, independent of the clock; named as in ``time``."""
        return self._loop.time()
