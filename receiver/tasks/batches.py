"""Publishes one event per batch, when all its tasks are finished, with their counts and results.

The code that ends tasks does not know about batches: it notifies this service, which reads the store. A crash in
between loses nothing, because the service reads the store at startup too. One transaction marks the batch as finished
and stores its event and deliveries.
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
from receiver.domain.worker import run_worker
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.events.payload import MAX_BATCH_TASKS, batch_data
from receiver.store.interfaces import Page

log = structlog.get_logger()

_RETRY_DELAY = timedelta(seconds=5)
_FAILURE_DELAY = timedelta(minutes=1)


class BatchStore(Protocol):
    """The store's batches."""

    async def close(self, name: str, *, now: datetime, action: AuditEntry) -> bool:
        """Close a batch to new tasks. Return False if it is not open."""
        ...

    async def list_complete(self) -> Sequence[str]:
        """Return the names of closed batches whose tasks have all ended, with results archived or given up."""
        ...

    async def finish(
        self, name: str, make_event: Callable[[FinishedBatch], RoutedEvent], *, limit: int
    ) -> RoutedEvent | None:
        """Finish a complete batch and store the event that *make_event* returns for its first *limit* tasks.

        This is one transaction. Return None, and write nothing, if it is not complete or already finished.
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
    """Finishes complete batches, and closes batches on request."""

    def __init__(self, batches: BatchStore, event_factory: EventFactory, *, notifiers: Notifiers, clock: Clock) -> None:
        self._batches = batches
        self._event_factory = event_factory
        self._notifiers = notifiers
        self._clock = clock

    async def close(self, name: str, *, why: str, actor: str) -> BatchView:
        """Close a batch, so that it finishes with the tasks it has. Raises NotFound."""
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
            raise NotFound(f"There is no batch {name[:100]!r}.", remedy="The first task of a batch creates it.")
        return view

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        return await self._batches.list(states=states, limit=limit, cursor=cursor)

    async def run(self, stop: asyncio.Event) -> None:
        """Finish every complete batch, now and after each notification, until *stop*."""
        wake = self._notifiers.batches.subscribe()
        try:
            await run_worker(
                self._finish_complete, wake=wake, stop=stop, clock=self._clock, name="batch", retry_delay=_RETRY_DELAY
            )
        finally:
            self._notifiers.batches.unsubscribe(wake)

    async def _finish_complete(self) -> datetime | None:
        """Finish every complete batch. Return when to check again without a notification, or None."""
        now, next_check_at = self._clock.now(), None
        for name in await self._batches.list_complete():
            next_check_at = now if await self._finish(name) else next_check_at or now + _FAILURE_DELAY
        return next_check_at

    async def _finish(self, name: str) -> bool:
        """Finish one batch. Return False if that failed, which must not stop the other batches."""
        try:
            routed = await self._batches.finish(name, self._finished_event, limit=MAX_BATCH_TASKS)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("batch.broken", batch=name)
            return False
        if routed is not None:
            self._notifiers.events.notify()
            self._notifiers.deliveries.notify()
            log.info("batch.finished", batch=name, event_id=routed.event.id, deliveries=len(routed.deliveries))
        return True

    def _finished_event(self, finished: FinishedBatch) -> RoutedEvent:
        now = self._clock.now()
        data = batch_data(
            finished.batch, finished.counts, [(each.task, each.envelope) for each in finished.tasks], at=now
        )
        return self._event_factory.batch_finished(data, at=now)
