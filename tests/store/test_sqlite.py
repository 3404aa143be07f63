"""What is SQLite's own: who may have the file, what its errors mean, how it is checked, copied, brought up to date."""

import asyncio
import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.conftest import a_sqlite_store, add_deliveries, add_route_deliveries, decide_always

from receiver.domain.errors import (
    InvalidRequest,
    StoreBroken,
    StoreError,
    StoreLocked,
    StoreUnavailable,
)
from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.database import connect_reader, connect_writer
from receiver.store.sqlite.migrate import Migration, known_migrations, migrate, upgrade
from receiver.store.sqlite.queries import queries, write_rows
from receiver.store.sqlite.store import SqliteStore

_OPEN_AND_DIE = (
    "import asyncio, os, sys, pathlib\n"
    "from receiver.store.sqlite.store import SqliteStore\n"
    "asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1])))\n"
    "os.kill(os.getpid(), 9)\n"
)


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """An up-to-date store's file with nobody else at it."""
    migrate(path)
    with closing(connect_writer(path)) as connection:
        yield connection


def make(path: Path, content: bytes, *, folder: int = 0o700, file: int = 0o600) -> None:
    path.parent.mkdir(mode=folder)
    path.touch(mode=file)
    path.write_bytes(content)


def rename(path: Path, to: Path) -> None:
    path.rename(to)


def remove(path: Path, *, keep_empty: bool = False) -> None:
    """Remove a file, or all that is in it."""
    path.unlink()
    if keep_empty:
        path.touch()


def contents(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def corrupt(path: Path, *, last: int | None = None) -> None:
    """Overwrite every page but the first, or the last ones, as a dying disk might."""
    size = path.stat().st_size
    start = 4096 if last is None else size - last * 4096
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (size - start))


def run_code(code: str, path: Path) -> int:
    """Run a program in a process of its own; give what it ended with."""
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=30).returncode


async def test_one_process_has_the_store(path: Path) -> None:
    async with a_sqlite_store(path):
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            await SqliteStore.open(path)
        with pytest.raises(StoreLocked):
            migrate(path)

    async with a_sqlite_store(path):
        pass


async def test_the_lock_goes_with_the_process_that_had_it(path: Path) -> None:
    assert run_code(_OPEN_AND_DIE, path) == -signal.SIGKILL

    async with a_sqlite_store(path):
        pass


async def test_folder_and_files_are_for_their_owner_alone(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store.add(a_task(), b"")

        modes = {file.name: mode(file) for file in path.parent.iterdir()}

    assert modes == dict.fromkeys(["receiver.db", "receiver.db-wal", "receiver.db-shm", "receiver.db.lock"], 0o600)
    assert mode(path.parent) == 0o700


async def test_a_folder_that_was_there_keeps_its_mode_and_a_file_that_was_open_to_all_is_closed(path: Path) -> None:
    make(path, b"", folder=0o755, file=0o644)

    async with a_sqlite_store(path):
        assert mode(path.parent) == 0o755
        assert mode(path) == 0o600


async def test_a_store_that_must_exist_is_not_made(path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store"):
        await SqliteStore.open(path, create=False)

    assert contents(path) is None


async def test_a_folder_that_cannot_be_written_in_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder at all")

    with pytest.raises(StoreUnavailable, match="cannot be used: ") as opened:
        await SqliteStore.open(tmp_path / "var" / "receiver.db")
    with pytest.raises(StoreUnavailable):
        migrate(tmp_path / "var" / "receiver.db")
    assert str(tmp_path / "var") in opened.value.remedy


async def test_another_programs_database_is_left_alone(path: Path) -> None:
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


def test_what_holds_no_store_is_not_vouched_for(path: Path) -> None:
    make(path, b"")
    with closing(connect_writer(path)):
        assert path.stat().st_size > 0, "an empty database is not an empty file"

    for _ in range(2):
        (fault,) = maintenance.check(path)
        with pytest.raises(StoreError) as backed_up:
            maintenance.backup(path, path.with_name("backup.db"))
        with pytest.raises(StoreError) as counted:
            maintenance.stats_at(path)
        for said in (fault, str(backed_up.value), str(counted.value)):
            assert said.endswith("contains no store. Restore a backup, or let `serve` create a new store.")
        path.write_bytes(b"")
    assert not path.with_name("backup.db").exists()


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "gone"])
async def test_a_log_whose_file_is_empty_or_gone_is_kept_and_nothing_begins_anew(path: Path, is_there: bool) -> None:
    log = path.with_name("receiver.db-wal")
    assert run_code(_OPEN_AND_DIE, path) == -signal.SIGKILL
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


