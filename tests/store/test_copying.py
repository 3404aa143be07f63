"""A whole store is copied to another database, compared row by row, and continued after a kill."""

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from harness.factories import a_task, an_event
from harness.full_store import fill_every_table
from store.conftest import a_postgres_store, a_sqlite_store

from receiver.domain.errors import InvalidRequest, StoreError, StoreLocked
from receiver.store.copying import TABLES, CopiedTable, copy_store
from receiver.store.postgres.copying import PostgresCopySource, PostgresCopyTarget
from receiver.store.postgres.database import Address
from receiver.store.sqlite.copying import SqliteCopySource, SqliteCopyTarget
from receiver.store.sqlite.database import connect_writer
from receiver.store.sqlite.migrate import known_migrations, upgrade

DERIVED = {
    "migrations",
    "cost_counts",
    "running_slots",
    "sqlite_sequence",
    "nodes",
    "leases",
    "calls",
    "console_sessions",
    "console_links",
}
"""Tables that are not copied: what triggers or migrations fill, what belongs to running processes, and logins."""


def quiet(_what: str, _done: int, _total: int) -> None:
    return


async def to_postgres(path: Path, url: str, **options: Any) -> dict[str, CopiedTable]:
    with SqliteCopySource.open(path) as source:
        async with PostgresCopyTarget.open_new(Address(url=url), origin=source.label) as target:
            return by_name(await copy_store(source, target, options.get("report", quiet)))


async def to_sqlite(url: str, path: Path, **options: Any) -> dict[str, CopiedTable]:
    async with PostgresCopySource.open(Address(url=url)) as source:
        with SqliteCopyTarget.open_new(path, origin=source.label) as target:
            return by_name(await copy_store(source, target, options.get("report", quiet)))


def by_name(tables: Any) -> dict[str, CopiedTable]:
    return {table.name: table for table in tables}


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table.name: sorted(connection.execute(f"SELECT * FROM {table.name}"))  # noqa: S608 -- our own names
            for table in TABLES
        }


@pytest.fixture
async def full(path: Path) -> Path:
    """A closed store with rows in every table."""
    async with a_sqlite_store(path) as store:
        await fill_every_table(store)
    return path


async def test_the_filled_store_has_rows_in_every_table(full: Path) -> None:
    assert [name for name, rows in everything(full).items() if not rows] == []


async def test_a_copy_has_every_row_and_comes_back_the_same(full: Path, postgres_url: str, tmp_path: Path) -> None:
    there = await to_postgres(full, postgres_url)
    back = await to_sqlite(postgres_url, tmp_path / "back" / "receiver.db")

    assert there == back
    assert everything(tmp_path / "back" / "receiver.db") == everything(full)
    assert there["tasks"].rows == 2
    assert re.fullmatch("[0-9a-f]{64}", there["tasks"].digest)


async def test_a_service_continues_with_a_copy(full: Path, postgres_url: str) -> None:
    async with a_sqlite_store(full) as before:
        spent = await before.totals.read()
        newest = (await before.catalog.events()).items[0]
    await to_postgres(full, postgres_url)

    async with a_postgres_store(postgres_url) as after:
        assert await after.totals.read() == spent
        assert (await after.catalog.events()).items[0] == newest
        assert (await after.catalog.task("k000000")) is not None
        added = an_event("evt_new", type="task.processing", task_id="tsk_000000")
        await after.tasks.add_events([added], [])
        assert [event.id for event in (await after.catalog.events(after=newest.id)).items][-1:] == ["evt_new"]


