"""What is old goes, a little at a time; what waits, and what a task that goes on needs, stays."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event
from harness.support import START, FakeClock
from structlog.testing import capture_logs

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Ids
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import (
    ArchiveState,
    Attempt,
    DeliveryStatus,
    Push,
    PushOutcome,
    RouteState,
    Task,
    TaskState,
    Verdict,
)
from receiver.service.retention import SWEEP_INTERVAL, Retention
from receiver.settings import RetentionSettings
from receiver.store.interfaces import ById, Change, RetentionTarget, SweepResult
from receiver.store.sqlite.retention import PAGE_SIZE
from receiver.store.sqlite.store import SqliteStore

DAY = timedelta(days=1)
SETTINGS = RetentionSettings(events=90 * DAY, bodies=30 * DAY)


class AutoAdvancingClock(FakeClock):
    """A clock that jumps to the moment somebody waits for."""

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if until is not None and not event.is_set():
            self.advance(until - self.now())
            await asyncio.sleep(0)
            return event.is_set()
        return await super().wait(event, until=until)


class RetentionSystem:
    """A store with a past, and what keeps it from growing."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self.store = store
        self.path = path
        self.clock = AutoAdvancingClock()
        self.ids = Ids(self.clock)

    async def add_task(
        self, state: TaskState = TaskState.SUCCEED, *, body: bytes = b'{"x": 1}', **changes: Any
    ) -> Task:
        """Add a task that was made, and last heard of, now."""
        now = self.clock.now()
        task_id = self.ids.new("tsk")
        given = {"due_at": None, "external_task_id": task_id, "kling_id": None, "updated_at": now} | changes
        task = a_task(id=task_id, state=state, created_at=now, **given)
        return await self.store.add(task, body)

    async def add_event(
        self, task: Task, *routes: str, kind: str = "task.succeed", archiving: ArchiveState | None = None
    ) -> str:
        """Let something happen to a task that *routes* are to be told of."""
        now = self.clock.now()
        event = an_event(self.ids.new("evt"), type=kind, task_id=task.id, created_at=now, archiving=archiving)
        deliveries = [
            a_delivery(self.ids.new("dlv"), event_id=event.id, route=route, created_at=now, due_at=now)
            for route in routes
        ]
        change = Change(events=[event], deliveries=deliveries)
        await self.store.apply(ById(id=task.id), lambda _task, _pending: change)
        return event.id

    async def add_push(self, task: Task, outcome: PushOutcome = PushOutcome.APPLIED, body: bytes = b'{"y": 2}') -> Push:
        """Let a push come in."""
        push = a_push(self.ids.new("psh"), task_id=task.id, received_at=self.clock.now(), outcome=outcome, body=body)
        await self.store.apply(ById(id=task.id), lambda _task, _pending: Change(push=push))
        return push

    async def deliver(self, route: str, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> None:
        """Bring out all that is due in a route, with one attempt each."""
        now = self.clock.now()
        for one in await self.store.claim(route, now=now, until=now + DAY, limit=1000, claim="c"):
            attempt = Attempt(
                delivery_id=one.delivery.id, number=1, started_at=now, duration=timedelta(0), outcome="accepted"
            )
            verdict = Verdict(status=status, due_at=now, finished_at=now)
            assert await self.store.record_attempt(attempt, verdict, claim="c")

    async def sweep(self, settings: RetentionSettings = SETTINGS) -> dict[str, int]:
        """Sweep once; give what went, by kind."""
        gone = await Retention(self.store, settings, clock=self.clock).sweep(asyncio.Event())
        return {kind: count for kind, count in gone.items() if count}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the file itself."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT COUNT(*) FROM {table}")[0][0])  # noqa: S608  # the table is the test's own word


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[RetentionSystem]:
    path = tmp_path / "receiver.db"
    system = RetentionSystem(await SqliteStore.open(path), path)
    yield system
    await system.store.aclose()


async def test_a_task_and_all_that_became_of_it_goes_when_its_time_is_over(system: RetentionSystem) -> None:
    task = await system.add_task()
    await system.add_push(task)
    await system.add_event(task, "publish", "mail")
    await system.deliver("publish")
    await system.deliver("mail", DeliveryStatus.DEAD)

    system.clock.advance(91 * DAY)
    gone = await system.sweep()

    assert gone == {
        "bodies": 1, "intents": 1, "events": 1, "deliveries": 2, "attempts": 2, "tasks": 1, "pushes": 1,
    }  # fmt: skip
    assert [system.count(table) for table in ("tasks", "pushes", "intents", "events", "deliveries", "attempts")] == [
        0
    ] * 6


async def test_nothing_goes_before_its_time(system: RetentionSystem) -> None:
    task = await system.add_task()
    await system.add_push(task)
    await system.add_event(task, "publish")
    await system.deliver("publish")

    system.clock.advance(29 * DAY)

    assert await system.sweep() == {}