async def test_what_is_no_database_is_told_as_broken(path: Path) -> None:
    make(path, b"certainly not a database " * 100)

    with pytest.raises(StoreBroken):
        await SqliteStore.open(path)


@pytest.mark.parametrize("connect", [connect_writer, connect_reader])
def test_every_connection_is_as_durable_as_can_be(raw: sqlite3.Connection, path: Path, connect: object) -> None:
    raw.execute("SELECT 1")
    with closing(connect_writer(path) if connect is connect_writer else connect_reader(path)) as connection:
        told = {
            pragma: connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_reader_cannot_write(raw: sqlite3.Connection, path: Path) -> None:
    raw.execute("SELECT 1")
    with closing(connect_reader(path)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("INSERT INTO routes VALUES ('r', 0, NULL, '')")


async def test_a_closed_store_is_one_file(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store.add(a_task(), b"")

    assert sorted(file.name for file in path.parent.iterdir()) == ["receiver.db", "receiver.db.lock"]
    async with a_sqlite_store(path) as store:
        assert await store.task("tsk_1") == a_task()


async def test_a_full_disk_refuses_what_is_new_and_lets_the_queue_drain_until_there_is_room(path: Path) -> None:
    room = 1000
    async with a_sqlite_store(path, reserve=100, free=lambda _: room) as store:
        await add_route_deliveries(store, 1)
        room = 99

        with pytest.raises(StoreUnavailable, match="almost full"):
            await store.add(a_task(id="tsk_2"), b"")
        with pytest.raises(StoreUnavailable):
            await store.apply(ById(id="tsk_1"), decide_always(Change()))
        assert len(await store.claim("publish", now=at(1), until=at(60), limit=1, claim="c")) == 1

        room = 100
        await store.add(a_task(id="tsk_2"), b"")
        assert not store.broken.is_set()


async def test_a_database_that_cannot_grow_refuses_and_takes_again_once_it_can(path: Path) -> None:
    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    async with a_sqlite_store(path) as store:
        await store.add(a_task(), b"")
        await store._writer._thread.run(limit, 1)
        large = [store.add(a_task(id=f"tsk_9{n}"), b"x" * 500_000) for n in range(5)]
        refused = await asyncio.gather(*large, return_exceptions=True)
        await store._writer._thread.run(limit, 1_000_000)

        assert {type(error) for error in refused} == {StoreUnavailable}
        assert not store.broken.is_set()
        await store.add(a_task(id="tsk_2"), b"x" * 500_000)
        assert [task.id for task in (await store.tasks()).items] == ["tsk_2", "tsk_1"]


async def test_another_writer_is_waited_for_and_then_told_as_unavailable(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store._writer._thread.run(lambda connection: connection.execute("PRAGMA busy_timeout = 10"))
        with closing(sqlite3.connect(path, isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await store.add(a_task(), b"")
            intruder.execute("ROLLBACK")

        await store.add(a_task(), b"")


async def test_a_broken_store_says_so_once_and_for_all(path: Path) -> None:
    migrate(path)
    async with a_sqlite_store(path) as store:
        # Nothing is cached of pages that were never read, nor after this.
        await store._writer._thread.run(lambda connection: connection.execute("PRAGMA shrink_memory"))
        await store._writer._thread.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
        corrupt(path)

        with pytest.raises(StoreBroken):
            await store.add(a_task(), b"")

        assert store.broken.is_set()
        with pytest.raises(StoreBroken):
            await store.add(a_task(), b"")
        with pytest.raises(StoreBroken):
            await store.tasks()
        with pytest.raises(StoreBroken):
            await store.apply(ById(id="tsk_1"), decide_always(Change()))

    with pytest.raises(StoreError):
        await SqliteStore.open(path)


@pytest.mark.parametrize("how", ["removed", "replaced by another file"])
async def test_a_store_whose_file_is_taken_away_acknowledges_nothing_more(path: Path, how: str) -> None:
    moved, log, copy = path.with_name("moved.db"), path.with_name("receiver.db-wal"), path.with_name("backup.db")
    async with a_sqlite_store(path) as store:
        await store.add(a_task(), b"")
        await store.backup(copy)
        rename(path, moved)
        if how != "removed":
            rename(copy, path)
        with pytest.raises(StoreBroken, match=f"was {how} while it was in use. Restore the original file"):
            await store.add(a_task(id="tsk_2"), b"")
        assert store.broken.is_set()
    left, kept = contents(path), contents(log)
    assert kept

    with pytest.raises(StoreError, match=r"write-ahead log|the log beside it"):
        async with a_sqlite_store(path):
            pass

    assert (contents(path), contents(log)) == (left, kept)
    rename(moved, path)
    async with a_sqlite_store(path) as store:
        assert [task.id for task in (await store.tasks()).items] == ["tsk_2", "tsk_1"]


async def test_a_file_that_replaced_a_store_is_used_once_the_others_log_is_away(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await store.add(a_task(), b"")
        await store.backup(path.with_name("backup.db"))
        rename(path.with_name("backup.db"), path)
        with pytest.raises(StoreBroken):
            await store.add(a_task(id="tsk_2"), b"")

    remove(path.with_name("receiver.db-wal"))
    async with a_sqlite_store(path) as store:
        assert [task.id for task in (await store.tasks()).items] == ["tsk_1"]
    assert not path.with_name("receiver.db.suspect").exists()


async def test_all_who_wait_learn_that_the_store_broke(path: Path) -> None:
    migrate(path)
    async with a_sqlite_store(path) as store:
        corrupt(path)
        errors = await asyncio.gather(
            *(store.add(a_task(id=f"tsk_{n}"), b"") for n in range(600)), return_exceptions=True
        )

    assert {type(error) for error in errors} == {StoreBroken}


async def test_a_store_that_broke_is_looked_through_before_it_is_trusted_again(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 200)
    mark = path.with_name("receiver.db.suspect")

    mark.touch()
    async with a_sqlite_store(path) as store:
        assert not mark.exists()
        assert len((await store.deliveries()).items) == 50

    mark.touch()
    corrupt(path, last=1)
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(path)
    assert mark.exists()


async def test_a_sound_store_has_no_faults_also_while_it_is_worked_on(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 10)
        assert maintenance.check(path) == []

    assert maintenance.check(path) == []


async def test_a_check_names_what_is_wrong(path: Path, raw: sqlite3.Connection) -> None:
    assert maintenance.check(path.with_name("none.db")) == [f"There is no store at {path.with_name('none.db')}."]

    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("INSERT INTO intents VALUES ('tsk_none', x'00')")
    raw.execute("UPDATE migrations SET checksum = 'changed'")

    faults = maintenance.check(path)
    assert len(faults) == 2
    assert "refers to a missing row of tasks" in faults[0]
    assert "0001_first_tables differs from the one" in faults[1]


async def test_a_backup_is_a_whole_store_made_while_work_goes_on(path: Path) -> None:
    target = path.with_name("backup.db")
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 100)
        adding = [store.add(a_task(id=f"tsk_b{n:03}"), b"x" * 1000) for n in range(200)]

        await asyncio.gather(store.backup(target), *adding)

        await store.add(a_task(id="tsk_after"), b"")

    assert mode(target) == 0o600
    assert sorted(file.name for file in path.parent.iterdir() if "backup" in file.name) == ["backup.db"]
    assert maintenance.check(target) == []
    async with a_sqlite_store(target) as copy:
        assert (await copy.backlog())[0].pending == 100
        assert await copy.task("tsk_after") is None


async def test_a_backup_replaces_nothing_and_keeps_nothing_unsound(path: Path, raw: sqlite3.Connection) -> None:
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
        maintenance.backup(path, path.parent / "no such folder" / "backup.db")

    assert not [file for file in path.parent.iterdir() if "backup" in file.name]


async def test_a_backup_clears_away_what_a_killed_one_left_and_nothing_else(path: Path) -> None:
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


async def test_counts_are_told_by_kind(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_deliveries(store, a_delivery())
        await store.add(a_task(id="tsk_2", state=TaskState.QUEUED), b"")
        await store.apply(ById(id="tsk_1"), decide_always(Change(push=a_push())))

        stats = await store.stats()

        assert stats == maintenance.stats_at(path)
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
    assert stats["bytes.file"] > 0


def test_a_store_is_brought_up_to_date_once(path: Path) -> None:
    assert migrate(path) == ["0001_first_tables"]
    assert migrate(path) == []


def test_each_migration_is_taken_whole_or_not_at_all(raw: sqlite3.Connection) -> None:
    good = Migration(version=2, name="more", sql="CREATE TABLE more (x);\nCREATE INDEX more_x ON more (x);\n")
    bad = Migration(version=3, name="bad", sql="CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);\n")

    with pytest.raises(sqlite3.OperationalError):
        upgrade(raw, [*known_migrations(), good, bad])

    tables = {row[0] for row in raw.execute("SELECT name FROM sqlite_schema")}
    assert "more" in tables
    assert "half" not in tables
    assert not raw.in_transaction
    assert upgrade(raw, [*known_migrations(), good]) == []


def test_a_migration_killed_midway_leaves_the_old_schema(path: Path) -> None:
    migrate(path)
    code = (
        "import os, pathlib, sys\n"
        "from receiver.store.sqlite.database import connect_writer\n"
        "from receiver.store.sqlite.migrate import Migration, upgrade, known_migrations\n"
        "sql = 'CREATE TABLE half (x);\\nINSERT INTO half SELECT killed();\\n'\n"
        "connection = connect_writer(pathlib.Path(sys.argv[1]))\n"
        "connection.create_function('killed', 0, lambda: os.kill(os.getpid(), 9))\n"
        "upgrade(connection, [*known_migrations(), Migration(version=2, name='half', sql=sql)])\n"
    )

    assert run_code(code, path) == -signal.SIGKILL
    assert maintenance.check(path) == []
    with closing(connect_reader(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema WHERE name = 'half'").fetchall() == []


async def test_a_store_of_a_newer_program_is_refused(path: Path, raw: sqlite3.Connection) -> None:
    upgrade(raw, [*known_migrations(), Migration(version=9, name="from_tomorrow", sql="CREATE TABLE tomorrow (x);")])
    raw.close()

    with pytest.raises(StoreError, match="schema version 9, newer than this program's 1"):
        await SqliteStore.open(path)
    with pytest.raises(StoreError, match="newer"):
        migrate(path)


def test_a_migration_may_hold_triggers_and_comments() -> None:
    sql = "-- one; two\nCREATE TABLE t (x);\nCREATE TRIGGER g AFTER INSERT ON t\nBEGIN\n  SELECT 1;\nEND;\n-- end\n"

    assert len(list(Migration(version=1, name="m", sql=sql).statements())) == 2
    with pytest.raises(ValueError, match="inside a statement"):
        list(Migration(version=1, name="m", sql=sql + "CREATE TABLE").statements())


HOT: dict[str, dict[str, Any]] = {
    "tasks_by_token": {},
    "has_live_token": {"token_hash": b"", "now": 1},
    "tasks_by_id": {"ids": "[]"},
    "tasks_by_idempotency_key": {"keys": "[]"},
    "due_tasks": {"state": "queued", "now": 1, "limit": 1},
    "tasks_due_after_push": {"states": "[]", "now": 1, "limit": 1},
    "make_tasks_due": {"states": "[]", "now": 1, "before": 2, "min_gap": 1},
    "next_task_due": {"states": "[]", "after": 1},
    "next_queued_tasks": {"now": 1, "head_ids": "[]"},
    "assign_fair_shares": {"tag": "project"},
    "slots_in_use": {},
    "pending_pushes": {"ids": "[]"},
    "due_routes": {},
    "due_deliveries": {"route": "r", "now": 1, "limit": 1},
    "claim_deliveries": {"claim": "c", "until": 1, "ids": "[]"},
    "delivery_claims": {"ids": "[]"},
    "task_by_kling_id": {"ref": "x"},
    "task_by_external_id": {"ref": "x"},
    "pushes_of_task": {"task_id": "x"},
    "count_tasks": {},
    "list_tasks": {"cursor": "x", "limit": 1},
    "list_events": {"task_id": "x", "limit": 1},
    "events_after": {"after": "x", "limit": 1},
    "list_deliveries": {"task_id": "x", "limit": 1},
    "attempts_of_delivery": {"delivery_id": "x"},
    "backlog": {},
    "old_push_bodies": {"before": 1, "limit": 1},
    "old_intents": {"before": 1, "after": "x", "limit": 1},
    "old_events": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "old_tasks": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "events_to_archive": {"now": 1, "exclude": "[]", "limit": 1},
    "next_archive_due": {"exclude": "[]"},
    "make_all_archiving_deliveries_due": {"now": 1},
}


@pytest.mark.parametrize("name", HOT)
def test_no_query_reads_a_whole_table(raw: sqlite3.Connection, name: str) -> None:
    query = queries()[name]
    sql = query.with_list(1) if ":many" in query.sql else query.with_optional(HOT[name])
    arguments: Any = (b"",) if ":many" in query.sql else HOT[name]

    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]

    whole = [step for step in plan if step.startswith("SCAN") and "INDEX" not in step]
    assert [step for step in whole if step.split()[1] in {"tasks", "pushes", "events", "deliveries", "attempts"}] == []


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_rows_are_written_once_each_and_in_their_order_however_many_there_are(
    raw: sqlite3.Connection, count: int
) -> None:
    rows = [(number, "somebody", "noted", "a subject", "") for number in range(count)]

    write_rows(raw, "insert_action", rows)

    assert [tuple(row)[1:] for row in raw.execute("SELECT * FROM actions ORDER BY seq")] == rows


@pytest.mark.parametrize(
    "name",
    [
        "due_tasks",
        "tasks_due_after_push",
        "due_deliveries",
        "list_tasks",
        "list_events",
        "events_after",
        "old_push_bodies",
        "old_events",
        "old_tasks",
        "events_to_archive",
    ],
)
def test_no_page_sorts_more_than_it_gives(raw: sqlite3.Connection, name: str) -> None:
    sql = queries()[name].with_optional(HOT[name])

    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", HOT[name])]

    assert [step for step in plan if "TEMP B-TREE" in step] == []


def test_a_large_backlog_costs_the_look_at_routes_nothing(raw: sqlite3.Connection) -> None:
    raw.execute("INSERT INTO events VALUES (1, 'evt_1', NULL, NULL, 'alert.x', x'', x'', 'none', 0, '[]', NULL, NULL)")
    raw.execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50000) "
        "INSERT INTO deliveries "
        "SELECT 'dlv_' || n, 'evt_1', 'r' || (n % 5), 'pending', 0, n, 0, 0, 0, NULL, 'dlv_0', NULL FROM n"
    )
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 10)
    rows = raw.execute(queries()["due_routes"].sql).fetchall()

    assert [(row["route"], row["due_at"]) for row in rows] == [("r0", 5), ("r1", 1), ("r2", 2), ("r3", 3), ("r4", 4)]
    assert steps < 100


def test_a_final_delivery_is_final_to_whoever_has_the_file(raw: sqlite3.Connection) -> None:
    raw.execute("INSERT INTO events VALUES (1, 'evt_1', NULL, NULL, 'alert.x', x'', x'', 'none', 0, '[]', NULL, NULL)")
    raw.execute("INSERT INTO deliveries VALUES ('d', 'evt_1', 'r', 'dead', 0, 0, 0, 0, 0, NULL, NULL, 1)")

    with pytest.raises(sqlite3.IntegrityError, match="a final delivery never changes"):
        raw.execute("UPDATE deliveries SET status = 'pending', finished_at = NULL")


async def test_the_newest_id_is_that_of_anything(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        assert await store.newest_id() == ""
        await store.add(a_task(id="tsk_1"), b"")
        assert await store.newest_id() == "1"
        await store.apply(ById(id="tsk_1"), decide_always(Change(push=a_push("psh_3"), events=[an_event("evt_2")])))
        assert await store.newest_id() == "3"
