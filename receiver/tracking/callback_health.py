"""Follows whether callbacks arrive. If they stop, running tasks are polled by plans until callbacks arrive again."""

import asyncio
from typing import Protocol

import structlog

from receiver.domain.clock import FAR_FUTURE, Clock
from receiver.domain.model import Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.store.interfaces import TaskStore
from receiver.tasks.callback_monitor import CallbackHealthChange, CallbackMonitor
from receiver.tasks.expected_ends import ExpectedEnds
from receiver.tasks.poll_schedule import MIN_POLL_GAP

log = structlog.get_logger()

_RUNNING = (TaskState.SUBMITTED, TaskState.PROCESSING)


class CallbackHealthObserver(Protocol):
    """Notified when callbacks stop arriving or resume."""

    async def on_callback_health(self, change: CallbackHealthChange) -> None:
        """Record that callbacks stopped arriving or resumed."""
        ...

    async def callbacks_missing(self) -> bool:
        """Return whether the last recorded change was that callbacks stopped arriving."""
        ...


class CallbackHealth:
    """Counts missed callbacks; it tells the observer of a change, and switches the polls over."""

    def __init__(
        self,
        task_store: TaskStore,
        ends: ExpectedEnds,
        observer: CallbackHealthObserver | None,
        *,
        notifiers: Notifiers,
        clock: Clock,
    ) -> None:
        """Without an *observer*, no callback is expected, so none is missed."""
        self._task_store = task_store
        self._ends = ends
        self._observer = observer
        self._notifiers = notifiers
        self._clock = clock
        self._started_at = clock.now()
        self._monitor = CallbackMonitor()
        self._is_restored = False

    @property
    def missed(self) -> int:
        """How many tasks have ended without their callback."""
        return self._monitor.missed

    def record_callback(self, task_id: str) -> None:
        """Record that a callback reported a task's end."""
        self._monitor.record_callback(task_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Begin anew when this process begins to poll, because another may have polled before. Wait for *stop*."""
        self._monitor, self._is_restored, self._started_at = CallbackMonitor(), False, self._clock.now()
        self._ends.callbacks_missing = False
        await self.restore()
        await stop.wait()

    async def restore(self) -> None:
        """Restore that callbacks were missing before a restart."""
        if self._is_restored or self._observer is None:
            return
        self._is_restored = True
        if await self._observer.callbacks_missing():
            self._monitor.restore()
            self._ends.callbacks_missing = True

    async def record_end(self, before: Task) -> None:
        """Record whether a finished task had its callback, if one was due while this process ran."""
        last_seen_at = before.polling.at or before.started_at or before.created_at
        if self._observer is None or before.token_hash is None or last_seen_at < self._started_at:
            return
        await self.restore()
        change = self._monitor.record_end(before.id)
        if change is None:
            return
        self._ends.callbacks_missing = change.is_missing
        await self._observer.on_callback_health(change)
        if change.is_missing:
            await self.poll_running("Callbacks are missing.")

    async def poll_running(self, why: str) -> None:
        """Poll all running tasks soon: their next polls were planned by what was known before."""
        soon = self._clock.now() + MIN_POLL_GAP  # not at once: a task whose poll is in flight would be polled twice
        count = await self._task_store.make_due(_RUNNING, now=soon, before=FAR_FUTURE, min_gap=MIN_POLL_GAP)
        log.info("polls.replanned", tasks=count, reason=why)
        self._notifiers.polls.notify()
