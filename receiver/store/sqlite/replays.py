"""Replays in the store's file: their selections, their steps and the replays of single deliveries."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import MICROSECOND, from_micros, micros
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.replays import (
    Replay,
    ReplayCount,
    ReplayItem,
    ReplaySelection,
    ReplayState,
    ReplayStep,
)
from receiver.store import delivery_rows, rows
from receiver.store.interfaces import Page
from receiver.store.rows import datetime_or_none, micros_or_none, storable_text
from receiver.store.sqlite import catalog
from receiver.store.sqlite.catalog import decode_cursor, json_list
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import change_audited, queries, sql
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
        await self._writer.execute(_ADD_REPLAY, AddCall(replay=replay, action=action))

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
        return await self._lists.read(catalog.page, "list_replays", arguments, limit=limit, read=_replay)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDueCall:
    """One call of ``make_due``."""

    delivery_id: str
    now: datetime
    action: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRepeatCall:
    """One call of ``add_repeat``."""

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
    """Return the newest id of the deliveries and events without its prefix, because ids sort by the rest."""
    row = connection.execute(sql("replay_high_water_mark")).fetchone()
    return max((id_.partition("_")[2] for id_ in (row["delivery"], row["event"]) if id_ is not None), default="")


def _count(connection: sqlite3.Connection, replay: Replay) -> Sequence[ReplayCount]:
    name, arguments = _selection_query(replay)
    selected = queries()[name].with_optional(arguments)
    statement = sql("count_replay_items").replace(":items", f"({selected})")
    return [
        ReplayCount(
            route=row["route"],
            status=None if row["status"] is None else DeliveryStatus(row["status"]),
            count=row["count"],
            oldest=from_micros(row["oldest"]),
            newest=from_micros(row["newest"]),
        )
        for row in connection.execute(statement, {**arguments, "limit": -1})
    ]


def _next_items(connection: sqlite3.Connection, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
    name, arguments = _selection_query(replay)
    found = connection.execute(queries()[name].with_optional(arguments), {**arguments, "limit": limit})
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
        for row in found
    ]


def _selection_query(replay: Replay) -> tuple[str, Mapping[str, object]]:
    """Return the name and the arguments of the query for a replay's selection."""
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
        "only_dead": True if selection.statuses == (DeliveryStatus.DEAD,) else None,  # an index has them
        "known_routes": json.dumps(selection.known_routes) if selection.to_route is None else None,
        "same_route": None if selection.to_route is not None else True,
        "requested_at": micros(replay.created_at),
    }


def _find(connection: sqlite3.Connection, replay_id: str) -> Replay | None:
    row = connection.execute(sql("replay"), {"id": replay_id}).fetchone()
    return None if row is None else _replay(row)


def _running(connection: sqlite3.Connection) -> Sequence[Replay]:
    return [_replay(row) for row in connection.execute(sql("running_replays"))]


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


def _add(connection: sqlite3.Connection, group: Sequence[AddCall]) -> Sequence[None]:
    connection.executemany(sql("insert_replay"), [_replay_row(call.replay) for call in group])
    connection.executemany(sql("insert_action"), [rows.action_row(call.action) for call in group])
    return [None] * len(group)


def _advance(connection: sqlite3.Connection, group: Sequence[ReplayStep]) -> Sequence[bool]:
    return [_advance_one(connection, step) for step in group]


def _advance_one(connection: sqlite3.Connection, step: ReplayStep) -> bool:
    state = ReplayState.RUNNING if step.finished_at is None else ReplayState.DONE
    arguments = {
        "id": step.replay.id,
        "before": step.replay.cursor,
        "after": step.cursor,
        "made": len(step.deliveries),
        "state": state.value,
        "finished_at": None if step.finished_at is None else micros(step.finished_at),
    }
    if connection.execute(sql("advance_replay"), arguments).rowcount != 1:
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


def _replay(row: rows.Row) -> Replay:
    rate = None if row["rate_count"] is None else (row["rate_count"], timedelta(microseconds=row["rate_per"]))
    return Replay(
        id=row["id"],
        state=ReplayState(row["state"]),
        selection=_selection(json.loads(row["selection"])),
        actor=row["actor"],
        why=row["why"],
        last=row["last"],
        total=row["total"],
        created_at=from_micros(row["created_at"]),
        rate=rate,
        cursor=row["cursor"],
        created=row["created"],
        finished_at=datetime_or_none(row["finished_at"]),
    )


def _selection(members: dict[str, Any]) -> ReplaySelection:
    return ReplaySelection(
        deliveries=tuple(members["deliveries"]),
        events=tuple(members["events"]),
        task_id=members["task_id"],
        route=members["route"],
        statuses=tuple(DeliveryStatus(status) for status in members["statuses"]),
        since=datetime_or_none(members["since"]),
        until=datetime_or_none(members["until"]),
        to_route=members["to_route"],
        event_kinds=tuple(members["event_kinds"]),
        known_routes=tuple(members["known_routes"]),
    )


def _replay_row(replay: Replay) -> rows.Values:
    selection = replay.selection
    members = asdict(selection) | {"since": micros_or_none(selection.since), "until": micros_or_none(selection.until)}
    count, per = (None, None) if replay.rate is None else replay.rate
    return (
        replay.id,
        replay.state.value,
        json.dumps(members, separators=(",", ":")),
        storable_text(replay.actor),
        storable_text(replay.why),
        replay.last,
        replay.total,
        micros(replay.created_at),
        count,
        None if per is None else per // MICROSECOND,
        replay.cursor,
        replay.created,
        micros_or_none(replay.finished_at),
    )


_MAKE_DUE: WriteOp[MakeDueCall, bool] = WriteOp(write=_make_due, uses_disk=False)
_ADD_REPEAT: WriteOp[AddRepeatCall, None] = WriteOp(write=_add_repeat)
_ADD_REPLAY: WriteOp[AddCall, None] = WriteOp(write=_add)
_ADVANCE: WriteOp[ReplayStep, bool] = WriteOp(write=_advance)
_CANCEL: WriteOp[CancelCall, bool] = WriteOp(write=_cancel, uses_disk=False)
