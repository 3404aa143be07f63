"""The event loop never waits for another process that writes, the writer's thread does; both after any error."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from store.conftest import a_sqlite_store

from receiver.store.sqlite.writer import WriteOp, Writer, bodiless

FILE, MEMORY = 1, 2
ON_THE_LOOP = (0, MEMORY)
IN_THE_THREAD = (5000, FILE)


def _read(connection: sqlite3.Connection) -> tuple[int, int]:
    timeout, storage = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("busy_timeout", "temp_store"))
    return timeout, storage


def _settings(connection: sqlite3.Connection, group: Sequence[None]) -> Sequence[tuple[int, int]]:
    return [_read(connection)] * len(group)


def _leave_open(connection: sqlite3.Connection) -> None:
    """Begin a transaction in which SQLite refuses another place for temporary data."""
    connection.execute("CREATE TEMP TABLE scratch (body)")
    connection.execute("BEGIN")


SHORT: WriteOp[None, tuple[int, int]] = WriteOp(write=_settings, size=bodiless)
LONG: WriteOp[None, tuple[int, int]] = WriteOp(write=_settings)


async def test_the_connection_is_set_up_only_if_the_last_transaction_ran_elsewhere(path: Path) -> None:
    run: list[str] = []
    async with a_sqlite_store(path) as store:
        writer = store.deliveries._writer
        await writer.run_exclusive(lambda connection: connection.set_trace_callback(run.append))

        seen = [await writer.execute(op, None) for op in (LONG, LONG, SHORT, SHORT, LONG)]

        await writer.run_exclusive(lambda connection: connection.set_trace_callback(None))
    assert seen == [IN_THE_THREAD, IN_THE_THREAD, ON_THE_LOOP, ON_THE_LOOP, IN_THE_THREAD]
    timeouts = [line for line in run if line.startswith("PRAGMA busy_timeout =")]
    assert timeouts == [f"PRAGMA busy_timeout = {timeout}" for timeout in (5000, 0, 5000)]


@pytest.mark.parametrize(
    ("before", "op", "settings"), [(LONG, SHORT, ON_THE_LOOP), (SHORT, LONG, IN_THE_THREAD)], ids=["loop", "thread"]
)
async def test_the_connection_is_set_up_again_after_that_has_failed(
    path: Path, before: WriteOp[None, tuple[int, int]], op: WriteOp[None, tuple[int, int]], settings: tuple[int, int]
) -> None:
    async with a_sqlite_store(path) as store:
        writer: Writer = store.deliveries._writer
        await writer.execute(LONG, None)
        await writer.execute(before, None)
        await writer.run_exclusive(_leave_open)
        with pytest.raises(sqlite3.OperationalError, match="temporary storage cannot be changed"):
            await writer.execute(op, None)

        assert await writer.execute(op, None) == settings
