"""Archiving in the store's file: the archived files, their events, and the deliveries that wait for them."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import from_micros, micros
from receiver.domain.model import Event
from receiver.store import rows
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.packing import pack
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.task_changes import write_events
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteArchiveStore:
    """Events whose results are archived, in the store's file."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Return up to *limit* events due for archiving."""
        return await self._hot.read(due_events, now, exclude, limit)

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Return when the next event is due for archiving."""
        return await self._hot.read(next_due, exclude)

    async def make_all_due(self, *, now: datetime) -> int:
        """Make every event due for archiving now."""
        return await self._writer.execute(_MAKE_ALL_DUE, now)

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write the update, unless archiving of the event has ended."""
        return await self._writer.execute(_SAVE, update)

    async def abandon_all(self, *, now: datetime) -> int:
        """Stop archiving all events."""
        return await self._writer.execute(_ABANDON_ALL, now)


def due_events(connection: sqlite3.Connection, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
    """Return the events due for archiving."""
    arguments = {"now": micros(now), "exclude": json.dumps(exclude), "limit": limit}
    return [rows.event(row) for row in connection.execute(sql("events_to_archive"), arguments)]


def next_due(connection: sqlite3.Connection, exclude: Sequence[str]) -> datetime | None:
    """Return when the next event is due for archiving."""
    row = connection.execute(sql("next_archive_due"), {"exclude": json.dumps(exclude)}).fetchone()
    return None if row is None else from_micros(row["archive_at"])


def _save(connection: sqlite3.Connection, group: Sequence[ArchiveUpdate]) -> Sequence[bool]:
    ids = json.dumps([update.event_id for update in group])
    archiving = {row["id"] for row in connection.execute(sql("events_still_archiving"), {"ids": ids})}
    for update in group:
        if update.event_id in archiving:
            _save_one(connection, update)
    return [update.event_id in archiving for update in group]


def _save_one(connection: sqlite3.Connection, update: ArchiveUpdate) -> None:
    connection.executemany(sql("insert_asset"), [rows.asset_row(update.event_id, asset) for asset in update.assets])
    connection.execute(sql("save_archived_event"), _event_row(update))
    if update.deliver_at is not None:
        due_at = micros(update.deliver_at)
        connection.execute(sql("make_archived_deliveries_due"), (due_at, update.event_id, due_at))
    for alert in update.alerts:
        write_events(connection, [alert.event], alert.deliveries)


def _event_row(update: ArchiveUpdate) -> rows.Values:
    archiving = None if update.archiving is None else update.archiving.value
    archive_at = None if update.archive_at is None else micros(update.archive_at)
    return (pack(update.envelope), archiving, archive_at, update.event_id)


def _abandon_all(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    counts = []
    for now in group:
        connection.execute(sql("make_all_archiving_deliveries_due"), {"now": micros(now)})
        counts.append(connection.execute(sql("abandon_all_archiving")).rowcount)
    return counts


def _make_all_due(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [connection.execute(sql("make_all_archiving_due"), {"now": micros(now)}).rowcount for now in group]


_SAVE: WriteOp[ArchiveUpdate, bool] = WriteOp(write=_save)
_ABANDON_ALL: WriteOp[datetime, int] = WriteOp(write=_abandon_all, uses_disk=False)
_MAKE_ALL_DUE: WriteOp[datetime, int] = WriteOp(write=_make_all_due, uses_disk=False)
