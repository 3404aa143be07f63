"""How a SQLite store reports a full disk, a locked file and damage."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from harness.factories import a_task, at
from store.conftest import a_sqlite_store, add_route_deliveries, decide_always
from store.database_files import contents, corrupt, remove, rename

from receiver.domain.errors import (
    StoreBroken,
    StoreError,
    StoreUnavailable,
)
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite import writer
from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.store import SqliteStore


async def test_a_full_disk_refuses_new_data_but_the_queue_drains(path: Path) -> None:
    room = 1000
    async with a_sqlite_store(path, reserve=100, free=lambda _: room) as store:
        await add_route_deliveries(store, 1)
        room = 99

        with pytest.raises(StoreUnavailable, match="almost full"):
            await store.tasks.add(a_task(id="tsk_2"), b"")
        with pytest.raises(StoreUnavailable):
            await store.tasks.apply(ById(id="tsk_1"), decide_always(Change()))
        assert len(await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="c")) == 1

        room = 100
        await store.tasks.add(a_task(id="tsk_2"), b"")
        assert not store.broken.is_set()


async def test_a_full_database_refuses_writes_until_it_can_grow(path: Path) -> None:
    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    async with a_sqlite_store(path) as store:
        await store.tasks.add(a_task(), b"")
        await store.tasks._writer._thread.run(limit, 1)
        large = [store.tasks.add(a_task(id=f"tsk_9{n}"), b"x" * 500_000) for n in range(5)]
        refused = await asyncio.gather(*large, return_exceptions=True)
        await store.tasks._writer._thread.run(limit, 1_000_000)

        assert {type(error) for error in refused} == {StoreUnavailable}
        assert not store.broken.is_set()
        await store.tasks.add(a_task(id="tsk_2"), b"x" * 500_000)
        assert [task.id for task in (await store.catalog.tasks()).items] == ["tsk_2", "tsk_1"]


async def test_a_locked_file_is_unavailable_after_a_timeout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_IN_THREAD", ("PRAGMA busy_timeout = 10",))
    async with a_sqlite_store(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await store.tasks.add(a_task(), b"")
            intruder.execute("ROLLBACK")

        await store.tasks.add(a_task(), b"")


async def test_a_broken_store_stays_broken(path: Path) -> None:
    migrate(path)
    async with a_sqlite_store(path) as store:
        # Nothing is cached of pages that were never read, nor after this.
        await store.tasks._writer._thread.run(lambda connection: connection.execute("PRAGMA shrink_memory"))
        await store.tasks._writer._thread.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        corrupt(path)

        with pytest.raises(StoreBroken):
            await store.tasks.add(a_task(), b"")

        assert store.broken.is_set()
        with pytest.raises(StoreBroken):
            await store.tasks.add(a_task(), b"")
        with pytest.raises(StoreBroken):
            await store.catalog.tasks()
        with pytest.raises(StoreBroken):
            await store.tasks.apply(ById(id="tsk_1"), decide_always(Change()))

    with pytest.raises(StoreError):
        await SqliteStore.open(path)


@pytest.mark.parametrize("how", ["removed", "replaced by another file"])
async def test_a_moved_store_acknowledges_nothing(path: Path, how: str) -> None:
    moved, log, copy = path.with_name("moved.db"), path.with_name("receiver.db-wal"), path.with_name("backup.db")
    async with a_sqlite_store(path) as store:
        await store.tasks.add(a_task(), b"")
        await store.backup(copy)
        rename(path, moved)
        if how != "removed":
            rename(copy, path)
        with pytest.raises(StoreBroken, match=f"was {how} while it was in use. Restore the original file"):
            await store.tasks.add(a_task(id="tsk_2"), b"")
        assert store.broken.is_set()
    left, kept = contents(path), contents(log)
    assert kept

    with pytest.raises(StoreError, match=r"write-ahead log|the log beside it"):
        async with a_sqlite_store(path):
            pass

    assert (contents(path), contents(log)) == (left, kept)
    rename(moved, path)
    async with a_sqlite_store(path) as store:
        assert [task.id for task in (await store.catalog.tasks()).items] == ["tsk_2", "tsk_1"]


async def test_a_replacement_is_used_once_the_old_log_is_removed(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store.tasks.add(a_task(), b"")
        await store.backup(path.with_name("backup.db"))
        rename(path.with_name("backup.db"), path)
        with pytest.raises(StoreBroken):
            await store.tasks.add(a_task(id="tsk_2"), b"")

    remove(path.with_name("receiver.db-wal"))
    async with a_sqlite_store(path) as store:
        assert [task.id for task in (await store.catalog.tasks()).items] == ["tsk_1"]
    assert not path.with_name("receiver.db.suspect").exists()


async def test_all_pending_callers_get_the_error_of_a_broken_store(path: Path) -> None:
    migrate(path)
    async with a_sqlite_store(path) as store:
        corrupt(path)
        errors = await asyncio.gather(
            *(store.tasks.add(a_task(id=f"tsk_{n}"), b"") for n in range(600)), return_exceptions=True
        )

    assert {type(error) for error in errors} == {StoreBroken}


async def test_a_broken_store_is_checked_at_the_next_start(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 200)
    mark = path.with_name("receiver.db.suspect")

    mark.touch()
    async with a_sqlite_store(path) as store:
        assert not mark.exists()
        assert len((await store.catalog.deliveries()).items) == 50

    mark.touch()
    corrupt(path, last=1)
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(path)
    assert mark.exists()
