"""A SQLite store's files: lock, permissions, connections, and files of other programs."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from harness.factories import a_push, a_task, an_event
from store.conftest import a_sqlite_store, decide_always
from store.database_files import OPEN_AND_DIE, contents, make, mode, remove, run_code

from receiver.domain.errors import (
    StoreBroken,
    StoreError,
    StoreLocked,
    StoreUnavailable,
)
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.database import connect_reader, connect_writer
from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.store import SqliteStore


async def test_one_process_at_a_time_uses_a_store(path: Path) -> None:
    async with a_sqlite_store(path):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await SqliteStore.open(path)
        with pytest.raises(StoreLocked):
            migrate(path)

    async with a_sqlite_store(path):
        pass


async def test_the_lock_ends_with_its_process(path: Path) -> None:
    assert run_code(OPEN_AND_DIE, path) == -signal.SIGKILL

    async with a_sqlite_store(path):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o000])
async def test_folder_and_files_are_private(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with a_sqlite_store(path) as store:
            await store.tasks.add(a_task(), b"")

            modes = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(["receiver.db", "receiver.db-wal", "receiver.db-shm", "receiver.db.lock"], 0o600)
    assert mode(path.parent) == 0o700


async def test_an_existing_folder_keeps_its_mode_and_the_file_is_made_private(path: Path) -> None:
    make(path, b"", folder=0o755, file=0o644)

    async with a_sqlite_store(path):
        assert mode(path.parent) == 0o755
        assert mode(path) == 0o600


async def test_a_missing_store_is_not_created_without_create(path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store"):
        await SqliteStore.open(path, create=False)

    assert contents(path) is None


async def test_an_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder at all")

    with pytest.raises(StoreUnavailable, match="cannot be used: ") as opened:
        await SqliteStore.open(tmp_path / "var" / "receiver.db")
    with pytest.raises(StoreUnavailable):
        migrate(tmp_path / "var" / "receiver.db")
    assert str(tmp_path / "var") in opened.value.remedy


async def test_another_programs_database_is_not_changed(path: Path) -> None:
    make(path, b"")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = contents(path)

    with pytest.raises(StoreError, match="another program"):
        await SqliteStore.open(path)

    assert contents(path) == before
    assert maintenance.check(path) == ["The file is the database of another program. Check [store] url."]
    with pytest.raises(StoreError, match=r"another program\. Check"):
        maintenance.backup(path, path.with_name("backup.db"))
    with pytest.raises(StoreError, match=r"another program\. Check"):
        maintenance.stats_at(path)


def test_a_file_without_a_store_is_refused(path: Path) -> None:
    make(path, b"")
    with closing(connect_writer(path)):
        assert path.stat().st_size > 0, "an empty database is not an empty file"

    for _ in range(2):
        (fault,) = maintenance.check(path)
        with pytest.raises(StoreError) as backed_up:
            maintenance.backup(path, path.with_name("backup.db"))
        with pytest.raises(StoreError) as counted:
            maintenance.stats_at(path)
        for message in (fault, str(backed_up.value), str(counted.value)):
            assert message.endswith("contains no store. Restore a backup, or let `serve` create a new store.")
        path.write_bytes(b"")
    assert not path.with_name("backup.db").exists()


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "gone"])
async def test_a_log_without_its_database_is_kept(path: Path, is_there: bool) -> None:
    log = path.with_name("receiver.db-wal")
    assert run_code(OPEN_AND_DIE, path) == -signal.SIGKILL
    remove(path, keep_empty=is_there)
    before = contents(log)
    assert before

    for create in (True, False):
        with pytest.raises(StoreError, match=r"write-ahead log .* contains acknowledged data.* restore a backup"):
            async with a_sqlite_store(path, create=create):
                pass
    for refused in (migrate, maintenance.stats_at, lambda path: maintenance.backup(path, path.with_name("backup.db"))):
        with pytest.raises(StoreError, match="contains acknowledged data"):
            refused(path)
    assert ["contains acknowledged data" in fault for fault in maintenance.check(path)] == [True]

    assert contents(path) == (b"" if is_there else None)
    assert contents(log) == before
    remove(log, keep_empty=True)
    async with a_sqlite_store(path):
        assert maintenance.check(path) == []


async def test_a_file_that_is_not_a_database_is_broken(path: Path) -> None:
    make(path, b"certainly not a database " * 100)

    with pytest.raises(StoreBroken):
        await SqliteStore.open(path)


@pytest.mark.parametrize("connect", [connect_writer, connect_reader])
def test_every_connection_is_durable(raw: sqlite3.Connection, path: Path, connect: object) -> None:
    raw.execute("SELECT 1")
    with closing(connect_writer(path) if connect is connect_writer else connect_reader(path)) as connection:
        settings = {
            pragma: connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_reader_cannot_write(raw: sqlite3.Connection, path: Path) -> None:
    raw.execute("SELECT 1")
    with closing(connect_reader(path)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("INSERT INTO routes VALUES ('r', 0, NULL, '')")


async def test_a_closed_store_is_one_file(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store.tasks.add(a_task(), b"")

    assert sorted(file.name for file in path.parent.iterdir()) == ["receiver.db", "receiver.db.lock"]
    async with a_sqlite_store(path) as store:
        assert await store.catalog.task("tsk_1") == a_task()


async def test_the_newest_id_covers_all_tables(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        assert await store.newest_id() == ""
        await store.tasks.add(a_task(id="tsk_1"), b"")
        assert await store.newest_id() == "1"
        await store.tasks.apply(
            ById(id="tsk_1"), decide_always(Change(push=a_push("psh_3"), events=[an_event("evt_2")]))
        )
        assert await store.newest_id() == "3"
