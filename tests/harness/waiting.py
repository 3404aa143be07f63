"""Waits for a condition instead of for time."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 10.0, interval: float = 0.005
) -> None:
    """Wait until *condition* is true, checked every *interval* seconds. Raise TimeoutError after *seconds*."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(interval)
