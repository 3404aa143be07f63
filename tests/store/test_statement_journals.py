"""Where SQLite keeps what a statement would undo: in memory on the event loop, else in a file, as it may be large."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from store.conftest import a_sqlite_store

from receiver.store.sqlite.writer import WriteOp, bodiless

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc to see which files are open")


def _fill(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body UNIQUE)")
    connection.executemany("INSERT INTO notes (body) VALUES (?)", [(f"{number:0500}",) for number in range(500)])


def _rewrite(connection: sqlite3.Connection, group: Sequence[None]) -> Sequence[bool]:
    """Change every row with one statement. Return whether SQLite has opened a temporary file for it."""
    connection.execute("UPDATE notes SET body = body || 'x'")
    opened = [descriptor.readlink().name for descriptor in DESCRIPTORS.iterdir() if descriptor.is_symlink()]
    return [any(name.startswith("etilqs") for name in opened)] * len(group)


SHORT: WriteOp[None, bool] = WriteOp(write=_rewrite, size=bodiless)
LONG: WriteOp[None, bool] = WriteOp(write=_rewrite)


async def test_only_a_transaction_in_the_writers_thread_uses_temporary_files(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        writer = store.deliveries._writer
        await writer.run_exclusive(_fill)

        used_file = [await writer.execute(op, None) for op in (LONG, SHORT, LONG, SHORT)]

    assert used_file == [True, False, True, False]
