"""Reads for people. A search reads a window of a list, so that it costs the same at any size."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from asyncpg import Record

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
from receiver.store.postgres.catalog import tags_filter
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import fetch, fetch_row, fetch_value

T = TypeVar("T")


class PostgresOverview:
    """Searches, and the latest of everything."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find_tasks(self, search: TaskSearch, *, limit: int, cursor: str | None = None) -> Found[Task]:
        """Search the tasks, newest first."""
        arguments = {**searches.task_arguments(search, cursor), "tags": tags_filter(search.tags)}
        window = searches.task_window(search)
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


async def _find(
    connection: Connection,
    kind: str,
    arguments: Mapping[str, object],
    *,
    read: Callable[[Record], T],
    limit: int,
    window: int | None,
) -> Found[T]:
    """Search one window of a list."""
    (nth, search), low = _SEARCHES[kind], None
    if window is not None:
        low = searches.window_end(await fetch(connection, nth, searches.window_arguments(arguments, window)))
    found = await fetch(connection, search, {**arguments, "low": low, "limit": limit + 1})
    return searches.read_window(found, low=low, since=arguments.get("since"), limit=limit, read=read)


async def _attempts(connection: Connection, delivery_ids: Sequence[str]) -> Sequence[Attempt]:
    found = await fetch(connection, "attempts_of_deliveries", {"ids": delivery_ids})
    return [delivery_rows.attempt(row) for row in found]


async def _deliveries(connection: Connection, event_ids: Sequence[str]) -> Sequence[BriefDelivery]:
    return searches.read_brief_deliveries(await fetch(connection, "deliveries_of_events", {"ids": event_ids}))


async def _costs(connection: Connection, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Decimal]]:
    found = await fetch(connection, "costs_of_tasks", {"ids": task_ids})
    return {row["task_id"]: read_charges(row["charges"]) for row in found}


async def _recent_attempts(connection: Connection, since: datetime) -> Sequence[RecentAttempt]:
    arguments = {"first_delivery": first_id("dlv", since), "since": micros(since), "limit": searches.SAMPLE}
    return searches.read_recent_attempts(await fetch(connection, "recent_attempts", arguments))


async def _workload(connection: Connection) -> Workload:
    limit = {"limit": COUNT_LIMIT}
    unfinished = await fetch_row(connection, "count_unfinished", limit)
    assert unfinished is not None  # noqa: S101 -- a SELECT without FROM has one row
    dead = await fetch_value(connection, "count_dead", limit)
    return Workload(running=unfinished["running"], queued=unfinished["queued"], dead=dead)
