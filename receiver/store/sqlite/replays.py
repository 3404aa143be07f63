"""Replays in the store's file: their selections, their steps and the replays of single deliveries."""

import sqlite3
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
from receiver.store.replay_rows import (
    advance_arguments,
    read_count,
    read_item,
    read_replay,
    replay_row,
    selection_query,
)
from receiver.store.sqlite import catalog
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import change_audited, json_arguments, queries, sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteReplayStore:
    """Replays, in the store's file."""

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


def _high_water_mark(connection: sqlite3.Connection) -> str:
    """Return the newest id of the deliveries and events without its prefix, because ids sort by the rest."""
    row = connection.execute(sql("replay_high_water_mark")).fetchone()
    return max((id_.partition("_")[2] for id_ in (row["delivery"], row["event"]) if id_ is not None), default="")


def _count(connection: sqlite3.Connection, replay: Replay) -> Sequence[ReplayCount]:
    name, arguments = selection_query(replay)
    selected = queries()[name].with_optional(arguments)
    statement = sql("count_replay_items").replace(":items", f"({selected})")
    found = connection.execute(statement, json_arguments({**arguments, "limit": -1}))
    return [read_count(row) for row in found]


def _next_items(connection: sqlite3.Connection, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
    name, arguments = selection_query(replay)
    statement = queries()[name].with_optional(arguments)
    found = connection.execute(statement, json_arguments({**arguments, "limit": limit}))
    return [read_item(row) for row in found]


def _find(connection: sqlite3.Connection, replay_id: str) -> Replay | None:
    row = connection.execute(sql("replay"), {"id": replay_id}).fetchone()
    return None if row is None else read_replay(row)


def _running(connection: sqlite3.Connection) -> Sequence[Replay]:
    return [read_replay(row) for row in connection.execute(sql("running_replays"))]


def _make_due(connection: sqlite3.Connection, group: Sequence[MakeDueCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "make_delivery_due",
            {"id": call.delivery_id, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


def _add_repeat(connection: sqlite3.Connection, group: Sequence[AddRepeatCall]) -> Sequence[None]:
    connection.executemany(sql("insert_delivery"), [delivery_rows.delivery_row(call.delivery) for call in group])
    connection.executemany(sql("insert_action"), [rows.action_row(call.action) for call in group])
    return [None] * len(group)


def _add(connection: sqlite3.Connection, group: Sequence[AddReplayCall]) -> Sequence[None]:
    connection.executemany(sql("insert_replay"), [replay_row(call.replay) for call in group])
    connection.executemany(sql("insert_action"), [rows.action_row(call.action) for call in group])
    return [None] * len(group)


def _advance(connection: sqlite3.Connection, group: Sequence[ReplayStep]) -> Sequence[bool]:
    return [_advance_one(connection, step) for step in group]


def _advance_one(connection: sqlite3.Connection, step: ReplayStep) -> bool:
    if connection.execute(sql("advance_replay"), advance_arguments(step)).rowcount != 1:
        return False
    connection.executemany(sql("insert_delivery"), map(delivery_rows.delivery_row, step.deliveries))
    return True


def _cancel(connection: sqlite3.Connection, group: Sequence[CancelCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "cancel_replay",
            {"id": call.replay_id, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


_MAKE_DUE: WriteOp[MakeDueCall, bool] = WriteOp(write=_make_due, uses_disk=False)
_ADD_REPEAT: WriteOp[AddRepeatCall, None] = WriteOp(write=_add_repeat)
_ADD_REPLAY: WriteOp[AddReplayCall, None] = WriteOp(write=_add)
_ADVANCE: WriteOp[ReplayStep, bool] = WriteOp(write=_advance)
_CANCEL: WriteOp[CancelCall, bool] = WriteOp(write=_cancel, uses_disk=False)
