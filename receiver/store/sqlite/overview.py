"""Reads for people in the store's file. A search reads a window of a list, so that it costs the same at any size."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from receiver.domain.clock import first_id, micros
from receiver.domain.model import Attempt, Event, Task
from receiver.store import delivery_rows, rows, searches
from receiver.store.cost_rows import read_charges
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
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import json_arguments, queries, sql

T = TypeVar("T")


class SqliteOverview:
    """Searches, and the latest of everything, in the store's file."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find_tasks(self, search: TaskSearch, *, limit: int, cursor: str | None = None) -> Found[Task]:
        """Search the tasks, newest first."""
        arguments, window = searches.task_arguments(search, cursor), searches.task_window(search)
        return await self._lists.read(_find, "task", arguments, read=rows.task, limit=limit, window=window)

    async def find_events(self, search: EventSearch, *, limit: int, cursor: str | None = None) -> Found[Event]:
        """Search the events, newest first."""
        arguments, window = searches.event_arguments(search, cursor), searches.WINDOW
        return await self._lists.read(_find, "event", arguments, read=rows.event, limit=limit, window=window)

    async def find_deliveries(
        self, search: DeliverySearch, *, limit: int, cursor: str | None = None
    ) -> Found[DeliveryView]:
        """Search the deliveries, newest first."""
        arguments, window = searches.delivery_arguments(search, cursor), searches.delivery_window(search)
        read = delivery_rows.delivery_view
        return await self._lists.read(_find, "delivery", arguments, read=read, limit=limit, window=window)

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


_SEARCHES = {
    "task": ("nth_task", "search_tasks"),
    "event": ("nth_event", "search_events"),
    "delivery": ("nth_delivery", "search_deliveries"),
}


def _find(
    connection: sqlite3.Connection,
    kind: str,
    arguments: Mapping[str, object],
    *,
    read: Callable[[sqlite3.Row], T],
    limit: int,
    window: int | None,
) -> Found[T]:
    """Search one window of a list."""
    (nth, search), low = _SEARCHES[kind], None
    if window is not None:
        start = searches.window_arguments(arguments, window)
        low = searches.window_end(connection.execute(queries()[nth].with_optional(start), start).fetchall())
    given = json_arguments({**arguments, "low": low, "limit": limit + 1})
    found = connection.execute(queries()[search].with_optional(given), given).fetchall()
    return searches.read_window(found, low=low, since=arguments.get("since"), limit=limit, read=read)


def _attempts(connection: sqlite3.Connection, delivery_ids: Sequence[str]) -> Sequence[Attempt]:
    found = connection.execute(sql("attempts_of_deliveries"), {"ids": json.dumps(delivery_ids)})
    return [delivery_rows.attempt(row) for row in found]


def _deliveries(connection: sqlite3.Connection, event_ids: Sequence[str]) -> Sequence[BriefDelivery]:
    found = connection.execute(sql("deliveries_of_events"), {"ids": json.dumps(event_ids)}).fetchall()
    return searches.read_brief_deliveries(found)


def _costs(connection: sqlite3.Connection, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Decimal]]:
    found = connection.execute(sql("costs_of_tasks"), {"ids": json.dumps(task_ids)})
    return {row["task_id"]: read_charges(row["charges"]) for row in found}


def _recent_attempts(connection: sqlite3.Connection, since: datetime) -> Sequence[RecentAttempt]:
    arguments = {"first_delivery": first_id("dlv", since), "since": micros(since), "limit": searches.SAMPLE}
    return searches.read_recent_attempts(connection.execute(sql("recent_attempts"), arguments))


def _workload(connection: sqlite3.Connection) -> Workload:
    limit = {"limit": COUNT_LIMIT}
    unfinished = connection.execute(sql("count_unfinished"), limit).fetchone()
    dead = connection.execute(sql("count_dead"), limit).fetchone()["dead"]
    return Workload(running=unfinished["running"], queued=unfinished["queued"], dead=dead)
