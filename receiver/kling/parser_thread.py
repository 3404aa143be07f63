"""Runs the parsing of large bodies in one thread, so that the event loop does not pause.

One thread, because each running thread may delay the loop by 5 ms whenever it wakes up.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

LARGE = 64 * 1024
"""Bodies up to this size are parsed at once: the switch to a thread would take longer."""

P = ParamSpec("P")
T = TypeVar("T")

_executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parser")


async def run(size: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *function* returns, which parses *size* bytes. Runs it in the parser thread if they are many."""
    if size <= LARGE:
        return function(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_executor, partial(function, *args, **kwargs))
