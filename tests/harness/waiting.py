"""Waits for a condition instead of for time."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

RAREST = 0.05
"""The longest pause between two checks of a condition, in seconds, unless a longer one is asked for."""


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 60.0, interval: float = 0.005
) -> None:
    """Wait until *condition* is true. Raise TimeoutError after *seconds*.

    It is checked every *interval* seconds at first. The longer a wait lasts, the rarer its checks are, up to 20 a
    second, because many of them read a database.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(max(interval, min((loop.time() - began) / 10, RAREST)))


async def wait_until_none_left(count: Callable[[], int], *, idle_seconds: float = 30.0, interval: float = 0.05) -> None:
    """Wait until *count* is 0. Raise TimeoutError once it has not fallen for *idle_seconds*, however long it takes."""
    left = count()

    def has_fallen() -> bool:
        nonlocal left
        before, left = left, min(left, count())
        return left < before

    while left:
        await wait_until(has_fallen, seconds=idle_seconds, interval=interval)


async def let_loop_run(turns: int = 20) -> None:
    """Let the event loop do what is ready, and what becomes ready by it."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def wait_until_steady(value: Callable[[], int], *, checks: int = 50) -> None:
    """Wait until *value* is the same in so many checks in a row."""
    last, same = value(), 0
    async with asyncio.timeout(60):
        while True:
            last, same = value(), same + 1 if value() == last else 0
            if same >= checks:
                return
            await asyncio.sleep(0.005)
