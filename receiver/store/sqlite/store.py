"""A store in one SQLite file: one connection writes in groups, two others read and never wait for it."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar, Unpack

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, SystemClock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Attempt, Delivery, DeliveryStatus, Event, Push, RouteState, Task, TaskState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.store.disk import RESERVE, DiskSpace, free_bytes, real_path
from receiver.store.interfaces import (
    ArchiveUpdate,
    Change,
    ClaimedDelivery,
    ClaimOptions,
    Decide,
    DeliveryView,
    Page,
    RecoveredClaims,
    RetentionTarget,
    RouteBacklog,
    SweepResult,
    TaskRef,
)
from receiver.store.sqlite import archive, catalog, checkpoint, deliveries, maintenance, retention, rows, tasks
from receiver.store.sqlite.batches import SqliteBatchStore
from receiver.store.sqlite.catalog import decode_cursor, json_list
from receiver.store.sqlite.costs import SqliteCostStore
from receiver.store.sqlite.database import (
    ConnectionThread,
    Health,
    connect_reader,
    connect_writer,
    exclusive,
    open_thread,
)
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.replays import SqliteReplayStore
from receiver.store.sqlite.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_CLOCK = SystemClock()


class SqliteStore:
    """Implements every store protocol on one SQLite file, under an exclusive lock.

    ``broken`` is set when the file can no longer be trusted. The supervisor then stops the service.
    """

    def __init__(
        self,
        path: Path,
        *,
        disk_space: DiskSpace,
        health: Health,
        writer: Writer,
        hot_reader: ConnectionThread,
        list_reader: ConnectionThread,
    ) -> None:
        self.disk_space = disk_space
        self._path = path
        self._health = health
        self._writer = writer
        self._hot_reader = hot_reader  # look-ups on the path of callbacks and deliveries
        self._list_reader = list_reader  # lists, which may be slow
        self._resources = AsyncExitStack()
        self._closed = False
        hot_read, list_read = partial(self._read, hot_reader), partial(self._read, list_reader)
        self.replays = SqliteReplayStore(writer, list_read)
        self.costs = SqliteCostStore(list_read)
        self.batches = SqliteBatchStore(writer, hot_read, list_read)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        clock: Clock = _CLOCK,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = free_bytes,
    ) -> Self:
        """Lock, migrate and open the store at *path*, until ``aclose``.

        With less than *reserve* bytes *free* the store accepts nothing new, so that work in progress can finish.
        Raises StoreLocked if another process uses the store, StoreError if this program cannot use the file.
        """
        path = real_path(path)
        async with AsyncExitStack() as stack:
            stack.enter_context(exclusive(path, create=create))
            health, after_commit = Health(path), checkpoint.Checkpointer(path).after_commit
            # Opened first, so closed last: the last connection to close checkpoints the whole log.
            thread = await open_thread(stack, health, partial(connect_writer, path), "store-writer")
            await health.guard(thread.run(upgrade, known_migrations(), clock=clock))
            await health.guard(thread.run(partial(maintenance.verify_after_damage, path)))
            hot = await open_thread(stack, health, partial(connect_reader, path), "store-hot-reader")
            lists = await open_thread(stack, health, partial(connect_reader, path), "store-list-reader")
            space = DiskSpace(path.parent, reserve=reserve, free=free)
            writer = Writer(thread, health, has_space=space.has_space, after_commit=after_commit)
            stack.push_async_callback(writer.aclose)
            store = cls(path, disk_space=space, health=health, writer=writer, hot_reader=hot, list_reader=lists)
            store._resources = stack.pop_all()
            return store

    async def aclose(self) -> None:
        """Write what is pending, close the file and release the lock."""
        self._closed = True
        await self._resources.aclose()

    @property
    def broken(self) -> asyncio.Event:
        """The event that is set when the file can no longer be trusted."""
        return self._health.broken

    # TaskStore
    async def add(
        self, task: Task, intent: bytes, *, events: Sequence[Event] = (), batch_size: int | None = None
    ) -> Task:
        """Store a new task, or return the earlier one with its idempotency key."""
        call = tasks.AddCall(task=task, intent=intent, events=events, batch_size=batch_size)
        return await self._writer.execute(tasks.ADD, call)

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Call *decide* with the current task and write its change."""
        call = tasks.ApplyCall(ref=ref, decide=decide, with_pending=with_pending)
        return await self._writer.execute(tasks.APPLY, call)

    async def has_live_token(self, token_hash: bytes, *, now: datetime) -> bool:
        """Return whether an unexpired task has the token."""
        return await self._read(self._hot_reader, catalog.has_live_token, token_hash, now)

    async def intent(self, task_id: str) -> bytes:
        """Return the body a task was submitted with."""
        return await self._read(self._hot_reader, catalog.intent, task_id)

    async def claim_tasks(
        self,
        states: Sequence[TaskState],
        *,
        now: datetime,
        until: datetime,
        limit: int,
        endpoints: Sequence[str] | None = None,
        pushes_first: bool = False,
    ) -> Sequence[Task]:
        """Claim up to *limit* due tasks."""
        call = tasks.ClaimTasksCall(
            states=states, now=now, until=until, limit=limit, endpoints=endpoints, pushes_first=pushes_first
        )
        return await self._writer.execute(tasks.CLAIM_TASKS, call)

    async def make_due(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, min_gap: timedelta
    ) -> int:
        """Make tasks that are due before *before* due now."""
        call = tasks.MakeDueCall(states=states, now=now, before=before, min_gap=min_gap)
        return await self._writer.execute(tasks.MAKE_DUE, call)

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Return when the next task in *states* is due."""
        return await self._read(self._hot_reader, catalog.next_task_due, states, after)

    async def next_queued(self, *, now: datetime, head_ids: Sequence[str] = ()) -> Sequence[Task]:
        """Return the queued task that is next in each pack."""
        return await self._read(self._hot_reader, catalog.next_queued, now, head_ids)

    async def assign_fair_shares(self, tag: str) -> None:
        """Set the fair share of each queued or running task to its value of *tag*."""
        await self._writer.execute(tasks.ASSIGN_FAIR_SHARES, tag)

    async def slots_in_use(self, *, confirmed_only: bool = False) -> Mapping[str, int]:
        """Return the slots that running tasks use, by pack."""
        return await self._read(self._hot_reader, catalog.slots_in_use, confirmed_only=confirmed_only)

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events without a task, and deliveries."""
        await self._writer.execute(tasks.ADD_EVENTS, tasks.AddEventsCall(events=events, deliveries=deliveries))

    # DeliveryQueue

    async def due_routes(self) -> Mapping[str, datetime]:
        """Return when each route's next delivery is due."""
        return await self._read(self._hot_reader, catalog.due_routes)

    async def claim(self, route: str, **options: Unpack[ClaimOptions]) -> Sequence[ClaimedDelivery]:
        """Claim due deliveries of *route*."""
        return await self._writer.execute(deliveries.CLAIM, deliveries.ClaimCall(route=route, **options))

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alerts: Sequence[RoutedEvent] = (),
    ) -> bool:
        """Store an attempt, its verdict and the route's state, unless the claim has changed."""
        call = deliveries.RecordAttemptCall(attempt=attempt, verdict=verdict, claim=claim, route=route, alerts=alerts)
        return await self._writer.execute(deliveries.RECORD_ATTEMPT, call)

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Release a claimed delivery without an attempt."""
        call = deliveries.ReleaseCall(delivery_id=delivery_id, claim=claim, now=now)
        return await self._writer.execute(deliveries.RELEASE, call)

    async def release_all(self, *, now: datetime, suspect_after: int) -> RecoveredClaims:
        """Make every claimed delivery due now, and find the suspects."""
        call = deliveries.ReleaseAllCall(now=now, suspect_after=suspect_after)
        return await self._writer.execute(deliveries.RELEASE_ALL, call)

    async def retry_now(self, route: str, *, now: datetime) -> int:
        """Make every attempted, pending, unclaimed delivery of *route* due."""
        return await self._writer.execute(deliveries.RETRY_NOW, deliveries.RetryNowCall(route=route, now=now))

    async def bring_forward(self, route: str, *, now: datetime, archive_wait_until: datetime, limit: int) -> int:
        """Make deliveries with a later due time due, after the clock was set back."""
        call = deliveries.BringForwardCall(route=route, now=now, archive_wait_until=archive_wait_until, limit=limit)
        return await self._writer.execute(deliveries.BRING_FORWARD, call)

    async def route_states(self) -> Mapping[str, RouteState]:
        """Return the stored state of each route."""
        return await self._read(self._hot_reader, catalog.route_states)

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Store a route's state, its alert and the audit entry of the change."""
        call = deliveries.SaveRouteCall(state=state, alert=alert, action=action)
        await self._writer.execute(deliveries.SAVE_ROUTE, call)

    # Catalog

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, Kling's or the external one."""
        return await self._read(self._list_reader, catalog.find_task, ref)

    async def tasks(
        self,
        *,
        states: Sequence[TaskState] = (),
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first."""
        filters = {
            "states": json_list(states),
            "endpoint": endpoint,
            "label": label,
            "batch": batch,
            "tags": json.dumps(dict(tags)) if tags else None,
            "cursor": decode_cursor(cursor, prefix="tsk"),
        }
        return await self._page("list_tasks", filters, limit=limit, read=rows.task)

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        return await self._read(self._list_reader, catalog.counts, tags, batch)

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Return the pushes of a task, oldest first."""
        return await self._read(self._list_reader, catalog.pushes, task_id)

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        return await self._read(self._list_reader, catalog.find_event, event_id)

    async def events(
        self,
        *,
        types: Sequence[str] = (),
        task_id: str | None = None,
        batch: str | None = None,
        after: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """List events, newest first, or those committed after *after*, in the order of their commits."""
        last_id = decode_cursor(cursor, prefix="evt")
        filters = {"types": json_list(types), "task_id": task_id, "batch": batch}
        if after is not None:
            filters["after"] = last_id or after
            return await self._page("events_after", filters, limit=limit, read=rows.event)
        return await self._page("list_events", {**filters, "cursor": last_id}, limit=limit, read=rows.event)

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        return await self._read(self._list_reader, catalog.find_delivery, delivery_id)

    async def deliveries(
        self,
        *,
        statuses: Sequence[DeliveryStatus] = (),
        route: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeliveryView]:
        """List deliveries, newest first."""
        filters = {
            "statuses": json_list(statuses),
            "route": route,
            "task_id": task_id,
            "event_id": event_id,
            "cursor": decode_cursor(cursor, prefix="dlv"),
        }
        return await self._page("list_deliveries", filters, limit=limit, read=catalog.delivery_view)

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Return the attempts of a delivery, oldest first."""
        return await self._read(self._list_reader, catalog.attempts, delivery_id)

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Return the backlog of each route with pending deliveries."""
        return await self._read(self._list_reader, catalog.backlog)

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Return the audit log, newest first."""
        return await self._read(self._list_reader, catalog.actions, subjects, limit=limit)

    # ArchiveStore
    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Return up to *limit* events due for archiving."""
        return await self._read(self._hot_reader, archive.due_events, now, exclude, limit)

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Return when the next event is due for archiving."""
        return await self._read(self._hot_reader, archive.next_due, exclude)

    async def make_all_due(self, *, now: datetime) -> int:
        """Make every event due for archiving now."""
        return await self._writer.execute(archive.MAKE_ALL_DUE, now)

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write the update, unless archiving of the event has ended."""
        return await self._writer.execute(archive.SAVE, update)

    async def abandon_all(self, *, now: datetime) -> int:
        """Stop archiving all events."""
        return await self._writer.execute(archive.ABANDON_ALL, now)

    # RetentionStore and maintenance
    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Delete one page of data older than *before*."""
        call = retention.SweepCall(target=target, before=before, now=now, after=after)
        return await self._writer.execute(retention.SWEEP, call)

    async def truncate_wal(self) -> None:
        """Checkpoint the file and truncate its log."""
        await self._health.guard(self._writer.run_exclusive(checkpoint.truncate_wal))

    async def newest_id(self) -> str:
        """Return the newest id of all tables without its prefix; empty for an empty store."""
        return await self._read(self._hot_reader, catalog.newest_id)

    async def stats(self) -> Mapping[str, int]:
        """Return the rows of every kind and the bytes they use."""
        return await self._read(self._list_reader, maintenance.stats)

    async def backup(self, target: Path) -> None:
        """Copy the store to the new file *target* and check the copy; the store stays in use."""
        self._health.check()
        await asyncio.to_thread(maintenance.backup, self._path, target)

    async def _page(
        self, name: str, arguments: Mapping[str, object], *, limit: int, read: Callable[[sqlite3.Row], T]
    ) -> Page[T]:
        return await self._read(self._list_reader, catalog.page, name, arguments, limit=limit, read=read)

    async def _read(
        self,
        thread: ConnectionThread,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._health.check()
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        return await self._health.guard(thread.run(function, *args, **kwargs))
