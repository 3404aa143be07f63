"""What is written about results that are brought home: files, the event that tells of them, who may now be told."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import from_micros, micros
from receiver.domain.model import Event
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import WriteOp


def due_events(connection: sqlite3.Connection, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
    """Give the events whose results are to be looked after now."""
    wanted = {"now": micros(now), "exclude": json.dumps(exclude), "limit": limit}
    return [rows.event(row) for row in connection.execute(sql("events_to_archive"), wanted)]


def next_due(connection: sqlite3.Connection, exclude: Sequence[str]) -> datetime | None:
    """Tell when results are next to be looked after."""
    row = connection.execute(sql("next_archive_due"), {"exclude": json.dumps(exclude)}).fetchone()
    return None if row is None else from_micros(row["archive_at"])


def _save(connection: sqlite3.Connection, group: Sequence[ArchiveUpdate]) -> Sequence[bool]:
    ids = json.dumps([homecoming.event_id for homecoming in group])
    known = {row["id"] for row in connection.execute(sql("events_still_archiving"), {"ids": ids})}
    ours = [homecoming for homecoming in group if homecoming.event_id in known]
    for homecoming in ours:
        assets = [rows.asset_row(homecoming.event_id, asset) for asset in homecoming.assets]
        connection.executemany(sql("insert_asset"), assets)
        connection.execute(sql("save_archived_event"), _event_row(homecoming))
        if homecoming.deliver_at is not None:
            due_at = micros(homecoming.deliver_at)
            connection.execute(sql("make_archived_deliveries_due"), (due_at, homecoming.event_id, due_at))
        for alert in homecoming.alerts:
            write_events(connection, [alert.event], alert.deliveries)
    return [homecoming.event_id in known for homecoming in group]


def _event_row(update: ArchiveUpdate) -> rows.Values:
    archiving = None if update.archiving is None else update.archiving.value
    archive_at = None if update.archive_at is None else micros(update.archive_at)
    return (update.envelope, archiving, archive_at, update.event_id)


def _abandon_all(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    counts = []
    for now in group:
        connection.execute(sql("make_all_archiving_deliveries_due"), {"now": micros(now)})
        counts.append(connection.execute(sql("abandon_all_archiving")).rowcount)
    return counts


def _make_all_due(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [connection.execute(sql("make_all_archiving_due"), {"now": micros(now)}).rowcount for now in group]


SAVE: WriteOp[ArchiveUpdate, bool] = WriteOp(write=_save)
ABANDON_ALL: WriteOp[datetime, int] = WriteOp(write=_abandon_all, uses_disk=False)
MAKE_ALL_DUE: WriteOp[datetime, int] = WriteOp(write=_make_all_due, uses_disk=False)
