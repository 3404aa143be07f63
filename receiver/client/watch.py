"""Looking at something again and again until it is over: the stream of events says when it is worth it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from receiver.client.event_signal import Bell
from receiver.domain.errors import ServiceUnreachable


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


async def looks(
    look: Look[S], bell_of: Callable[[S], AbstractAsyncContextManager[Bell]], length: float | None
) -> AsyncGenerator[S, None]:
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
