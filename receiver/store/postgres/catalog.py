"""The catalog of a PostgreSQL store, and the look-ups of the other protocols."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from asyncpg import Record

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import from_micros
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ALERT_PREFIX, Attempt, DeliveryStatus, Event, Push, RouteState, Task, TaskState
from receiver.store import delivery_rows, rows
from receiver.store.cursors import decode_cursor, encode_cursor
from receiver.store.interfaces import DeliveryView, Page, RouteBacklog
from receiver.store.list_filters import set_cancelled_apart, state_filter, time_bounds
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import fetch, fetch_row

T = TypeVar("T")


class PostgresCatalog:
    """Lists and single items."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, Kling's or the external one."""
        return await self._lists.read(find_task, ref)

    async def tasks(
        self,
        *,
        states: Sequence[TaskState | ListedState] = (),
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first."""
        filters = {
            **state_filter(states),
            "endpoint": endpoint,
            "label": label,
            "batch": batch,
            "tags": tags_filter(tags),
            **time_bounds("tsk", since, until),
            "cursor": decode_cursor(cursor, prefix="tsk"),
        }
        return await self._lists.read(page, "list_tasks", filters, limit=limit, read=rows.task)

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by listed state."""
        return await self._lists.read(counts, tags, batch)

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Return the pushes of a task, oldest first."""
        return await self._lists.read(_pushes, task_id)

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        return await self._lists.read(_event, event_id)

    async def events(
        self,
        *,
        types: Sequence[str] = (),
        task_id: str | None = None,
        batch: str | None = None,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """List events, newest first, or those committed after *after*, in the order of their commits."""
        last_id = decode_cursor(cursor, prefix="evt")
        filters: dict[str, object] = {
            "types": list_or_none(types),
            "task_id": task_id,
            "batch": batch,
            **time_bounds("evt", since, until),
        }
        if after is not None:
            filters["after"] = last_id or after
            return await self._lists.read(page, "events_after", filters, limit=limit, read=rows.event)
        filters["only_alerts"] = True if types and all(each.startswith(ALERT_PREFIX) for each in types) else None
        return await self._lists.read(page, "list_events", {**filters, "cursor": last_id}, limit=limit, read=rows.event)

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        return await self._lists.read(_delivery, delivery_id)

    async def deliveries(
        self,
        *,
        statuses: Sequence[DeliveryStatus] = (),
        route: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeliveryView]:
        """List deliveries, newest first."""
        filters = {
            "statuses": list_or_none(statuses),
            "route": route,
            "task_id": task_id,
            "event_id": event_id,
            **time_bounds("dlv", since, until),
            "cursor": decode_cursor(cursor, prefix="dlv"),
        }
        read = delivery_rows.delivery_view
        return await self._lists.read(page, "list_deliveries", filters, limit=limit, read=read)

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Return the attempts of a delivery, oldest first."""
        return await self._lists.read(_attempts, delivery_id)

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Return the backlog of each route with pending deliveries."""
        return await self._lists.read(backlog)

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Return the audit log, newest first."""
        return await self._lists.read(_actions, subjects, limit=limit)


async def find_task(connection: Connection, ref: str) -> Task | None:
    """Find a task by our id, Kling's or the external one."""
    for name in ("task_by_id", "task_by_kling_id", "task_by_external_id"):
        row = await fetch_row(connection, name, {"ref": ref})
        if row is not None:
            return rows.task(row)
    return None


async def counts(connection: Connection, tags: Mapping[str, str] | None, batch: str | None) -> Mapping[str, int]:
    """Count tasks by listed state."""
    arguments = {"tags": tags_filter(tags), "batch": batch}
    counted = {row["state"]: row["tasks"] for row in await fetch(connection, "count_tasks", arguments)}
    set_cancelled_apart(counted)
    return counted


async def backlog(connection: Connection) -> Sequence[RouteBacklog]:
    """Return the backlog of each route with pending deliveries."""
    return [
        RouteBacklog(route=row["route"], pending=row["pending"], oldest=from_micros(row["oldest"]))
        for row in await fetch(connection, "backlog")
    ]


async def route_states(connection: Connection) -> Mapping[str, RouteState]:
    """Return the stored state of each route."""
    return {row["name"]: delivery_rows.route_state(row) for row in await fetch(connection, "route_states")}


async def _pushes(connection: Connection, task_id: str) -> Sequence[Push]:
    return [rows.push(row) for row in await fetch(connection, "pushes_of_task", {"task_id": task_id})]


async def _event(connection: Connection, event_id: str) -> Event | None:
    row = await fetch_row(connection, "event", {"id": event_id})
    return None if row is None else rows.event(row)


async def _delivery(connection: Connection, delivery_id: str) -> DeliveryView | None:
    row = await fetch_row(connection, "delivery", {"id": delivery_id})
    return None if row is None else delivery_rows.delivery_view(row)


async def _attempts(connection: Connection, delivery_id: str) -> Sequence[Attempt]:
    found = await fetch(connection, "attempts_of_delivery", {"delivery_id": delivery_id})
    return [delivery_rows.attempt(row) for row in found]


async def _actions(connection: Connection, subjects: Sequence[str], *, limit: int) -> Sequence[AuditEntry]:
    found = await fetch(connection, "list_actions", {"subjects": list_or_none(subjects), "limit": limit})
    return [rows.action(row) for row in found]


async def page(
    connection: Connection, name: str, arguments: Mapping[str, object], *, limit: int, read: Callable[[Record], T]
) -> Page[T]:
    """Read one page of the list *name*. One extra row shows whether there is another page."""
    found = await fetch(connection, name, {**arguments, "limit": limit + 1})
    items = [read(row) for row in found[:limit]]
    return Page(items=items, next=encode_cursor(found[limit - 1]["id"]) if len(found) > limit else None)


def list_or_none(values: Sequence[str]) -> Sequence[str] | None:
    """Return a filter's values, or None, which omits the filter, if there are none."""
    return list(values) or None


def tags_filter(tags: Mapping[str, str] | None) -> str | None:
    """Return a filter's tags as JSON, or None, which omits the filter. jsonb refuses what text refuses, escaped too."""
    if not tags:
        return None
    return json.dumps({rows.storable_text(name): rows.storable_text(value) for name, value in tags.items()})
