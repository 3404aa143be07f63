"""Looking at something again and again until it is over: the stream of events says when it is worth it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from receiver.client.event_signal import EventSignal
from receiver.domain.errors import ServiceUnreachable


class Watchable(Protocol):
    """What is looked at until it is over."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be waited for."""
        ...

    @property
    def fingerprint(self) -> object:
        """What has changed where two looks differ."""
        ...

    @property
    def poll_every(self) -> float | None:
        """How many seconds apart to look at the most; None where the stream says enough."""
        ...


S = TypeVar("S", bound=Watchable)
Fetch: TypeAlias = Callable[[float | None], Awaitable[S]]
"""Looks once, and bears an outage for so many seconds at the most."""


async def watch(
    fetch: Fetch[S], signal_for: Callable[[S], AbstractAsyncContextManager[EventSignal]], max_seconds: float | None
) -> AsyncGenerator[S, None]:
    """Give what is seen now and each time it looks different, until it is over or *length* seconds have passed."""
    time = asyncio.get_running_loop().time
    ends_at = None if max_seconds is None else time() + max_seconds
    seen = await fetch(max_seconds)
    yield seen
    async with signal_for(seen) as bell:
        while not seen.is_finished:
            left = None if ends_at is None else ends_at - time()
            if left is not None and left <= 0:
                return
            await bell.wait(left if seen.poll_every is None else shorter(left, seen.poll_every))
            before = seen
            try:
                seen = await fetch(left)
            except ServiceUnreachable:
                if ends_at is None or time() < ends_at:
                    raise
                return
            if seen.fingerprint != before.fingerprint:
                yield seen


def shorter(one: float | None, other: float) -> float:
    """Give the shorter of two times, the first of which may be endless."""
    return other if one is None else max(0.0, min(one, other))
