"""Checks, backups and statistics of a SQLite store."""

import asyncio
import fcntl
import sqlite3
from pathlib import Path

import pytest
from harness.factories import a_delivery, a_push, a_task
from store.conftest import Store, a_sqlite_store, add_deliveries, add_route_deliveries, decide_always
from store.database_files import mode

from receiver.domain.errors import (
    InvalidRequest,
    StoreError,
    StoreUnavailable,
)
from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.migrate import migrate


async def test_a_healthy_store_has_no_faults_even_in_use(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 10)
        assert maintenance.check(path) == []

    assert maintenance.check(path) == []


async def test_a_check_lists_the_faults(path: Path, raw: sqlite3.Connection) -> None:
    assert maintenance.check(path.with_name("none.db")) == [f"There is no store at {path.with_name('none.db')}."]

    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("INSERT INTO intents VALUES ('tsk_none', x'00')")
    raw.execute("UPDATE migrations SET checksum = 'changed' WHERE version = 1")

    faults = maintenance.check(path)
    assert len(faults) == 2
    assert "refers to a missing row of tasks" in faults[0]
    assert "0001_first_tables differs from the one" in faults[1]


async def test_a_backup_is_complete_even_during_writes(path: Path) -> None:
    target = path.with_name("backup.db")
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 100)
        adding = [store.tasks.add(a_task(id=f"tsk_b{n:03}"), b"x" * 1000) for n in range(200)]

        await asyncio.gather(store.backup(target), *adding)

        await store.tasks.add(a_task(id="tsk_after"), b"")

    assert mode(target) == 0o600
    assert sorted(file.name for file in path.parent.iterdir() if "backup" in file.name) == ["backup.db"]
    assert maintenance.check(target) == []
    async with a_sqlite_store(target) as copy:
        assert (await copy.catalog.backlog())[0].pending == 100
        assert await copy.catalog.task("tsk_after") is None


async def test_a_backup_replaces_no_file_and_keeps_no_damaged_copy(path: Path, raw: sqlite3.Connection) -> None:
    target = path.with_name("backup.db")
    target.write_text("precious")
    with pytest.raises(InvalidRequest, match="exists already"):
        maintenance.backup(path, target)
    target.unlink()

    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("INSERT INTO intents VALUES ('tsk_none', x'00')")
    with pytest.raises(StoreError, match="damaged"):
        maintenance.backup(path, target)
    with pytest.raises(StoreUnavailable):
        maintenance.backup(path, path / "not a folder" / "backup.db")

    assert not [file for file in path.parent.iterdir() if "backup" in file.name]


async def test_a_backup_removes_only_stale_copies(path: Path) -> None:
    migrate(path)
    folder = path.parent / "backups"
    folder.mkdir()
    killed = folder / ".monday.db.123.kling-receiver-backup"
    under_way = folder / ".tuesday.db.124.kling-receiver-backup"
    for left in (killed, killed.with_name(f"{killed.name}-journal"), under_way, folder / ".film.mp4.part"):
        left.write_text("half of it")

    with under_way.open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        maintenance.backup(path, folder / "wednesday.db")

    assert sorted(file.name for file in folder.iterdir()) == [".film.mp4.part", under_way.name, "wednesday.db"]


async def test_statistics_are_counted_by_kind(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.tasks.add(a_task(id="tsk_2", state=TaskState.QUEUED), b"")
    await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=a_push())))

    stats = await store.stats()

    counts = {name: number for name, number in stats.items() if not name.startswith("bytes.")}
    assert counts == {
        "tasks.queued": 1,
        "tasks.submitted": 1,
        "batches": 0,
        "pushes.pending": 1,
        "events": 1,
        "deliveries.pending": 1,
        "attempts": 0,
        "assets": 0,
    }
    assert stats.keys() & {"bytes.file", "bytes.database"}
    assert all(size > 0 for name, size in stats.items() if name in {"bytes.file", "bytes.database"})


async def test_the_statistics_of_a_file_in_use_are_read_without_its_service(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_deliveries(store, a_delivery())

        assert await store.stats() == maintenance.stats_at(path)
