"""What goes out again because a person asked for it: what a replay is about, its next steps, single deliveries."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from receiver.domain.clock import micros, moment
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.replays import Action, Again, Replay, ReplayState, Step, Tally
from receiver.store.interfaces import Page
from receiver.store.sqlite import catalog, rows
from receiver.store.sqlite.catalog import json_list, read_cursor
from receiver.store.sqlite.queries import change, queries, sql
from receiver.store.sqlite.writer import Work, Writer


class ReplayStore:
    """What is to go out again, in the store's file."""

    def __init__(self, writer: Writer, read: Callable[..., Awaitable[Any]]) -> None:
        self._writer = writer
        self._read = read

    async def hurry(self, delivery_id: str, *, now: datetime, action: Action) -> bool:
        """Make a waiting delivery due now; False where it does not wait, or is being tried."""
        return await self._writer.do(_HURRY, Hurry(delivery_id=delivery_id, now=now, action=action))

    async def repeat(self, delivery: Delivery, *, action: Action) -> None:
        """Store a delivery that points at the one it repeats."""
        await self._writer.do(_REPEAT, Repeat(delivery=delivery, action=action))

    async def newest(self) -> str:
        """Tell where the present ends: what a replay's ``last`` is to be."""
        found: str = await self._read(_newest)
        return found

    async def tally(self, replay: Replay) -> Sequence[Tally]:
        """Count what a replay, stored or only thought of, has before it."""
        counted: Sequence[Tally] = await self._read(_tally, replay)
        return counted

    async def chosen(self, replay: Replay, *, limit: int) -> Sequence[Again]:
        """Give what a replay has before it, oldest first, each event once for each route."""
        found: Sequence[Again] = await self._read(_chosen, replay, limit=limit)
        return found

    async def add(self, replay: Replay, *, action: Action) -> None:
        """Store a replay."""
        await self._writer.do(_ADD_REPLAY, NewReplay(replay=replay, action=action))

    async def advance(self, step: Step) -> bool:
        """Store a step's deliveries and how far it went, all or nothing; False where the replay moved meanwhile."""
        return await self._writer.do(_ADVANCE, step)

    async def cancel(self, replay_id: str, *, now: datetime, action: Action) -> bool:
        """End a replay before its end; False where it is not under way."""
        return await self._writer.do(_CANCEL, Cancel(replay_id=replay_id, now=now, action=action))

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
        wanted = {"cursor": read_cursor(cursor, prefix="rpl")}
        page: Page[Replay] = await self._read(catalog.page, "list_replays", wanted, limit=limit, read=rows.replay)
        return page


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """One call of ``hurry``."""

    delivery_id: str
    now: datetime
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One call of ``repeat``."""

    delivery: Delivery
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReplay:
    """One call of ``add``."""

    replay: Replay
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """One call of ``cancel``."""

    replay_id: str
    now: datetime
    action: Action


def _newest(connection: sqlite3.Connection) -> str:
    """Give the newest id there is among deliveries and events, without its prefix, which is what ids sort by."""
    row = connection.execute(sql("newest_ids")).fetchone()
    return max((id_.partition("_")[2] for id_ in (row["delivery"], row["event"]) if id_ is not None), default="")


def _tally(connection: sqlite3.Connection, replay: Replay) -> Sequence[Tally]:
    """Count what a replay is about, by route and status."""
    name, wanted = _wanted(replay)
    chosen = queries()[name].given(wanted)
    statement = sql("tally").replace(":chosen", f"({chosen})")
    return [
        Tally(
            route=row["route"],
            status=None if row["status"] is None else DeliveryStatus(row["status"]),
            count=row["count"],
            oldest=moment(row["oldest"]),
            newest=moment(row["newest"]),
        )
        for row in connection.execute(statement, {**wanted, "limit": -1})
    ]


def _chosen(connection: sqlite3.Connection, replay: Replay, *, limit: int) -> Sequence[Again]:
    """Give what a replay is to bring out next, oldest first."""
    name, wanted = _wanted(replay)
    rows = connection.execute(queries()[name].given(wanted), {**wanted, "limit": limit})
    return [
        Again(
            place=row["place"],
            event_id=row["event_id"],
            event_type=row["event_type"],
            task_id=row["event_task_id"],
            route=row["route"],
            replay_of=row["replay_of"],
            created_at=moment(row["created_at"]),
        )
        for row in rows
    ]


def _wanted(replay: Replay) -> tuple[str, Mapping[str, object]]:
    """Name the query that a replay's selection asks, and give its arguments."""
    selection = replay.selection
    shared = {
        "events": json_list(selection.events),
        "task_id": selection.task_id,
        "since": None if selection.since is None else micros(selection.since),
        "until": None if selection.until is None else micros(selection.until),
        "to_route": selection.to_route,
    }
    prefix = "evt" if selection.is_of_events else "dlv"
    span = {"cursor": replay.cursor, "last": f"{prefix}_{replay.last}"}
    if selection.is_of_events:
        return "replayed_events", {**shared, **span, "words": json_list(selection.words)}
    return "replayed_deliveries", {
        **shared,
        **span,
        "deliveries": json_list(selection.deliveries),
        "route": selection.route,
        "statuses": json_list([status.value for status in selection.statuses]),
        "among": json.dumps(selection.among) if selection.to_route is None else None,
        "own": None if selection.to_route is not None else True,
        "asked_at": micros(replay.created_at),
    }


