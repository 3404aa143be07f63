"""Reads for people in the store's file. A search reads a window of a list, so that it costs the same at any size."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from receiver.domain.clock import MICROSECOND, first_id, from_micros, micros
from receiver.domain.model import Attempt, DeliveryStatus, Event, Task
from receiver.store import delivery_rows, rows
from receiver.store.interfaces import (
    BriefDelivery,
    DeliverySearch,
    DeliveryView,
    EventSearch,
    Found,
    RecentAttempt,
    TaskSearch,
    Workload,
)
from receiver.store.interfaces.overview import COUNT_LIMIT
from receiver.store.sqlite.catalog import (
    decode_cursor,
    delivery_view,
    encode_cursor,
    json_list,
    state_filter,
    time_bounds,
)
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql

T = TypeVar("T")

_WINDOW = 20_000
_TEXT_WINDOW = 4_000
_SAMPLE = 4_000
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")  # as SQLite's LOWER


class SqliteOverview:
    """Searches, and the latest of everything, in the store's file."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find_tasks(self, search: TaskSearch, *, limit: int, cursor: str | None = None) -> Found[Task]:
        """Search the tasks, newest first."""
        arguments = {
            "text": search.text.translate(_LOWER) or None,
            **state_filter(search.states),
            "endpoint": search.endpoint,
            "label": search.label,
            "batch": search.batch,
            "tags": json.dumps(dict(search.tags)) if search.tags else None,
            **time_bounds("tsk", search.since, search.until),
            "cursor": decode_cursor(cursor, prefix="tsk"),
        }
        size = _TEXT_WINDOW if search.text or search.tags else _WINDOW  # both read JSON
        return await self._lists.read(
            _find, "nth_task", "search_tasks", arguments, read=rows.task, limit=limit, window=size
        )

    async def find_events(self, search: EventSearch, *, limit: int, cursor: str | None = None) -> Found[Event]:
        """Search the events, newest first."""
        arguments = {
            "types": json_list(search.types),
            "task_id": search.task_id,
            **time_bounds("evt", search.since, search.until),
            "cursor": decode_cursor(cursor, prefix="evt"),
        }
        return await self._lists.read(
            _find, "nth_event", "search_events", arguments, read=rows.event, limit=limit, window=_WINDOW
        )

    async def find_deliveries(
        self, search: DeliverySearch, *, limit: int, cursor: str | None = None
    ) -> Found[DeliveryView]:
        """Search the deliveries, newest first."""
        is_dead = search.status is DeliveryStatus.DEAD
        arguments = {
            "only_dead": is_dead or None,  # its own index finds them without a window
            "status": None if is_dead else search.status,
            "route": search.route,
            "attempted": search.attempted or None,
            "cursor": decode_cursor(cursor, prefix="dlv"),
        }
        size = None if is_dead and search.route is None else _WINDOW
        return await self._lists.read(
            _find, "nth_delivery", "search_deliveries", arguments, read=delivery_view, limit=limit, window=size
        )

    async def attempts_of(self, delivery_ids: Sequence[str]) -> Sequence[Attempt]:
        """Return the attempts of some deliveries, newest first."""
        return await self._lists.read(_attempts, delivery_ids)

    async def deliveries_of(self, event_ids: Sequence[str]) -> Sequence[BriefDelivery]:
        """Return the deliveries of some events, oldest first. A delivery that was replayed is left out."""
        return await self._lists.read(_deliveries, event_ids)

    async def costs_of(self, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Decimal]]:
        """Return the charges of some tasks, by task and unit."""
        return await self._lists.read(_costs, task_ids)

    async def recent_attempts(self, *, since: datetime) -> Sequence[RecentAttempt]:
        """Return attempts since a time: those of the newest deliveries, and of deliveries that wait for a retry."""
        return await self._lists.read(_recent_attempts, since)

    async def workload(self) -> Workload:
        """Count what waits and what is dead."""
        return await self._lists.read(_workload)


def _find(
    connection: sqlite3.Connection,
    nth: str,
    search: str,
    arguments: Mapping[str, object],
    *,
    read: Callable[[sqlite3.Row], T],
    limit: int,
    window: int | None,
) -> Found[T]:
    """Search one window of a list. One extra row shows whether there is another page."""
    low = None
    if window is not None:
        start = {"cursor": _earlier(arguments.get("cursor"), arguments.get("until")), "size": window - 1}
        ends = connection.execute(queries()[nth].with_optional(start), start).fetchall()
        low = str(ends[0]["id"]) if len(ends) > 1 else None  # without a next one, the window is the rest of the list
    given: dict[str, object] = {**arguments, "low": low, "limit": limit + 1}
    found = connection.execute(queries()[search].with_optional(given), given).fetchall()
    items = [read(row) for row in found[:limit]]
    if len(found) > limit:
        return Found(items=items, next=encode_cursor(found[limit - 1]["id"]))
    since = arguments.get("since")
    if low is None or (isinstance(since, str) and since >= low):
        return Found(items=items)
    return Found(items=items, next=encode_cursor(low), is_partial=True)


def _earlier(*ids: object) -> str | None:
    return min((each for each in ids if isinstance(each, str)), default=None)


def _attempts(connection: sqlite3.Connection, delivery_ids: Sequence[str]) -> Sequence[Attempt]:
    found = connection.execute(sql("attempts_of_deliveries"), {"ids": json.dumps(delivery_ids)})
    return [delivery_rows.attempt(row) for row in found]


def _deliveries(connection: sqlite3.Connection, event_ids: Sequence[str]) -> Sequence[BriefDelivery]:
    found = connection.execute(sql("deliveries_of_events"), {"ids": json.dumps(event_ids)}).fetchall()
    replayed = {row["replay_of"] for row in found}
    return [
        BriefDelivery(id=row["id"], event_id=row["event_id"], route=row["route"], status=DeliveryStatus(row["status"]))
        for row in found
        if row["id"] not in replayed
    ]


def _costs(connection: sqlite3.Connection, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Decimal]]:
    return {
        row["task_id"]: {unit: Decimal(amount) for unit, amount in json.loads(row["charges"]).items()}
        for row in connection.execute(sql("costs_of_tasks"), {"ids": json.dumps(task_ids)})
    }


def _recent_attempts(connection: sqlite3.Connection, since: datetime) -> Sequence[RecentAttempt]:
    arguments = {"first_delivery": first_id("dlv", since), "since": micros(since), "limit": _SAMPLE}
    return [
        RecentAttempt(
            route=row["route"],
            started_at=from_micros(row["started_at"]),
            duration=row["duration"] * MICROSECOND,
            outcome=row["outcome"],
        )
        for row in connection.execute(sql("recent_attempts"), arguments)
    ]


def _workload(connection: sqlite3.Connection) -> Workload:
    limit = {"limit": COUNT_LIMIT}
    unfinished = connection.execute(sql("count_unfinished"), limit).fetchone()
    dead = connection.execute(sql("count_dead"), limit).fetchone()["dead"]
    return Workload(running=unfinished["running"], queued=unfinished["queued"], dead=dead)
