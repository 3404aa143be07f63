"""A store whose data grows old, and the retention that deletes it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from harness.clock import FakeClock
from harness.factories import a_delivery, a_push, a_task, an_event
from harness.sqlite_template import open_store
from harness.store_fixtures import AnyStore

from receiver.domain.clock import Ids
from receiver.domain.model import (
    ArchiveState,
    Attempt,
    DeliveryStatus,
    Push,
    PushOutcome,
    Task,
    TaskState,
    Verdict,
)
from receiver.service.retention import Retention
from receiver.settings import RetentionSettings
from receiver.store.interfaces import ById, Change

DAY = timedelta(days=1)
SETTINGS = RetentionSettings(events=90 * DAY, bodies=30 * DAY)


class AutoAdvancingClock(FakeClock):
    """A clock that jumps to the time of each wait."""

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if until is not None and not event.is_set():
            self.advance(until - self.now())
            await asyncio.sleep(0)
            return event.is_set()
        return await super().wait(event, until=until)


class RetentionSystem:
    """A store with old data, a clock and the retention. *path* is that of a store's file."""

    def __init__(self, store: AnyStore, path: Path | None = None) -> None:
        self.store = store
        self.path = path or Path("/nonexistent")
        self.clock = AutoAdvancingClock()
        self.ids = Ids(self.clock)

    async def add_task(
        self, state: TaskState = TaskState.SUCCEED, *, body: bytes = b'{"x": 1}', **changes: Any
    ) -> Task:
        """Add a task that is created and updated now."""
        now = self.clock.now()
        task_id = self.ids.new("tsk")
        given = {"due_at": None, "external_task_id": task_id, "kling_id": None, "updated_at": now} | changes
        task = a_task(id=task_id, state=state, created_at=now, **given)
        return await self.store.tasks.add(task, body)

    async def add_event(
        self, task: Task, *routes: str, kind: str = "task.succeed", archiving: ArchiveState | None = None
    ) -> str:
        """Add an event of a task with deliveries to *routes*."""
        now = self.clock.now()
        event = an_event(self.ids.new("evt"), type=kind, task_id=task.id, created_at=now, archiving=archiving)
        deliveries = [
            a_delivery(self.ids.new("dlv"), event_id=event.id, route=route, created_at=now, due_at=now)
            for route in routes
        ]
        change = Change(events=[event], deliveries=deliveries)
        await self.store.tasks.apply(ById(id=task.id), lambda _task, _pending: change)
        return event.id

    async def add_push(self, task: Task, outcome: PushOutcome = PushOutcome.APPLIED, body: bytes = b'{"y": 2}') -> Push:
        """Add a push of a task."""
        push = a_push(self.ids.new("psh"), task_id=task.id, received_at=self.clock.now(), outcome=outcome, body=body)
        await self.store.tasks.apply(ById(id=task.id), lambda _task, _pending: Change(push=push))
        return push

    async def deliver(self, route: str, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> None:
        """Deliver everything due in a route, with one attempt each."""
        now = self.clock.now()
        for one in await self.store.deliveries.claim(route, now=now, until=now + DAY, limit=1000, claim="c"):
            attempt = Attempt(
                delivery_id=one.delivery.id, number=1, started_at=now, duration=timedelta(0), outcome="accepted"
            )
            verdict = Verdict(status=status, due_at=now, finished_at=now)
            assert await self.store.deliveries.record_attempt(attempt, verdict, claim="c")

    async def sweep(self, settings: RetentionSettings = SETTINGS) -> dict[str, int]:
        """Sweep once; return the deleted rows by kind."""
        gone = await Retention(self.store.retention, settings, clock=self.clock).sweep(asyncio.Event())
        return {kind: count for kind, count in gone.items() if count}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Query the database file directly."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608  # the table name is a constant of the test


@contextlib.asynccontextmanager
async def a_retention_system(path: Path) -> AsyncIterator[RetentionSystem]:
    system = RetentionSystem(await open_store(path), path)
    yield system
    await system.store.aclose()
