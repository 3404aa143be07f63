"""Retention deletes in small steps, every hour, and the file stops growing."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from harness.clock import START
from harness.logs import capture_logs
from harness.retention_system import DAY, SETTINGS, AutoAdvancingClock, RetentionSystem, a_retention_system

from receiver.domain.errors import StoreUnavailable
from receiver.service.nodes.node import DUTY_OF_WORK
from receiver.service.retention import SWEEP_INTERVAL, Retention
from receiver.settings import RetentionSettings
from receiver.store.interfaces import RetentionTarget, SweepResult
from receiver.store.retention_pages import PAGE_SIZE
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[RetentionSystem]:
    async with a_retention_system(tmp_path / "receiver.db") as system:
        yield system


async def test_much_old_data_is_deleted_in_steps(system: RetentionSystem) -> None:
    for _ in range(PAGE_SIZE * 3):
        await system.add_event(await system.add_task())
    system.clock.advance(91 * DAY)

    steps = await counted(system, RetentionTarget.EVENTS)

    assert steps == [PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 0]


async def test_large_bodies_are_deleted_a_few_per_step(system: RetentionSystem) -> None:
    task = await system.add_task(body=bytes(1000))
    for _ in range(12):
        await system.add_push(task, body=bytes(3 * 1024 * 1024))
    system.clock.advance(31 * DAY)

    assert await counted(system, RetentionTarget.BODIES) == [2, 2, 2, 2, 2, 2, 0]


async def test_an_event_with_many_attempts_is_deleted_alone(system: RetentionSystem) -> None:
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


async def counted(system: RetentionSystem, target: RetentionTarget) -> list[int]:
    """Sweep step by step; return the rows deleted by each."""
    now = system.clock.now()
    before = now - (SETTINGS.bodies if target is RetentionTarget.BODIES else SETTINGS.events)
    steps, after = [], ""
    while True:
        swept = await system.store.retention.sweep(target, before=before, now=now, after=after)
        steps.append(swept.deleted[target.value])
        if swept.next is None:
            return steps
        after = swept.next


async def test_the_file_stops_growing_at_a_steady_rate(system: RetentionSystem) -> None:
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
    assert system.path.with_name("receiver.db-wal").stat().st_size == 0, "the log is truncated after each sweep"


async def test_a_sweep_does_not_wait_for_a_reader(system: RetentionSystem) -> None:
    await system.add_event(await system.add_task())
    with closing(sqlite3.connect(system.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM events").fetchone()
        system.clock.advance(91 * DAY)

        deleted = await system.sweep()

        assert deleted["events"] == 1
        assert reader.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)


class FakeRetentionStore:
    """A store that refuses the first sweep and stops the service after the third."""

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
        raise AssertionError("nothing was deleted")


async def test_the_sweep_runs_hourly_and_survives_a_full_disk() -> None:
    store = FakeRetentionStore()
    with capture_logs() as logs:
        await Retention(store, SETTINGS, clock=AutoAdvancingClock()).run(store.stop)

    assert store.sweeps == [START, START + SWEEP_INTERVAL, START + 2 * SWEEP_INTERVAL]
    assert [line["event"] for line in logs] == ["retention.delayed", "retention.swept", "retention.swept"]
    assert logs[1] == {"event": "retention.swept", "log_level": "info", **{kind.value: 0 for kind in RetentionTarget}}


async def test_a_stop_ends_a_sweep_between_steps(system: RetentionSystem) -> None:
    for _ in range(PAGE_SIZE * 2):
        await system.add_event(await system.add_task())
    system.clock.advance(91 * DAY)
    stop = asyncio.Event()
    stop.set()

    assert sum((await Retention(system.store.retention, SETTINGS, clock=system.clock).sweep(stop)).values()) == 0


async def test_every_node_removes_its_old_thumbnails_hourly() -> None:
    class Sweeper:
        def __init__(self) -> None:
            self.sweeps: list[datetime] = []
            self.stop = asyncio.Event()

        async def sweep(self, *, before: datetime) -> int:
            self.sweeps.append(before + SETTINGS.events)
            if len(self.sweeps) == 2:
                self.stop.set()
            return 0

    previews = Sweeper()
    retention = Retention(FakeRetentionStore(), SETTINGS, clock=AutoAdvancingClock(), previews=previews)

    await retention.run_previews(previews.stop)

    assert previews.sweeps == [START, START + SWEEP_INTERVAL]
    assert "old_previews" not in DUTY_OF_WORK
