"""Migrations, and the rules that the schema itself enforces."""

import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from harness.factories import a_task
from store.database_files import run_code

from receiver.domain.errors import StoreError
from receiver.domain.model import ClientCallbacks
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.database import connect_reader
from receiver.store.sqlite.migrate import Migration, known_migrations, migrate, upgrade
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.store import SqliteStore


def test_a_store_is_migrated_once(path: Path) -> None:
    applied = migrate(path)

    assert applied[0] == "0001_first_tables"
    assert applied == [f"{step.version:04d}_{step.name}" for step in known_migrations()]
    assert migrate(path) == []


def test_each_migration_is_applied_completely_or_not_at_all(raw: sqlite3.Connection) -> None:
    good = Migration(version=1002, name="more", sql="CREATE TABLE more (x);\nCREATE INDEX more_x ON more (x);\n")
    bad = Migration(version=1003, name="bad", sql="CREATE TABLE half (x);\nINSERT INTO nowhere VALUES (1);\n")

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
        "upgrade(connection, [*known_migrations(), Migration(version=1002, name='half', sql=sql)])\n"
    )

    assert run_code(code, path) == -signal.SIGKILL
    assert maintenance.check(path) == []
    with closing(connect_reader(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema WHERE name = 'half'").fetchall() == []


def test_a_sqlite_that_forbids_to_change_the_schema_is_named(raw: sqlite3.Connection) -> None:
    step = Migration(version=1002, name="text", sql="UPDATE sqlite_schema SET sql = sql;\n")

    with pytest.raises(StoreError, match=rf"build of SQLite \({sqlite3.sqlite_version}\) forbids to change the schema"):
        upgrade(raw, [*known_migrations(), step])


def test_a_failed_migration_does_not_leave_the_schema_writable(raw: sqlite3.Connection) -> None:
    sql = "PRAGMA writable_schema = ON;\nINSERT INTO nowhere VALUES (1);\n"

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        upgrade(raw, [*known_migrations(), Migration(version=1002, name="half", sql=sql)])

    assert raw.execute("PRAGMA writable_schema").fetchone()[0] == 0


async def test_a_newer_store_is_refused(path: Path, raw: sqlite3.Connection) -> None:
    upgrade(raw, [*known_migrations(), Migration(version=1009, name="from_tomorrow", sql="CREATE TABLE tomorrow (x);")])
    raw.close()

    newest = known_migrations()[-1].version
    with pytest.raises(StoreError, match=f"schema version 1009, newer than this program's {newest}"):
        await SqliteStore.open(path)
    with pytest.raises(StoreError, match="newer"):
        migrate(path)


def test_a_migration_may_contain_triggers_and_comments() -> None:
    sql = "-- one; two\nCREATE TABLE t (x);\nCREATE TRIGGER g AFTER INSERT ON t\nBEGIN\n  SELECT 1;\nEND;\n-- end\n"

    assert len(list(Migration(version=1, name="m", sql=sql).statements())) == 2
    with pytest.raises(ValueError, match="inside a statement"):
        list(Migration(version=1, name="m", sql=sql + "CREATE TABLE").statements())


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("insert_push", 0),
        ("insert_event", 0),
        ("insert_delivery", 0),
        ("record_verdict", 4),  # two for the rows to update, one for dead deliveries, and one for what it returns
        ("save_tasks", 4),  # two for the rows to update, and two for tasks in a batch
    ],
)
def test_a_frequent_write_makes_no_temporary_table_for_a_list_of_allowed_values(
    raw: sqlite3.Connection, name: str, tables: int
) -> None:
    columns = {"columns": "state, kling_state", "placeholders": "?, ?", "assignments": "state = 1, kling_state = 1"}
    statement = re.sub(r":(\w+)", lambda found: columns[found[1]], sql(name))

    steps = raw.execute(f"EXPLAIN {statement}", [None] * statement.count("?")).fetchall()

    assert [step["opcode"] for step in steps].count("OpenEphemeral") == tables


@pytest.mark.parametrize(
    "change",
    [
        "tasks SET origin = 'x'",
        "tasks SET state = 'x'",
        "tasks SET kling_state = 'x'",
        "tasks SET end_reason = 'x', state = 'expired'",
        "tasks SET client_callbacks = 'x'",
        "pushes SET source = 'x'",
        "pushes SET outcome = 'x'",
        "events SET verified = 'x'",
        "events SET archiving = 'x', archive_at = 0",
        "deliveries SET status = 'x'",
    ],
)
async def test_the_schema_refuses_unknown_values(path: Path, raw: sqlite3.Connection, change: str) -> None:
    store = await SqliteStore.open(path)
    await store.tasks.add(a_task(id="tsk_1"), b"")
    await store.aclose()
    raw.execute("INSERT INTO pushes VALUES ('psh_1', 'tsk_1', 'poll', '[]', x'', zeroblob(32), 0, 'applied')")
    raw.execute("INSERT INTO events VALUES (1, 'evt_1', NULL, NULL, 'alert.x', x'', x'', 'none', 0, '[]', NULL, NULL)")
    raw.execute("INSERT INTO deliveries VALUES ('d', 'evt_1', 'r', 'pending', 0, 0, 0, 0, 0, NULL, NULL, NULL)")

    with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
        raw.execute(f"UPDATE {change}")


def test_the_schema_refuses_to_change_a_final_delivery(raw: sqlite3.Connection) -> None:
    raw.execute("INSERT INTO events VALUES (1, 'evt_1', NULL, NULL, 'alert.x', x'', x'', 'none', 0, '[]', NULL, NULL)")
    raw.execute("INSERT INTO deliveries VALUES ('d', 'evt_1', 'r', 'dead', 0, 0, 0, 0, 0, NULL, NULL, 1)")

    with pytest.raises(sqlite3.IntegrityError, match="a final delivery never changes"):
        raw.execute("UPDATE deliveries SET status = 'pending', finished_at = NULL")


async def test_the_schema_refuses_to_send_a_client_the_end_twice(path: Path, raw: sqlite3.Connection) -> None:
    store = await SqliteStore.open(path)
    await store.tasks.add(a_task(client_callbacks=ClientCallbacks.ENDED), b"")
    await store.aclose()

    with pytest.raises(sqlite3.IntegrityError, match="a client receives the end of its task once"):
        raw.execute("UPDATE tasks SET client_callbacks = 'final'")