async def test_bodies_go_first_and_what_they_were_stays(system: RetentionSystem) -> None:
    task = await system.add_task()
    push = await system.add_push(task)
    event = await system.add_event(task, "publish")
    await system.deliver("publish")

    system.clock.advance(31 * DAY)

    assert await system.sweep() == {"bodies": 1, "intents": 1}
    [left] = await system.store.pushes(task.id)
    assert left.body == b""
    assert (left.digest, left.outcome, left.headers) == (push.digest, push.outcome, push.headers)
    assert system.rows("SELECT body FROM pushes") == [(None,)]
    assert await system.store.intent(task.id) == b""
    kept = await system.store.event(event)
    assert kept is not None
    assert kept.body, "what is sent again in a replay is kept as long as the event"


async def test_a_body_that_awaits_confirmation_is_never_taken(system: RetentionSystem) -> None:
    task = await system.add_task(TaskState.PROCESSING, due_at=START + 1000 * DAY)
    waiting = await system.add_push(task, PushOutcome.PENDING)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert [push.body for push in await system.store.pushes(task.id)] == [waiting.body]
    settled = Change(resolved={waiting.id: PushOutcome.APPLIED})
    await system.store.apply(ById(id=task.id), lambda _task, _pending: settled)
    assert await system.sweep() == {"bodies": 1}


async def test_an_intent_that_is_still_to_be_sent_stays(system: RetentionSystem) -> None:
    queued = await system.add_task(TaskState.QUEUED, due_at=START + 1000 * DAY)
    uncertain = await system.add_task(TaskState.SUBMITTING, due_at=START + 1000 * DAY)
    running = await system.add_task(TaskState.PROCESSING, due_at=START + 1000 * DAY)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert [await system.store.intent(task.id) != b"" for task in (queued, uncertain, running)] == [True, True, False]


async def test_an_event_that_is_still_on_its_way_stays_with_its_task(system: RetentionSystem) -> None:
    task = await system.add_task()
    event = await system.add_event(task, "publish", "held")
    await system.deliver("publish")

    system.clock.advance(200 * DAY)
    assert "events" not in await system.sweep()
    assert await system.store.event(event) is not None

    await system.deliver("held")
    gone = await system.sweep()
    assert (gone["events"], gone["deliveries"], gone["tasks"]) == (1, 2, 1)


async def test_what_waits_in_a_held_route_does_not_keep_what_lies_behind_it(system: RetentionSystem) -> None:
    waiting = [await system.add_task() for _ in range(3)]
    for task in waiting:
        await system.add_event(task, "held")
    for _ in range(PAGE_SIZE * 2):
        await system.add_event(await system.add_task(), "publish")
    await system.deliver("publish")

    system.clock.advance(91 * DAY)
    gone = await system.sweep()

    assert gone["events"] == gone["tasks"] == PAGE_SIZE * 2
    assert system.rows("SELECT id FROM tasks ORDER BY id") == [(task.id,) for task in waiting]


async def test_results_on_their_way_home_keep_their_event(system: RetentionSystem) -> None:
    task = await system.add_task()
    event = await system.add_event(task, archiving=ArchiveState.LATE)

    system.clock.advance(91 * DAY)

    assert "events" not in await system.sweep()
    assert await system.store.event(event) is not None


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.SUBMITTING, TaskState.SUBMITTED, TaskState.PROCESSING])
async def test_a_task_that_goes_on_keeps_all_that_is_known_of_it(system: RetentionSystem, state: TaskState) -> None:
    task = await system.add_task(state, due_at=START + 1000 * DAY, expires_at=START + 30 * DAY)
    event = await system.add_event(task, kind="task.submitted")
    push = await system.add_push(task)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert await system.store.task(task.id) == task
    assert await system.store.event(event) is not None
    assert [left.id for left in await system.store.pushes(task.id)] == [push.id]


async def test_a_callback_url_that_nothing_came_by_goes_after_it_has_expired(system: RetentionSystem) -> None:
    expired = await system.add_task(TaskState.AWAITING, endpoint=None, expires_at=START + 30 * DAY, body=b"")
    good = await system.add_task(TaskState.AWAITING, endpoint=None, expires_at=START + 900 * DAY, body=b"")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"tasks": 1}
    assert await system.store.task(expired.id) is None
    assert await system.store.task(good.id) == good


async def test_a_task_that_nobody_can_speak_of_any_more_is_over(system: RetentionSystem) -> None:
    task = await system.add_task(TaskState.PROCESSING, endpoint=None, expires_at=START + 30 * DAY)
    await system.add_event(task, kind="task.processing")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1, "tasks": 1}


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED])
async def test_each_kind_of_end_is_one(system: RetentionSystem, state: TaskState) -> None:
    task = await system.add_task(state)
    await system.add_event(task, kind=f"task.{state}")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1, "tasks": 1}


async def test_an_end_is_old_from_when_the_task_was_last_heard_of(system: RetentionSystem) -> None:
    task = await system.add_task(updated_at=START + 80 * DAY)
    await system.add_event(task)

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1}
    assert await system.store.task(task.id) is not None