def _find(connection: sqlite3.Connection, replay_id: str) -> Replay | None:
    """Find a replay."""
    row = connection.execute(sql("replay"), {"id": replay_id}).fetchone()
    return None if row is None else rows.replay(row)


def _running(connection: sqlite3.Connection) -> Sequence[Replay]:
    """Give the replays that are under way, oldest first."""
    return [rows.replay(row) for row in connection.execute(sql("running_replays"))]


def _hurry(connection: sqlite3.Connection, group: Sequence[Hurry]) -> Sequence[bool]:
    return [
        change(
            connection,
            "hurry_delivery",
            {"id": hurry.delivery_id, "now": micros(hurry.now)},
            action=rows.action_row(hurry.action),
        )
        for hurry in group
    ]


def _repeat(connection: sqlite3.Connection, group: Sequence[Repeat]) -> Sequence[None]:
    connection.executemany(sql("insert_delivery"), [rows.delivery_row(repeat.delivery) for repeat in group])
    connection.executemany(sql("insert_action"), [rows.action_row(repeat.action) for repeat in group])
    return [None] * len(group)


def _add(connection: sqlite3.Connection, group: Sequence[NewReplay]) -> Sequence[None]:
    connection.executemany(sql("insert_replay"), [rows.replay_row(new.replay) for new in group])
    connection.executemany(sql("insert_action"), [rows.action_row(new.action) for new in group])
    return [None] * len(group)


def _advance(connection: sqlite3.Connection, group: Sequence[Step]) -> Sequence[bool]:
    return [_advance_one(connection, step) for step in group]


def _advance_one(connection: sqlite3.Connection, step: Step) -> bool:
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


def _cancel(connection: sqlite3.Connection, group: Sequence[Cancel]) -> Sequence[bool]:
    return [
        change(
            connection,
            "cancel_replay",
            {"id": cancel.replay_id, "now": micros(cancel.now)},
            action=rows.action_row(cancel.action),
        )
        for cancel in group
    ]


_HURRY: Work[Hurry, bool] = Work(write=_hurry, grows=False)
_REPEAT: Work[Repeat, None] = Work(write=_repeat)
_ADD_REPLAY: Work[NewReplay, None] = Work(write=_add)
_ADVANCE: Work[Step, bool] = Work(write=_advance)
_CANCEL: Work[Cancel, bool] = Work(write=_cancel, grows=False)
