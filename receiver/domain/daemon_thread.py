"""Runs a blocking function in a thread of its own that may hang without keeping anything waiting."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(function: Callable[[], T], *, name: str) -> T:
    """Call *function* in a new daemon thread and return its result.

    The loop's executor has few threads, and the end of the process waits for them. A resolver or a network file system
    that hangs for half a minute must block neither. If the caller is cancelled, the result is dropped.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = function()
        except Exception as exc:  # noqa: BLE001 -- the caller gets it
            complete(outcome.set_exception, exc)
        else:
            complete(outcome.set_result, result)

    def complete(set_outcome: Callable[..., None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits for this
            loop.call_soon_threadsafe(lambda: None if outcome.done() else set_outcome(value))

    threading.Thread(target=call, name=name, daemon=True).start()
    return await outcome
