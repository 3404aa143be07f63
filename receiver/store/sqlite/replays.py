"""What goes out again because a person asked for it: what a replay is about, its next steps, single deliveries."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import from_micros, micros
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.replays import Replay, ReplayCount, ReplayItem, ReplayState, ReplayStep
from receiver.store.interfaces import Page
from receiver.store.sqlite import catalog, rows
from receiver.store.sqlite.catalog import decode_cursor, json_list
from receiver.store.sqlite.queries import change_audited, queries, sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteReplayStore:
    """What is to go out again, in the store's file."""

    def __init__(self, writer: Writer, read: Callable[..., Awaitable[Any]]) -> None:
        self._writer = writer
        self._read = read

    async def make_due(self, delivery_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Make a waiting delivery due now; False where it does not wait, or is being tried."""
        return await self._writer.execute(_MAKE_DUE, MakeDueCall(delivery_id=delivery_id, now=now, action=action))

    async def add_repeat(self, delivery: Delivery, *, action: AuditEntry) -> None:
        """Store a delivery that points at the one it repeats."""
        await self._writer.execute(_ADD_REPEAT, AddRepeatCall(delivery=delivery, action=action))

    async def high_water_mark(self) -> str:
        """Tell where the present ends: what a replay's ``last`` is to be."""
        found: str = await self._read(_high_water_mark)
        return found

    async def count(self, replay: Replay) -> Sequence[ReplayCount]:
        """Count what a replay, stored or only thought of, has before it."""
        counted: Sequence[ReplayCount] = await self._read(_count, replay)
        return counted

    async def next_items(self, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
        """Give what a replay has before it, oldest first, each event once for each route."""
        found: Sequence[ReplayItem] = await self._read(_next_items, replay, limit=limit)
        return found

    async def add(self, replay: Replay, *, action: AuditEntry) -> None:
        """Store a replay."""
        await self._writer.execute(_ADD_REPLAY, AddCall(replay=replay, action=action))

    async def advance(self, step: ReplayStep) -> bool:
        """Store a step's deliveries and how far it went, all or nothing; False where the replay moved meanwhile."""
        return await self._writer.execute(_ADVANCE, step)

    async def cancel(self, replay_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """End a replay before its end; False where it is not under way."""
        return await self._writer.execute(_CANCEL, CancelCall(replay_id=replay_id, now=now, action=action))

    async def running(self) -> Sequence[Replay]:
        """Give the replays that are under way, oldest first."""
        found: Sequence[Replay] = await self._read(_running)
        return found

    async def find(self, replay_id: str) -> Replay | None:
        """Find a replay."""
        found: Replay | None = await self._read(_find, replay_id)
        return found

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Replay]:
        """List replays, newest first."""
        wanted = {"cursor": decode_cursor(cursor, prefix="rpl")}
        page: Page[Replay] = await self._read(catalog.page, "list_replays", wanted, limit=limit, read=rows.replay)
        return page


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDueCall:
    """One call of ``hurry``."""

    delivery_id: str
    now: datetime
    action: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRepeatCall:
    """One call of ``repeat``."""

    delivery: Delivery
    action: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCall:
    """One call of ``add``."""

    replay: Replay
    action: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """One call of ``cancel``."""

    replay_id: str
    now: datetime
    action: AuditEntry


def _high_water_mark(connection: sqlite3.Connection) -> str:
    """Give the newest id there is among deliveries and events, without its prefix, which is what ids sort by."""
    row = connection.execute(sql("replay_high_water_mark")).fetchone()
    return max((id_.partition("_")[2] for id_ in (row["delivery"], row["event"]) if id_ is not None), default="")


def _count(connection: sqlite3.Connection, replay: Replay) -> Sequence[ReplayCount]:
    """Count what a replay is about, by route and status."""
    name, wanted = _selection_query(replay)
    chosen = queries()[name].with_optional(wanted)
    statement = sql("count_replay_items").replace(":items", f"({chosen})")
    return [
        ReplayCount(
            route=row["route"],
            status=None if row["status"] is None else DeliveryStatus(row["status"]),
            count=row["count"],
            oldest=from_micros(row["oldest"]),
            newest=from_micros(row["newest"]),
        )
        for row in connection.execute(statement, {**wanted, "limit": -1})
    ]


def _next_items(connection: sqlite3.Connection, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
    """Give what a replay is to bring out next, oldest first."""
    name, wanted = _selection_query(replay)
    rows = connection.execute(queries()[name].with_optional(wanted), {**wanted, "limit": limit})
    return [
        ReplayItem(
            position=row["position"],
            event_id=row["event_id"],
            event_type=row["event_type"],
            task_id=row["event_task_id"],
            route=row["route"],
            replay_of=row["replay_of"],
            created_at=from_micros(row["created_at"]),
        )
        for row in rows
    ]


def _selection_query(replay: Replay) -> tuple[str, Mapping[str, object]]:
    """Name the query that a replay's selection asks, and give its arguments."""
    selection = replay.selection
    shared = {
        "events": json_list(selection.events),
        "task_id": selection.task_id,
        "since": None if selection.since is None else micros(selection.since),
        "until": None if selection.until is None else micros(selection.until),
        "to_route": selection.to_route,
    }
    prefix = "evt" if selection.selects_events else "dlv"
    span = {"cursor": replay.cursor, "last": f"{prefix}_{replay.last}"}
    if selection.selects_events:
        return "events_to_replay", {**shared, **span, "event_kinds": json_list(selection.event_kinds)}
    return "deliveries_to_replay", {
        **shared,
        **span,
        "deliveries": json_list(selection.deliveries),
        "route": selection.route,
        "statuses": json_list([status.value for status in selection.statuses]),
        "known_routes": json.dumps(selection.known_routes) if selection.to_route is None else None,
        "same_route": None if selection.to_route is not None else True,
        "requested_at": micros(replay.created_at),
    }


def _find(connection: sqlite3.Connection, replay_id: str) -> Replay | None:
    """Find a replay."""
    row = connection.execute(sql("replay"), {"id": replay_id}).fetchone()
    return None if row is None else rows.replay(row)


def _running(connection: sqlite3.Connection) -> Sequence[Replay]:
    """Give the replays that are under way, oldest first."""
    return [rows.replay(row) for row in connection.execute(sql("running_replays"))]


def _make_due(connection: sqlite3.Connection, group: Sequence[MakeDueCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "make_delivery_due",
            {"id": hurry.delivery_id, "now": micros(hurry.now)},
            action=rows.action_row(hurry.action),
        )
        for hurry in group
    ]


def _add_repeat(connection: sqlite3.Connection, group: Sequence[AddRepeatCall]) -> Sequence[None]:
    connection.executemany(sql("insert_delivery"), [rows.delivery_row(repeat.delivery) for repeat in group])
    connection.executemany(sql("insert_action"), [rows.action_row(repeat.action) for repeat in group])
    return [None] * len(group)


def _add(connection: sqlite3.Connection, group: Sequence[AddCall]) -> Sequence[None]:
    connection.executemany(sql("insert_replay"), [rows.replay_row(new.replay) for new in group])
    connection.executemany(sql("insert_action"), [rows.action_row(new.action) for new in group])
    return [None] * len(group)


def _advance(connection: sqlite3.Connection, group: Sequence[ReplayStep]) -> Sequence[bool]:
    return [_advance_one(connection, step) for step in group]


def _advance_one(connection: sqlite3.Connection, step: ReplayStep) -> bool:
    state = ReplayState.RUNNING if step.finished_at is None else ReplayState.DONE
    wanted = {
        "id": step.replay.id,
        "before": step.replay.cursor,
        "after": step.cursor,
        "made": len(step.deliveries),
        "state": state.value,
        "finished_at": None if step.finished_at is None else micros(step.finished_at),
    }
    if connection.execute(sql("advance_replay"), wanted).rowcount != 1:
        return False
    connection.executemany(sql("insert_delivery"), map(rows.delivery_row, step.deliveries))
    return True


def _cancel(connection: sqlite3.Connection, group: Sequence[CancelCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "cancel_replay",
            {"id": cancel.replay_id, "now": micros(cancel.now)},
            action=rows.action_row(cancel.action),
        )
        for cancel in group
    ]


_MAKE_DUE: WriteOp[MakeDueCall, bool] = WriteOp(write=_make_due, uses_disk=False)
_ADD_REPEAT: WriteOp[AddRepeatCall, None] = WriteOp(write=_add_repeat)
_ADD_REPLAY: WriteOp[AddCall, None] = WriteOp(write=_add)
_ADVANCE: WriteOp[ReplayStep, bool] = WriteOp(write=_advance)
_CANCEL: WriteOp[CancelCall, bool] = WriteOp(write=_cancel, uses_disk=False)
