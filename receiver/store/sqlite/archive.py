"""What is written about results that are brought home: files, the event that tells of them, who may now be told."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import micros, moment
from receiver.domain.model import Event
from receiver.store.interfaces import Homecoming
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import Work


def awaiting(connection: sqlite3.Connection, now: datetime, without: Sequence[str], limit: int) -> Sequence[Event]:
    """Give the events whose results are to be looked after now."""
    wanted = {"now": micros(now), "without": json.dumps(without), "limit": limit}
    return [rows.event(row) for row in connection.execute(sql("archiving_events"), wanted)]


def next_at(connection: sqlite3.Connection, without: Sequence[str]) -> datetime | None:
    """Tell when results are next to be looked after."""
    row = connection.execute(sql("next_archiving"), {"without": json.dumps(without)}).fetchone()
    return None if row is None else moment(row["archive_at"])


def _bring(connection: sqlite3.Connection, group: Sequence[Homecoming]) -> Sequence[bool]:
    ids = json.dumps([homecoming.event_id for homecoming in group])
    known = {row["id"] for row in connection.execute(sql("archiving_ids"), {"ids": ids})}
    ours = [homecoming for homecoming in group if homecoming.event_id in known]
    for homecoming in ours:
        assets = [rows.asset_row(homecoming.event_id, asset) for asset in homecoming.assets]
        connection.executemany(sql("insert_asset"), assets)
        connection.execute(sql("save_archiving"), _event_row(homecoming))
        if homecoming.deliver_at is not None:
            due_at = micros(homecoming.deliver_at)
            connection.execute(sql("let_go"), (due_at, homecoming.event_id, due_at))
        for alert in homecoming.alerts:
            write_events(connection, [alert.event], alert.deliveries)
    return [homecoming.event_id in known for homecoming in group]


def _event_row(homecoming: Homecoming) -> rows.Values:
    archiving = None if homecoming.archiving is None else homecoming.archiving.value
    archive_at = None if homecoming.archive_at is None else micros(homecoming.archive_at)
    return (homecoming.envelope, archiving, archive_at, homecoming.event_id)


def _leave(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    counts = []
    for now in group:
        connection.execute(sql("let_all_go"), {"now": micros(now)})
        counts.append(connection.execute(sql("leave_archiving")).rowcount)
    return counts


def _hasten(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [connection.execute(sql("hasten_archiving"), {"now": micros(now)}).rowcount for now in group]


BRING: Work[Homecoming, bool] = Work(write=_bring)
LEAVE: Work[datetime, int] = Work(write=_leave, grows=False)
HASTEN: Work[datetime, int] = Work(write=_hasten, grows=False)
