"""The catalog of the store's file, and the look-ups of the other protocols.

Each read is one function on a read-only connection.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import from_micros, micros
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ALERT_PREFIX, Attempt, DeliveryStatus, Event, Push, RouteState, Task, TaskState
from receiver.store import delivery_rows, rows
from receiver.store.cursors import decode_cursor, encode_cursor
from receiver.store.interfaces import DeliveryView, Page, QueueFront, RouteBacklog, SlotUse
from receiver.store.list_filters import set_cancelled_apart, state_filter, time_bounds
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import json_arguments, queries, sql

T = TypeVar("T")


class SqliteCatalog:
    """Lists and single items, in the store's file."""

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
            "tags": json.dumps(dict(tags)) if tags else None,
            **time_bounds("tsk", since, until),
            "cursor": decode_cursor(cursor, prefix="tsk"),
        }
        return await self._lists.read(page, "list_tasks", filters, limit=limit, read=rows.task)

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by listed state."""
        return await self._lists.read(counts, tags, batch)

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Return the pushes of a task, oldest first."""
        return await self._lists.read(pushes, task_id)

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        return await self._lists.read(find_event, event_id)

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
        filters = {"types": json_list(types), "task_id": task_id, "batch": batch, **time_bounds("evt", since, until)}
        if after is not None:
            filters["after"] = last_id or after
            return await self._lists.read(page, "events_after", filters, limit=limit, read=rows.event)
        filters["only_alerts"] = "yes" if types and all(each.startswith(ALERT_PREFIX) for each in types) else None
        return await self._lists.read(page, "list_events", {**filters, "cursor": last_id}, limit=limit, read=rows.event)

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        return await self._lists.read(find_delivery, delivery_id)

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
            "statuses": json_list(statuses),
            "route": route,
            "task_id": task_id,
            "event_id": event_id,
            **time_bounds("dlv", since, until),
            "cursor": decode_cursor(cursor, prefix="dlv"),
        }
        return await self._lists.read(page, "list_deliveries", filters, limit=limit, read=delivery_rows.delivery_view)

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Return the attempts of a delivery, oldest first."""
        return await self._lists.read(attempts, delivery_id)

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Return the backlog of each route with pending deliveries."""
        return await self._lists.read(backlog)

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Return the audit log, newest first."""
        return await self._lists.read(actions, subjects, limit=limit)


def find_task(connection: sqlite3.Connection, ref: str) -> Task | None:
    """Find a task by our id, Kling's or the external one."""
    for name in ("task_by_id", "task_by_kling_id", "task_by_external_id"):
        row = connection.execute(sql(name), {"ref": ref}).fetchone()
        if row is not None:
            return rows.task(row)
    return None


def intent(connection: sqlite3.Connection, task_id: str) -> bytes:
    """Return the body a task was submitted with; empty if none is stored."""
    row = connection.execute(sql("intent"), {"task_id": task_id}).fetchone()
    return b"" if row is None else row["body"]


def intents(connection: sqlite3.Connection, task_ids: Sequence[str]) -> Mapping[str, bytes]:
    """Return the bodies the tasks were submitted with, by task id."""
    found = connection.execute(sql("intents"), {"ids": json.dumps(task_ids)})
    return {row["task_id"]: row["body"] for row in found}


def request_digest(connection: sqlite3.Connection, task_id: str) -> bytes | None:
    """Return the digest of the request that created a task; None if it had no idempotency key."""
    row = connection.execute(sql("request_digest"), {"task_id": task_id}).fetchone()
    return None if row is None else row["digest"]


def newest_id(connection: sqlite3.Connection) -> str:
    """Return the newest id of all tables without its prefix; empty for an empty store."""
    return connection.execute(sql("newest_id")).fetchone()["newest"] or ""


def has_live_token(connection: sqlite3.Connection, token_hash: bytes, now: datetime) -> bool:
    """Return whether an unexpired task has the token."""
    row = connection.execute(sql("has_live_token"), {"token_hash": token_hash, "now": micros(now)}).fetchone()
    return bool(row["is_live"])


def has_verified_event(connection: sqlite3.Connection, task_id: str) -> bool:
    """Return whether a signature or the API has verified anything about a task."""
    return bool(connection.execute(sql("has_verified_event"), {"task_id": task_id}).fetchone()["is_verified"])


def pushes(connection: sqlite3.Connection, task_id: str) -> Sequence[Push]:
    """Return the pushes of a task, oldest first."""
    return [rows.push(row) for row in connection.execute(sql("pushes_of_task"), {"task_id": task_id})]


def find_event(connection: sqlite3.Connection, event_id: str) -> Event | None:
    """Find an event."""
    row = connection.execute(sql("event"), {"id": event_id}).fetchone()
    return None if row is None else rows.event(row)


