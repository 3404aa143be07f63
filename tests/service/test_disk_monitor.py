"""A shortage of disk space raises one alert, and its end raises one."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness.clock import FakeClock
from harness.factories import a_task
from harness.sqlite_template import open_store

from receiver.domain.clock import Ids
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.service.disk_monitor import DiskMonitor
from receiver.store.sqlite.store import SqliteStore
from receiver.tasks.health_alerts import HealthAlerts

MIB = 1024 * 1024
NEEDED = 64 * MIB


@dataclass(slots=True)
class FakeDisk:
    free_bytes: int = 1000 * MIB
    clock: FakeClock = field(default_factory=FakeClock)

    @asynccontextmanager
    async def monitored_store(self, path: Path) -> AsyncIterator[tuple[SqliteStore, HealthAlerts, DiskMonitor]]:
        """Open the store, as at a start, with a watch over its disk."""
        store = await open_store(path, free=lambda _: self.free_bytes)
        async with aclosing(store):
            ids = Ids(self.clock, after=await store.newest_id())
            announcer = EventFactory(compile_routes([]), ids)
            alarm = HealthAlerts(
                store.tasks, store.catalog, announcer, public_url="", notifiers=Notifiers(), clock=self.clock
            )
            yield store, alarm, DiskMonitor(store.disk_space, alarm, clock=self.clock)


async def event_types(store: SqliteStore) -> list[str]:
    return [event.type for event in reversed((await store.catalog.events()).items)]


async def test_a_disk_that_hovers_at_the_threshold_raises_one_alert(tmp_path: Path) -> None:
    disk, is_short = FakeDisk(), False
    async with disk.monitored_store(tmp_path / "receiver.db") as (store, _, watch):
        for free in (NEEDED, NEEDED - 1, NEEDED, NEEDED - 1, 0, NEEDED + 4 * MIB - 1):
            disk.free_bytes = free
            is_short = await watch.check(is_full=is_short)
        assert await event_types(store) == ["alert.disk_full"]

        disk.free_bytes = NEEDED + 4 * MIB
        assert not await watch.check(is_full=is_short)
        assert await event_types(store) == ["alert.disk_full", "alert.disk_recovered"]


async def test_a_raised_alert_is_not_repeated_after_a_restart(tmp_path: Path) -> None:
    disk = FakeDisk(free_bytes=0)
    known: list[bool] = []
    types: list[str] = []
    for free in (0, 0, 1000 * MIB, 1000 * MIB, 0):
        disk.free_bytes = free
        async with disk.monitored_store(tmp_path / "receiver.db") as (store, alarm, watch):
            known.append(await alarm.is_disk_full())
            await watch.check(is_full=known[-1])
            types = await event_types(store)

    assert known == [False, True, True, False, False]
    assert types == ["alert.disk_full", "alert.disk_recovered", "alert.disk_full"]


async def test_a_full_disk_refuses_new_tasks_but_stores_the_alert(tmp_path: Path) -> None:
    disk = FakeDisk(free_bytes=NEEDED - 1)
    async with disk.monitored_store(tmp_path / "receiver.db") as (store, _, watch):
        await watch.check(is_full=False)

        assert await event_types(store) == ["alert.disk_full"]
        assert store.disk_space.shortage().startswith("The store's disk is almost full: 63 MiB are left")
        with pytest.raises(StoreUnavailable, match="almost full"):
            await store.tasks.add(a_task(), b"")
        disk.free_bytes = NEEDED
        assert store.disk_space.shortage() == ""
