"""Archiving in a PostgreSQL store: the archived files, their events, and the deliveries that wait for them."""

from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import from_micros, micros
from receiver.domain.model import ArchiveState, Event
from receiver.store import rows
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.packing import pack
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch, fetch_value, write_each, write_rows
from receiver.store.postgres.task_changes import write_events
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresArchiveStore:
    """Events whose results are archived."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Return up to *limit* events due for archiving."""
        return await self._hot.read(_due_events, now, exclude, limit)

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Return when the next event is due for archiving."""
        return await self._hot.read(_next_due, exclude)

    async def make_all_due(self, *, now: datetime) -> int:
        """Make every event due for archiving now."""
        return await self._writer.execute(_MAKE_ALL_DUE, now)

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write the update, unless archiving of the event has ended."""
        return await self._writer.execute(_SAVE, update)

    async def abandon_all(self, *, now: datetime) -> int:
        """Stop archiving all events."""
        return await self._writer.execute(_ABANDON_ALL, now)


async def _due_events(connection: Connection, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
    arguments = {"now": micros(now), "exclude": exclude, "limit": limit}
    return [rows.event(row) for row in await fetch(connection, "events_to_archive", arguments)]


async def _next_due(connection: Connection, exclude: Sequence[str]) -> datetime | None:
    due_at = await fetch_value(connection, "next_archive_due", {"exclude": exclude})
    return None if due_at is None else from_micros(due_at)


async def _save(connection: Connection, group: Sequence[ArchiveUpdate]) -> Sequence[bool]:
    alerts = [alert.event for update in group for alert in update.alerts]
    if alerts:  # before the events, for which others wait who hold a task
        await fetch(connection, "keep_tasks", {"ids": [event.task_id for event in alerts if event.task_id is not None]})
    ids = [update.event_id for update in group]
    archiving = {row["id"] for row in await fetch(connection, "events_still_archiving", {"ids": ids})}
    saved = [update for update in group if update.event_id in archiving]
    for update in saved:
        await _save_one(connection, update)
    ready = {update.event_id: micros(update.deliver_at) for update in saved if update.deliver_at is not None}
    await write_rows(connection, "make_archived_deliveries_due", ready.items())
    raised = [alert for update in saved for alert in update.alerts]
    deliveries = [delivery for alert in raised for delivery in alert.deliveries]
    await write_events(connection, [alert.event for alert in raised], deliveries)
    return [update.event_id in archiving for update in group]


async def _save_one(connection: Connection, update: ArchiveUpdate) -> None:
    await write_each(connection, "insert_asset", [rows.asset_row(update.event_id, asset) for asset in update.assets])
    saved = {
        "id": update.event_id,
        "envelope": pack(update.envelope),
        "archiving": None if update.archiving is None else update.archiving.value,
        "archive_at": rows.micros_or_none(update.archive_at),
    }
    await change(connection, "save_archived_event", saved)


async def _abandon_all(connection: Connection, group: Sequence[datetime]) -> Sequence[int]:
    counts = []
    for now in group:
        found = await fetch(connection, "hold_archiving_events")
        awaited = [(row["id"], micros(now)) for row in found if row["archiving"] == ArchiveState.PENDING]
        await write_rows(connection, "make_archived_deliveries_due", awaited)
        counts.append(await change(connection, "abandon_archiving", {"ids": [row["id"] for row in found]}))
    return counts


async def _make_all_due(connection: Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [await change(connection, "make_all_archiving_due", {"now": micros(now)}) for now in group]


_SAVE: WriteOp[ArchiveUpdate, bool] = WriteOp(write=_save, groups=True)
_ABANDON_ALL: WriteOp[datetime, int] = WriteOp(write=_abandon_all)
_MAKE_ALL_DUE: WriteOp[datetime, int] = WriteOp(write=_make_all_due)
