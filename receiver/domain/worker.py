"""The loop of a background worker, and a set of the asyncio tasks that a worker owns.

Every worker has the same rule: it finds its work in the store. A store that is unavailable delays work and loses none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import Context
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import WakeUp

log = structlog.get_logger()
T = TypeVar("T")

STORE_RETRY_DELAY = timedelta(seconds=1)
"""How long a worker waits after the store was unavailable."""


async def run_worker(
    step: Callable[[], Awaitable[datetime | None]],
    *,
    wake: WakeUp,
    stop: asyncio.Event,
    clock: Clock,
    name: str,
    retry_delay: timedelta = STORE_RETRY_DELAY,
) -> None:
    """Run *step* until *stop*: each time *wake* is set, and at the time that the last step returned.

    A step that returns None is repeated only after *wake*. If the store is unavailable, ``<name>.delayed`` is logged
    and the step is repeated after *retry_delay*. The service sets *wake* when it sets *stop*.
    """
    delayed = f"{name}.delayed"
    while not stop.is_set():
        wake.clear()
        wake.planned_at = None  # not while it works
        try:
            until = await step()
        except StoreUnavailable as exc:  # for example a full disk; due work stays due
            log.warning(delayed, reason=exc.message)
            until = clock.now() + retry_delay
        wake.planned_at = until
        await clock.wait(wake, until=until)


class TaskSet:
    """The asyncio tasks that a worker owns: none is garbage-collected early, and none fails silently."""

    def __init__(self, failure_event: str) -> None:
        """*failure_event* is the log event of a task that raises."""
        self._failure_event = failure_event
        self._tasks: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator["asyncio.Task[object]"]:
        return iter(tuple(self._tasks))

    def spawn(
        self,
        work: Coroutine[object, object, T],
        *,
        on_done: Callable[[], None] | None = None,
        context: Context | None = None,
        **details: object,
    ) -> "asyncio.Task[T]":
        """Run *work* as an owned task and call *on_done*, if given, when it ends; *details* are logged if it fails.

        The task runs in a copy of the caller's context, or in *context*.
        """
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)

        def done(ended: "asyncio.Task[T]") -> None:
            self._tasks.discard(ended)
            if on_done is not None:
                on_done()
            if not ended.cancelled() and ended.exception() is not None:
                log.error(self._failure_event, exc_info=ended.exception(), **details)

        task.add_done_callback(done)
        return task

    def cancel(self) -> None:
        """Cancel every task; :meth:`drain` waits for their ends."""
        for task in self._tasks:
            task.cancel()

    async def drain(self, *, within: timedelta | None = None) -> None:
        """Wait until every task has ended, also those spawned meanwhile. After *within* the others keep running."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if within is None else within.total_seconds()):
                while self._tasks:
                    await asyncio.wait(self._tasks)
