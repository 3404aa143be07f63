"""Tells of a batch once, when all its tasks are over: one event that has their counts and results.

Tasks end wherever news of them comes in, and nobody there knows of batches: a bell says that a task of some batch is
over, and what follows is decided here from what is stored. So a crash in between costs nothing: the next start looks.
The moment itself is one transaction: the batch is noted as finished, and the event that says so is stored with its
deliveries, or nothing is.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import BatchState, BatchView, FinishedBatch
from receiver.domain.clock import Clock
from receiver.domain.errors import NotFound, StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.events.payload import MAX_BATCH_TASKS, batch_data
from receiver.store.interfaces import Page

log = structlog.get_logger()

_RETRY_DELAY = timedelta(seconds=5)
_FAILURE_DELAY = timedelta(minutes=1)


class BatchStore(Protocol):
    """What a store keeps of batches."""

    async def close(self, name: str, *, now: datetime, action: AuditEntry) -> bool:
        """Let a batch take no more tasks in; False where it is not open."""
        ...

    async def list_complete(self) -> Sequence[str]:
        """Name batches that are closed and whose tasks are all over, their results home or given up, untold so far."""
        ...

    async def finish(
        self, name: str, make_event: Callable[[FinishedBatch], RoutedEvent], *, limit: int
    ) -> RoutedEvent | None:
        """Store what *announce* makes of a complete batch and its first *limit* tasks, in one transaction.

        None, and nothing written, where it is not complete, or was finished before.
        """
        ...

    async def find(self, name: str) -> BatchView | None:
        """Find a batch."""
        ...

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        ...


class BatchService:
    """Waits for the ends of batches, and closes them on a person's word."""

    def __init__(self, batches: BatchStore, event_factory: EventFactory, *, notifiers: Notifiers, clock: Clock) -> None:
        self._batches = batches
        self._event_factory = event_factory
        self._notifiers = notifiers
        self._clock = clock

    async def close(self, name: str, *, why: str, actor: str) -> BatchView:
        """Let a batch take no more tasks in, so that it is finished with those it has. Raises NotFound."""
        now = self._clock.now()
        action = AuditEntry(at=now, actor=actor, verb="batch.closed", subject=name, reason=why)
        if await self._batches.close(name, now=now, action=action):
            log.info("batch.closed", batch=name, actor=actor)
            self._notifiers.batches.notify()
        return await self.find(name)

    async def find(self, name: str) -> BatchView:
        """Find a batch. Raises NotFound."""
        view = await self._batches.find(name)
        if view is None:
            raise NotFound(f"There is no batch {name[:100]!r}.", remedy="A batch is there from its first task on.")
        return view

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        return await self._batches.list(states=states, limit=limit, cursor=cursor)

    async def run(self, stop: asyncio.Event) -> None:
        """Tell of every batch that is complete, now and whenever one may be, until *stop*."""
        bell = self._notifiers.batches.subscribe()
        try:
            while not stop.is_set():
                bell.clear()
                await self._clock.wait(bell, until=await self._finish_complete())
        finally:
            self._notifiers.batches.unsubscribe(bell)

    async def _finish_complete(self) -> datetime | None:
        """Tell of every batch that is complete; give when to look again without a bell."""
        now, again = self._clock.now(), None
        try:
            for name in await self._batches.list_complete():
                again = now if await self._finish(name) else again or now + _FAILURE_DELAY
        except StoreUnavailable as exc:  # a full disk, say; what is complete stays so
            log.warning("batch.delayed", reason=exc.message)
            return now + _RETRY_DELAY
        return again

    async def _finish(self, name: str) -> bool:
        """Tell of a batch; False where that went wrong, which must not end the others."""
        try:
            said = await self._batches.finish(name, self._finished_event, limit=MAX_BATCH_TASKS)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("batch.broken", batch=name)
            return False
        if said is not None:
            self._notifiers.events.notify()
            self._notifiers.deliveries.notify()
            log.info("batch.finished", batch=name, event_id=said.event.id, deliveries=len(said.deliveries))
        return True

    def _finished_event(self, finished: FinishedBatch) -> RoutedEvent:
        now = self._clock.now()
        data = batch_data(
            finished.batch, finished.counts, [(each.task, each.envelope) for each in finished.tasks], at=now
        )
        return self._event_factory.batch_finished(data, at=now)