async def test_alerts_and_what_people_did_go_too(system: RetentionSystem) -> None:
    now = system.clock.now()
    alert = an_event(system.ids.new("evt"), type="alert.route_held", task_id=None, created_at=now)
    await system.store.add_events([alert], [])
    for at in (now, now + 90 * DAY):
        action = AuditEntry(at=at, actor="api", verb="route.held", subject="publish")
        await system.store.save_route(RouteState(name="publish"), action=action)

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"events": 1, "actions": 1}


async def test_much_that_is_old_goes_in_steps_that_others_come_between(system: RetentionSystem) -> None:
    for _ in range(PAGE_SIZE * 3):
        await system.add_event(await system.add_task())
    system.clock.advance(91 * DAY)

    steps = await counted(system, RetentionTarget.EVENTS)

    assert steps == [PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 0]


async def test_large_bodies_go_a_few_at_a_time(system: RetentionSystem) -> None:
    task = await system.add_task(body=bytes(1000))
    for _ in range(12):
        await system.add_push(task, body=bytes(3 * 1024 * 1024))
    system.clock.advance(31 * DAY)

    assert await counted(system, RetentionTarget.BODIES) == [2, 2, 2, 2, 2, 2, 0]


async def test_an_event_with_a_long_history_goes_alone(system: RetentionSystem) -> None:
    for _ in range(2):
        await system.add_event(await system.add_task(), "publish")
    await system.store.aclose()
    with closing(sqlite3.connect(system.path)) as raw, raw:
        raw.execute("UPDATE deliveries SET status = 'dead', finished_at = 0")
        raw.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500) "
            "INSERT INTO attempts SELECT id, n, 0, 0, 'failed', NULL, '', x'' FROM n, deliveries"
        )
    system.store = await SqliteStore.open(system.path)
    system.clock.advance(91 * DAY)

    assert await counted(system, RetentionTarget.EVENTS) == [1, 1]


async def counted(system: RetentionSystem, litter: RetentionTarget) -> list[int]:
    """Sweep step by step; give how much each took."""
    now = system.clock.now()
    before = now - (SETTINGS.bodies if litter is RetentionTarget.BODIES else SETTINGS.events)
    steps, after = [], ""
    while True:
        swept = await system.store.sweep(litter, before=before, now=now, after=after)
        steps.append(swept.deleted[litter.value])
        if swept.next is None:
            return steps
        after = swept.next


async def test_the_file_grows_no_more_once_things_go_as_they_come(system: RetentionSystem) -> None:
    settings = RetentionSettings(events=2 * DAY, bodies=DAY)
    sizes = []
    for _ in range(8):
        for _ in range(50):
            task = await system.add_task(body=bytes(2000))
            await system.add_push(task, body=bytes(5000))
            await system.add_event(task, "publish")
        await system.deliver("publish")
        system.clock.advance(DAY)
        await system.sweep(settings)
        stats = await system.store.stats()
        sizes.append(stats["bytes.file"])

    assert sizes[-1] == sizes[4]
    assert system.path.with_name("receiver.db-wal").stat().st_size == 0, "the log is cut short after each sweep"


async def test_a_reader_in_the_middle_of_something_is_not_waited_for(system: RetentionSystem) -> None:
    await system.add_event(await system.add_task())
    with closing(sqlite3.connect(system.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM events").fetchone()
        system.clock.advance(91 * DAY)

        gone = await system.sweep()

        assert gone["events"] == 1
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)


class FakeRetentionStore:
    """An attic that refuses its first visitor, and has had enough after the third."""

    def __init__(self) -> None:
        self.sweeps: list[datetime] = []
        self.stop = asyncio.Event()

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        assert before <= now
        assert after == ""
        if target is RetentionTarget.BODIES:
            self.sweeps.append(now)
        if len(self.sweeps) == 1:
            raise StoreUnavailable("The disk is full.")
        if len(self.sweeps) == 3 and target is RetentionTarget.REPLAYS:
            self.stop.set()
        return SweepResult(deleted={target.value: 0}, next=None)

    async def truncate_wal(self) -> None:
        raise AssertionError("nothing was taken away")


async def test_it_sweeps_at_the_start_and_every_hour_and_outlives_a_full_disk() -> None:
    store = FakeRetentionStore()
    with capture_logs() as logs:
        await Retention(store, SETTINGS, clock=AutoAdvancingClock()).run(store.stop)

    assert store.sweeps == [START, START + SWEEP_INTERVAL, START + 2 * SWEEP_INTERVAL]
    assert [line["event"] for line in logs] == ["retention.delayed", "retention.swept", "retention.swept"]
    assert logs[1] == {"event": "retention.swept", "log_level": "info", **{kind.value: 0 for kind in RetentionTarget}}


async def test_a_stop_ends_a_sweep_between_two_steps(system: RetentionSystem) -> None:
    for _ in range(PAGE_SIZE * 2):
        await system.add_event(await system.add_task())
    system.clock.advance(91 * DAY)
    stop = asyncio.Event()
    stop.set()

    assert sum((await Retention(system.store, SETTINGS, clock=system.clock).sweep(stop)).values()) == 0
