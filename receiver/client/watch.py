"""Polls a task or batch until it is finished; the event stream triggers polls early."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from receiver.client.event_signal import EventSignal
from receiver.domain.errors import ServiceUnreachable


class Watchable(Protocol):
    """Something that is polled until it is finished."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing further will change."""
        ...

    @property
    def fingerprint(self) -> object:
        """Differs whenever there is something new to report."""
        ...

    @property
    def poll_every(self) -> float | None:
        """The maximum number of seconds between polls; None if events report every change."""
        ...


S = TypeVar("S", bound=Watchable)
Fetch: TypeAlias = Callable[[float | None], Awaitable[S]]
"""Polls once, and tolerates an outage of at most that many seconds."""


async def watch(
    fetch: Fetch[S], signal_for: Callable[[S], AbstractAsyncContextManager[EventSignal]], max_seconds: float | None
) -> AsyncGenerator[S, None]:
    """Yield the current value and each changed one, until it is finished or *max_seconds* have passed."""
    time = asyncio.get_running_loop().time
    ends_at = None if max_seconds is None else time() + max_seconds
    current = await fetch(max_seconds)
    yield current
    async with signal_for(current) as signal:
        while not current.is_finished:
            remaining = None if ends_at is None else ends_at - time()
            if remaining is not None and remaining <= 0:
                return
            await signal.wait(remaining if current.poll_every is None else shorter(remaining, current.poll_every))
            before = current
            try:
                current = await fetch(remaining)
            except ServiceUnreachable:
                if ends_at is None or time() < ends_at:
                    raise
                return
            if current.fingerprint != before.fingerprint:
                yield current


def shorter(one: float | None, other: float) -> float:
    """Return the shorter of two durations; None means unlimited."""
    return other if one is None else max(0.0, min(one, other))
