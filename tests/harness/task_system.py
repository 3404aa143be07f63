"""Submission and tracking on a real store, with a fake Kling.

Time is fake: :meth:`TaskSystem.advance` moves it in steps, and waits after each step until all work is done.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from harness.clock import START, FakeClock
from harness.fake_kling import FakeKling
from harness.sqlite_template import open_store
from harness.stored_events import check_stored_events

from receiver.domain.clock import Ids
from receiver.domain.model import Event, Json, Task
from receiver.domain.secret import Secret
from receiver.service.context import make_context
from receiver.service.wiring import build_tasks
from receiver.settings import (
    CallbackSettings,
    KlingSettings,
    PollSettings,
    PublicSettings,
    RouteSettings,
    Settings,
    WebhookSettings,
)
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.request import SubmitRequest

ENDPOINT = "images/multi-image2image"
JOB: Json = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


class IdleClock(FakeClock):
    """A fake clock that counts idle waits."""

    def __init__(self, at: datetime = START) -> None:
        super().__init__(at)
        self.idle_waiters = 0

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if event.is_set() or (until is not None and until <= self.now()):
            await asyncio.sleep(0)
            return event.is_set()
        self.idle_waiters += 1
        try:
            return await super().wait(event, until=until)
        finally:
            self.idle_waiters -= 1


class TaskSystem:
    """The services that submit and track tasks, as the service builds them."""

    def __init__(
        self, store: SqliteStore, kling: Any, settings: Settings, clock: IdleClock, *, newest_id: str = ""
    ) -> None:
        context = make_context(settings, store, kling, clock=clock, ids=Ids(clock, after=newest_id), rng=Random(1))
        services = build_tasks(context)
        self.store = store
        self.kling = kling
        self.settings = settings
        self.clock = clock
        self.notifiers = context.notifiers
        self.ids = context.ids
        self.inbox = services.inbox
        self.recorder = services.recorder
        self.recovery = services.recovery
        self.executor = services.executor
        self.submitter = services.submitter
        self.gateway_creates = services.gateway_creates
        self.poller = services.poller
        self.batch_service = services.batches
        self.waiting_clients = 0  # set by a test whose client waits on the clock too
        self._workers: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all workers inside the block."""
        stop = asyncio.Event()
        parts = (self.poller, self.recovery, self.submitter, self.batch_service)
        self._workers = [asyncio.create_task(part.run(stop)) for part in parts]
        try:
            await self.settle()
            yield
        finally:
            stop.set()
            if isinstance(self.kling, FakeKling) and self.kling.create_gate is not None:
                self.kling.create_gate.set()
            self.notifiers.notify_all()
            await asyncio.gather(*self._workers)
            self._workers = []

    async def settle(self) -> None:
        """Wait until all work that is due now is done."""
        quiet = 0
        async with asyncio.timeout(60):
            while quiet < 3:
                await asyncio.sleep(0.0005)
                for work in self._workers:
                    assert not work.done(), work
                quiet = quiet + 1 if self._is_idle() else 0

    def _is_idle(self) -> bool:
        under_way = len(self.poller._in_flight) + len(self.recovery._in_flight)
        under_way -= self.kling.blocked if isinstance(self.kling, FakeKling) else 0
        if not (isinstance(self.kling, FakeKling) and self.kling.create_gate is not None):
            under_way += len(self.submitter._queue._spawned)
        return under_way == 0 and self.clock.idle_waiters == len(self._workers) + self.waiting_clients

    async def advance(self, seconds: float, *, step: float = 1.0) -> None:
        """Advance the clock in steps, and let each step's work finish."""
        left = seconds
        while left > 0:
            self.clock.advance(timedelta(seconds=min(step, left)))
            left -= step
            await self.settle()

    async def submit(self, **fields: Any) -> Task:
        """Submit a job."""
        request = {"endpoint": ENDPOINT, "body": JOB} | fields
        return (await self.submitter.submit(SubmitRequest(**request))).task

    async def task(self, ref: str) -> Task:
        """Return a stored task."""
        task = await self.store.catalog.task(ref)
        assert task is not None
        return task

    async def push(self, token: str, body: bytes) -> bool:
        """Push a callback."""
        return await self.inbox.accept_callback(token, [("content-type", "application/json")], body)

    async def push_outcomes(self, task_id: str) -> list[str]:
        """Return the outcome of each push of a task."""
        return [push.outcome.value for push in await self.store.catalog.pushes(task_id)]

    async def event_types(self, task_id: str | None = None) -> list[str]:
        """Return the types of all events, oldest first."""
        found: list[Event] = []
        cursor = None
        while True:
            page = await self.store.catalog.events(task_id=task_id, limit=200, cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None:
                return [event.type for event in reversed(found)]

    async def alerts(self, kind: str) -> list[Json]:
        """Return the data of all alerts of a kind, oldest first."""
        page = await self.store.catalog.events(types=[f"alert.{kind}"], limit=200)
        return [json.loads(event.envelope)["data"] for event in reversed(page.items)]


def a_configuration(**changes: Any) -> Settings:
    """Settings with a public URL and one route for all events."""
    given: dict[str, Any] = {
        "public": PublicSettings(url="https://hooks.example.com"),
        "kling": KlingSettings(api_key=Secret("key")),
        "callbacks": CallbackSettings(),
        "poll": PollSettings(),
        "routes": (
            RouteSettings(name="publish", on=frozenset(["*"]), webhook=WebhookSettings(url="http://127.0.0.1/")),
        ),
    }
    return Settings(**given | changes)


@contextlib.asynccontextmanager
async def a_task_system(
    folder: Path,
    *,
    kling: Any = None,
    clock: IdleClock | None = None,
    kling_settings: KlingSettings | None = None,
    **changes: Any,
) -> AsyncIterator[TaskSystem]:
    """Open a task system on the store in *folder*, as it was left there."""
    if kling_settings is not None:
        changes["kling"] = kling_settings
    clock = clock or IdleClock()
    store = await open_store(folder / "receiver.db")
    async with contextlib.aclosing(store):
        newest = await store.newest_id()
        yield TaskSystem(store, kling or FakeKling(clock), a_configuration(**changes), clock, newest_id=newest)
        await check_stored_events(store)