def find_delivery(connection: sqlite3.Connection, delivery_id: str) -> DeliveryView | None:
    """Find a delivery."""
    row = connection.execute(sql("delivery"), {"id": delivery_id}).fetchone()
    return None if row is None else delivery_rows.delivery_view(row)


def attempts(connection: sqlite3.Connection, delivery_id: str) -> Sequence[Attempt]:
    """Return the attempts of a delivery, oldest first."""
    found = connection.execute(sql("attempts_of_delivery"), {"delivery_id": delivery_id})
    return [delivery_rows.attempt(row) for row in found]


def backlog(connection: sqlite3.Connection) -> Sequence[RouteBacklog]:
    """Return the backlog of each route with pending deliveries."""
    return [
        RouteBacklog(route=row["route"], pending=row["pending"], oldest=from_micros(row["oldest"]))
        for row in connection.execute(sql("backlog"))
    ]


def actions(connection: sqlite3.Connection, subjects: Sequence[str], *, limit: int) -> Sequence[AuditEntry]:
    """Return the audit log, newest first."""
    arguments = {"subjects": json_list(subjects), "limit": limit}
    found = connection.execute(queries()["list_actions"].with_optional(arguments), arguments)
    return [rows.action(row) for row in found]


def due_routes(connection: sqlite3.Connection) -> Mapping[str, datetime]:
    """Return when each route's next delivery is due."""
    return {row["route"]: from_micros(row["due_at"]) for row in connection.execute(sql("due_routes"))}


def route_states(connection: sqlite3.Connection) -> Mapping[str, RouteState]:
    """Return the stored state of each route."""
    return {row["name"]: delivery_rows.route_state(row) for row in connection.execute(sql("route_states"))}


def next_task_due(
    connection: sqlite3.Connection, states: Sequence[TaskState], after: datetime | None
) -> datetime | None:
    """Return when the next task in *states* is due, ignoring those due at or before *after*."""
    arguments = {"states": json_list(states), "after": None if after is None else micros(after)}
    row = connection.execute(queries()["next_task_due"].with_optional(arguments), arguments).fetchone()
    return None if row["due_at"] is None else from_micros(row["due_at"])


def counts(connection: sqlite3.Connection, tags: Mapping[str, str] | None, batch: str | None) -> Mapping[str, int]:
    """Count tasks by listed state."""
    arguments = {"tags": json.dumps(dict(tags)) if tags else None, "batch": batch}
    found = connection.execute(queries()["count_tasks"].with_optional(arguments), arguments)
    counted = {row["state"]: row["tasks"] for row in found}
    set_cancelled_apart(counted)
    return counted


def queued_creates(connection: sqlite3.Connection) -> Sequence[Task]:
    """Return the queued tasks of gateway clients."""
    return [rows.task(row) for row in connection.execute(sql("queued_creates"))]


def queue_front(
    connection: sqlite3.Connection, now: datetime, limit: int, head_ids: Sequence[str], absent: Sequence[str]
) -> QueueFront:
    """Return the queued tasks that are next, the slots in use, and when another task is due."""
    arguments = {"now": micros(now), "limit": limit, "head_ids": json.dumps(head_ids)}
    found = [rows.queued_task(row) for row in connection.execute(sql("next_queued_tasks"), arguments)]
    slots = slot_use(connection, absent=absent) if found else rows.NO_SLOTS
    return QueueFront(tasks=found, slots=slots, next_due_at=next_task_due(connection, (TaskState.QUEUED,), now))


def slots_in_use(
    connection: sqlite3.Connection, *, confirmed_only: bool = False, absent: Sequence[str] = ()
) -> Mapping[str, int]:
    """Return the slots that running tasks use, by slot key, without tasks that are submitting and *absent* at Kling."""
    use = slot_use(connection, absent=absent)
    return use.confirmed if confirmed_only else use.all


def slot_use(connection: sqlite3.Connection, *, absent: Sequence[str]) -> SlotUse:
    """Return the slots that running tasks use, by slot key: all but *absent*, and the confirmed ones."""
    arguments = {"absent": json_list(absent)}
    found = connection.execute(queries()["slots_in_use"].with_optional(arguments), arguments).fetchall()
    return rows.slot_use(found)


def page(
    connection: sqlite3.Connection,
    name: str,
    arguments: Mapping[str, object],
    *,
    limit: int,
    read: Callable[[sqlite3.Row], T],
) -> Page[T]:
    """Read one page of the list *name*. One extra row shows whether there is another page."""
    statement = queries()[name].with_optional(arguments)
    found = connection.execute(statement, json_arguments({**arguments, "limit": limit + 1})).fetchall()
    items = [read(row) for row in found[:limit]]
    return Page(items=items, next=encode_cursor(found[limit - 1]["id"]) if len(found) > limit else None)


def json_list(values: Sequence[str]) -> str | None:
    """Return a filter's values as JSON for json_each, or None, which omits the filter, if there are none."""
    return json.dumps(values) if values else None
