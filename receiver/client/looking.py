"""Looking at something again and again until it is over: the stream of events says when it is worth it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar

from receiver.errors import ReceiverError, ServiceUnreachable

RECONNECT_SECONDS = 1.0

_ASK_ANYWAY_SECONDS = 15.0  # with the stream there: a bell may be missed
_ASK_SECONDS = 2.0  # without it

Listen: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[object]]]
"""Opens the stream of events; entered once it has begun."""


class Sight(Protocol):
    """What is looked at until it is over."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""
        ...

    @property
    def sight(self) -> object:
        """What has changed where two looks differ."""
        ...

    @property
    def look_every(self) -> float | None:
        """How many seconds apart to look at the most; None where the stream says enough."""
        ...


S = TypeVar("S", bound=Sight)
Look: TypeAlias = Callable[[float | None], Awaitable[S]]
"""Looks once, and bears an outage for so many seconds at the most."""


class Bell:
    """Listens to the stream of events, across reconnects, and tells when it is worth asking again."""

    def __init__(self, listen: Listen) -> None:
        self._open = listen
        self._rung = asyncio.Event()
        self._connected = False

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def wait(self, at_most: float | None = None) -> None:
        """Wait until it is worth asking again, at the longest *at_most* seconds."""
        patience = _ASK_ANYWAY_SECONDS if self._connected else _ASK_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(shorter(at_most, patience)):
                await self._rung.wait()
        self._rung.clear()

    async def _listen(self) -> None:
        while True:
            with suppress(ReceiverError):  # asking by the clock goes on meanwhile
                async with self._open() as events:
                    self._connected = True
                    self._rung.set()  # for what happened before we listened
                    async for _ in events:
                        self._rung.set()
            self._connected = False
            await asyncio.sleep(RECONNECT_SECONDS)


async def looks(look: Look[S], bell_of: Callable[[S], Bell], length: float | None) -> AsyncGenerator[S, None]:
    """Give what is seen now and each time it looks different, until it is over or *length* seconds have passed."""
    time = asyncio.get_running_loop().time
    ends_at = None if length is None else time() + length
    seen = await look(length)
    yield seen
    async with bell_of(seen) as bell:
        while not seen.is_over:
            left = None if ends_at is None else ends_at - time()
            if left is not None and left <= 0:
                return
            await bell.wait(left if seen.look_every is None else shorter(left, seen.look_every))
            before = seen
            try:
                seen = await look(left)
            except ServiceUnreachable:
                if ends_at is None or time() < ends_at:
                    raise
                return
            if seen.sight != before.sight:
                yield seen


def shorter(one: float | None, other: float) -> float:
    """Give the shorter of two times, the first of which may be endless."""
    return other if one is None else max(0.0, min(one, other))