async def test_every_table_of_both_schemas_is_copied(full: Path, postgres_url: str) -> None:
    names = {table.name for table in TABLES}
    with closing(sqlite3.connect(full)) as raw:
        in_file = {row[0] for row in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    connection = await asyncpg.connect(postgres_url)
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()

    assert in_file - DERIVED == names
    assert {row["tablename"] for row in found} - DERIVED == names


COPY_UNTIL_KILLED = """
import asyncio, os, pathlib, sys
from receiver.store import copying
from receiver.store.postgres.copying import PostgresCopySource, PostgresCopyTarget
from receiver.store.postgres.database import Address
from receiver.store.sqlite.copying import SqliteCopySource, SqliteCopyTarget

copying._MAX_ROWS = 1
direction, path, address, left = sys.argv[1], pathlib.Path(sys.argv[2]), Address(url=sys.argv[3]), int(sys.argv[4])

def report(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)

async def copy():
    if direction == "to postgres":
        with SqliteCopySource.open(path) as source:
            async with PostgresCopyTarget.open_new(address, origin=source.label) as target:
                await copying.copy_store(source, target, report)
    else:
        async with PostgresCopySource.open(address) as source:
            with SqliteCopyTarget.open_new(path, origin=source.label) as target:
                await copying.copy_store(source, target, report)

asyncio.run(copy())
"""


def copy_until_killed(direction: str, path: Path, url: str, *, reports: int) -> int:
    command = [sys.executable, "-c", COPY_UNTIL_KILLED, direction, str(path), url, str(reports)]
    return subprocess.run(command, check=False, timeout=60).returncode


async def test_a_killed_copy_is_not_opened_and_continues_where_it_was(
    full: Path, postgres_url: str, tmp_path: Path
) -> None:
    for reports in (3, 12, 17):
        assert copy_until_killed("to postgres", full, postgres_url, reports=reports) == -signal.SIGKILL
        with pytest.raises(StoreError, match=r"unfinished copy of a store\. Finish it with `kling-receiver db copy`"):
            async with a_postgres_store(postgres_url):
                pass

    seen: list[str] = []
    await to_postgres(full, postgres_url, report=lambda what, *_: seen.append(what))

    assert "copy tasks" not in seen  # all of it was there
    assert "copy counters" in seen
    back = tmp_path / "back.db"
    for reports in (3, 30):
        assert copy_until_killed("to sqlite", back, postgres_url, reports=reports) == -signal.SIGKILL
        assert not back.exists()
    await to_sqlite(postgres_url, back)
    assert everything(back) == everything(full)


async def test_a_row_that_changed_since_the_copy_began_is_named(full: Path, postgres_url: str) -> None:
    assert copy_until_killed("to postgres", full, postgres_url, reports=9) == -signal.SIGKILL
    with closing(sqlite3.connect(full)) as connection, connection:
        connection.execute("UPDATE tasks SET label = 'changed' WHERE id = 'tsk_000001'")

    with pytest.raises(StoreError, match=r"differs from sqlite:.* in the table tasks, first at id tsk_000001"):
        await to_postgres(full, postgres_url)
    with pytest.raises(StoreError, match="unfinished copy"):
        async with a_postgres_store(postgres_url):
            pass


async def test_a_target_with_other_data_is_refused(full: Path, postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as other:
        await other.tasks.add(a_task(), b"")

    with pytest.raises(InvalidRequest, match="has data already, first in the table tasks"):
        await to_postgres(full, postgres_url)
    with pytest.raises(InvalidRequest, match="exists already"):
        await to_sqlite(postgres_url, full)


async def test_the_unfinished_copy_of_another_store_is_refused(full: Path, postgres_url: str, tmp_path: Path) -> None:
    assert copy_until_killed("to postgres", full, postgres_url, reports=2) == -signal.SIGKILL
    other = tmp_path / "other.db"
    async with a_sqlite_store(other):
        pass

    with pytest.raises(InvalidRequest, match="has an unfinished copy of sqlite:"):
        await to_postgres(other, postgres_url)


async def test_a_store_in_use_is_not_copied(full: Path, postgres_url: str, tmp_path: Path) -> None:
    async with a_sqlite_store(full):
        with pytest.raises(StoreLocked, match="in use by process"):
            await to_postgres(full, postgres_url)

    async with a_postgres_store(postgres_url) as store:
        await store.check_commit()
        with pytest.raises(StoreLocked, match="in use by 1 other sessions"):
            await to_postgres(full, postgres_url)
        with pytest.raises(StoreLocked, match="in use by"):
            await to_sqlite(postgres_url, tmp_path / "new.db")


async def test_a_missing_source_is_not_copied(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        await to_postgres(tmp_path / "missing.db", postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()

    with pytest.raises(StoreError, match="contains no store"):
        await to_sqlite(postgres_url, tmp_path / "new.db")


async def test_a_source_with_an_older_schema_must_be_migrated_first(path: Path, postgres_url: str) -> None:
    path.parent.mkdir()
    with closing(connect_writer(path)) as connection:
        upgrade(connection, known_migrations()[:-1])

    with pytest.raises(StoreError, match="has an older schema"):
        await to_postgres(path, postgres_url)
