"""Replays in a PostgreSQL store: their selections, their steps and the replays of single deliveries."""

from collections.abc import Sequence
from datetime import datetime

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import micros
from receiver.domain.model import Delivery
from receiver.domain.replays import Replay, ReplayCount, ReplayItem, ReplayStep
from receiver.store import delivery_rows, rows
from receiver.store.calls import AddRepeatCall, AddReplayCall, CancelCall, MakeDueCall
from receiver.store.cursors import decode_cursor
from receiver.store.interfaces import Page
from receiver.store.postgres import catalog
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, change_audited, fetch, fetch_row, write_each, write_rows
from receiver.store.postgres.writer import WriteOp, Writer
from receiver.store.replay_rows import (
    advance_arguments,
    read_count,
    read_item,
    read_replay,
    replay_row,
    selection_query,
)


class PostgresReplayStore:
    """Replays."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def make_due(self, delivery_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Make a pending delivery due now; return False if it is not pending or an attempt is in progress."""
        return await self._writer.execute(_MAKE_DUE, MakeDueCall(delivery_id=delivery_id, now=now, action=action))

    async def add_repeat(self, delivery: Delivery, *, action: AuditEntry) -> None:
        """Store a delivery that repeats another one."""
        await self._writer.execute(_ADD_REPEAT, AddRepeatCall(delivery=delivery, action=action))

    async def high_water_mark(self) -> str:
        """Return the newest id stored, which becomes a new replay's ``last``."""
        return await self._lists.read(_high_water_mark)

    async def count(self, replay: Replay) -> Sequence[ReplayCount]:
        """Count the remaining items of a replay, stored or not, by route and status."""
        return await self._lists.read(_count, replay)

    async def next_items(self, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
        """Return the next items of a replay, oldest first; each event occurs once per route."""
        return await self._lists.read(_next_items, replay, limit=limit)

    async def add(self, replay: Replay, *, action: AuditEntry) -> None:
        """Store a replay."""
        await self._writer.execute(_ADD_REPLAY, AddReplayCall(replay=replay, action=action))

    async def advance(self, step: ReplayStep) -> bool:
        """Store a step's deliveries and its progress, all or nothing; return False if the replay has changed."""
        return await self._writer.execute(_ADVANCE, step)

    async def cancel(self, replay_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Cancel a replay; return False if it is not running."""
        return await self._writer.execute(_CANCEL, CancelCall(replay_id=replay_id, now=now, action=action))

    async def running(self) -> Sequence[Replay]:
        """Return the running replays, oldest first."""
        return await self._lists.read(_running)

    async def find(self, replay_id: str) -> Replay | None:
        """Find a replay."""
        return await self._lists.read(_find, replay_id)

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Replay]:
        """List replays, newest first."""
        arguments = {"cursor": decode_cursor(cursor, prefix="rpl")}
        return await self._lists.read(catalog.page, "list_replays", arguments, limit=limit, read=read_replay)


async def _high_water_mark(connection: Connection) -> str:
    """Return the newest id of the deliveries and events without its prefix, because ids sort by the rest."""
    row = await fetch_row(connection, "replay_high_water_mark")
    assert row is not None  # noqa: S101 -- a SELECT without FROM has one row
    return max((id_.partition("_")[2] for id_ in row.values() if id_ is not None), default="")


async def _count(connection: Connection, replay: Replay) -> Sequence[ReplayCount]:
    name, arguments = selection_query(replay)
    found = await fetch(connection, name, {**arguments, "counted": True, "limit": None})
    return [read_count(row) for row in found]


async def _next_items(connection: Connection, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
    name, arguments = selection_query(replay)
    return [read_item(row) for row in await fetch(connection, name, {**arguments, "limit": limit})]


async def _find(connection: Connection, replay_id: str) -> Replay | None:
    row = await fetch_row(connection, "replay", {"id": replay_id})
    return None if row is None else read_replay(row)


async def _running(connection: Connection) -> Sequence[Replay]:
    return [read_replay(row) for row in await fetch(connection, "running_replays")]


async def _make_due(connection: Connection, group: Sequence[MakeDueCall]) -> Sequence[bool]:
    return [
        await change_audited(
            connection,
            "make_delivery_due",
            {"id": call.delivery_id, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


async def _add_repeat(connection: Connection, group: Sequence[AddRepeatCall]) -> Sequence[None]:
    await write_rows(connection, "insert_delivery", [delivery_rows.delivery_row(call.delivery) for call in group])
    await write_rows(connection, "insert_action", [rows.action_row(call.action) for call in group])
    return [None] * len(group)


async def _add(connection: Connection, group: Sequence[AddReplayCall]) -> Sequence[None]:
    await write_each(connection, "insert_replay", [replay_row(call.replay) for call in group])
    await write_rows(connection, "insert_action", [rows.action_row(call.action) for call in group])
    return [None] * len(group)


async def _advance(connection: Connection, group: Sequence[ReplayStep]) -> Sequence[bool]:
    return [await _advance_one(connection, step) for step in group]


async def _advance_one(connection: Connection, step: ReplayStep) -> bool:
    if await change(connection, "advance_replay", advance_arguments(step)) != 1:
        return False
    repeated = sorted(step.deliveries, key=lambda delivery: delivery.event_id)  # a delivery locks its event
    await write_rows(connection, "insert_delivery", map(delivery_rows.delivery_row, repeated))
    return True


async def _cancel(connection: Connection, group: Sequence[CancelCall]) -> Sequence[bool]:
    return [
        await change_audited(
            connection,
            "cancel_replay",
            {"id": call.replay_id, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


_MAKE_DUE: WriteOp[MakeDueCall, bool] = WriteOp(write=_make_due)
_ADD_REPEAT: WriteOp[AddRepeatCall, None] = WriteOp(write=_add_repeat)
_ADD_REPLAY: WriteOp[AddReplayCall, None] = WriteOp(write=_add)
_ADVANCE: WriteOp[ReplayStep, bool] = WriteOp(write=_advance)
_CANCEL: WriteOp[CancelCall, bool] = WriteOp(write=_cancel)
