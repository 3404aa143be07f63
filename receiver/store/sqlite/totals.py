"""Monitoring of the store's file: its state within a bounded time, and totals that survive a restart.

Triggers count dead deliveries and spent amounts in the transaction that causes them.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from receiver.store.disk import DiskSpace
from receiver.store.interfaces import StoreSnapshot, Total
from receiver.store.sqlite import catalog
from receiver.store.sqlite.database import Reader, wal_path
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import WriteOp, Writer

T = TypeVar("T")

_MAX_QUERY_SECONDS = 0.5
_STEPS_PER_CHECK = 10_000  # of SQLite's virtual machine: a fraction of a millisecond


class SqliteTotals:
    """Totals and the present state, in the store's file."""

    def __init__(self, writer: Writer, lists: Reader, path: Path, disk_space: DiskSpace) -> None:
        self._writer = writer
        self._lists = lists
        self._path = path
        self._disk_space = disk_space

    async def raise_to(self, total: Total, amount: float) -> None:
        """Set a total without a label to *amount*, unless it is higher already."""
        await self._writer.execute(_RAISE, (total, amount))

    async def read(self) -> Mapping[Total, Mapping[str, float]]:
        """Return each total's amounts by label."""
        return await self._lists.read(_read_totals)

    async def snapshot(self) -> StoreSnapshot:
        """Return the state of the store. Each query may take half a second."""
        return await self._lists.read(_snapshot, self._path, self._disk_space)


def _raise_totals(connection: sqlite3.Connection, group: Sequence[tuple[Total, float]]) -> Sequence[None]:
    connection.executemany(sql("raise_total"), group)
    return [None] * len(group)


_RAISE: WriteOp[tuple[Total, float], None] = WriteOp(write=_raise_totals)


def _read_totals(connection: sqlite3.Connection) -> Mapping[Total, Mapping[str, float]]:
    found: dict[Total, dict[str, float]] = {total: {} for total in Total}
    for row in connection.execute(sql("totals")):
        found[Total(row["name"])][row["label"]] = row["total"]
    return found


def _snapshot(connection: sqlite3.Connection, path: Path, disk_space: DiskSpace) -> StoreSnapshot:
    def read(function: Callable[[sqlite3.Connection], T]) -> T | None:
        with _limited(connection):
            return function(connection)
        return None

    return StoreSnapshot(
        tasks=read(lambda each: catalog.counts(each, None, None)),
        backlog=read(catalog.backlog),
        route_states=read(catalog.route_states),
        slots_in_use=read(catalog.slots_in_use),
        totals=read(_read_totals),
        size=_size(path),
        wal_size=_size(wal_path(path)),
        disk_free=disk_space.free(),
    )


@contextmanager
def _limited(connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt a query that takes too long, and continue after it."""
    ends_at = time.monotonic() + _MAX_QUERY_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS_PER_CHECK)
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    finally:
        connection.set_progress_handler(None, 0)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
