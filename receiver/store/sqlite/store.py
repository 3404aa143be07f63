"""A store in one SQLite file: one connection writes in groups, two read beside it and never wait for it."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, SystemClock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import (
    Attempt,
    Delivery,
    DeliveryStatus,
    Event,
    Push,
    RouteState,
    Task,
    TaskState,
    Verdict,
)
from receiver.events.factory import RoutedEvent
from receiver.store.disk import RESERVE, DiskSpace, free_bytes
from receiver.store.interfaces import (
    ArchiveUpdate,
    Change,
    ClaimedDelivery,
    Decide,
    DeliveryView,
    Page,
    RetentionTarget,
    RouteBacklog,
    SweepResult,
    TaskRef,
)
from receiver.store.sqlite import archive, catalog, checkpoint, deliveries, maintenance, retention, rows, tasks
from receiver.store.sqlite.batches import SqliteBatchStore
from receiver.store.sqlite.catalog import decode_cursor, json_list
from receiver.store.sqlite.costs import SqliteCostStore
from receiver.store.sqlite.database import ConnectionThread, Health, connect_reader, connect_writer, exclusive
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.replays import SqliteReplayStore
from receiver.store.sqlite.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_CLOCK = SystemClock()


class SqliteStore:
    """Intake, Queue, Catalog, Home and Attic on one SQLite file that this process has alone.

    ``broken`` is set when the file can no longer be trusted; whoever runs the service then stops it.
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
        self._hot_reader = hot_reader  # the look-ups that work waits for
        self._list_reader = list_reader  # lists, which may take their time
        self._resources = AsyncExitStack()
        self._closed = False
        self.replays = SqliteReplayStore(writer, partial(self._read, self._list_reader))
        self.costs = SqliteCostStore(partial(self._read, self._list_reader))
        self.batches = SqliteBatchStore(
            writer, partial(self._read, self._hot_reader), partial(self._read, self._list_reader)
        )

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
        """Have the store at *path* alone, brought up to date, until ``aclose``.

        When less than *reserve* bytes are *free* it takes nothing new, so that there is room left to finish in.
        Raises StoreLocked where another process has it, StoreError where it is no store for this program.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(exclusive(path, create=create))
            health, after_commit = Health(path), checkpoint.Checkpointer(path).after_commit
            # Opened first, so closed last: the last one to close empties the log into the file.
            lane = await _open_thread(stack, health, partial(connect_writer, path), "store-writer")
            await health.guard(lane.run(upgrade, known_migrations(), clock=clock))
            await health.guard(lane.run(partial(maintenance.verify_after_damage, path)))
            glance = await _open_thread(stack, health, partial(connect_reader, path), "store-hot-reader")
            browse = await _open_thread(stack, health, partial(connect_reader, path), "store-list-reader")
            room = DiskSpace(path.parent, reserve=reserve, free=free)
            writer = Writer(lane, health, has_space=room.has_space, after_commit=after_commit)
            stack.push_async_callback(writer.aclose)
            store = cls(path, disk_space=room, health=health, writer=writer, hot_reader=glance, list_reader=browse)
            store._resources = stack.pop_all()
            return store

    async def aclose(self) -> None:
        """Write what still waits, close the file, give the store free."""
        self._closed = True
        await self._resources.aclose()

    @property
    def broken(self) -> asyncio.Event:
        """The event that is set when the file can no longer be trusted."""
        return self._health.broken

    # Intake

    async def add(
        self, task: Task, intent: bytes, *, events: Sequence[Event] = (), batch_size: int | None = None
    ) -> Task:
        """Store a new task, or give the first one with its idempotency key."""
        new = tasks.AddCall(task=task, intent=intent, events=events, batch_size=batch_size)
        return await self._writer.execute(tasks.ADD, new)

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Let *judge* see the task as it is and write what it decides."""
        return await self._writer.execute(
            tasks.APPLY, tasks.ApplyCall(ref=ref, decide=decide, with_pending=with_pending)
        )

    async def has_live_token(self, token_hash: bytes, *, now: datetime) -> bool:
        """Tell whether a live task has the token."""
        return await self._read(self._hot_reader, catalog.has_live_token, token_hash, now)

    async def intent(self, task_id: str) -> bytes:
        """Give the body a task was asked for with."""
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
        """Take up to *limit* tasks that are due."""
        claim = tasks.ClaimTasksCall(
            states=states, now=now, until=until, limit=limit, endpoints=endpoints, pushes_first=pushes_first
        )
        return await self._writer.execute(tasks.CLAIM_TASKS, claim)

    async def make_due(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, min_gap: timedelta
    ) -> int:
        """Make tasks that fall due *before* then due now."""
        hastened = tasks.MakeDueCall(states=states, now=now, before=before, min_gap=min_gap)
        return await self._writer.execute(tasks.MAKE_DUE, hastened)

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Tell when the next task in *states* falls due."""
        return await self._read(self._hot_reader, catalog.next_task_due, states, after)

    async def next_queued(self, *, now: datetime, head_ids: Sequence[str] = ()) -> Sequence[Task]:
        """Give for each pack the queued task that goes next."""
        return await self._read(self._hot_reader, catalog.next_queued, now, head_ids)

    async def assign_fair_shares(self, tag: str) -> None:
        """Make the value of *tag* the share of each task that waits or runs."""
        await self._writer.execute(tasks.ASSIGN_FAIR_SHARES, tag)

    async def slots_in_use(self, *, confirmed_only: bool = False) -> Mapping[str, int]:
        """Count the slots that running tasks take, by pack."""
        return await self._read(self._hot_reader, catalog.slots_in_use, confirmed_only=confirmed_only)

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events that belong to no task, and deliveries of events that are stored."""
        await self._writer.execute(tasks.ADD_EVENTS, tasks.AddEventsCall(events=events, deliveries=deliveries))

    # Queue

    async def due_routes(self) -> Mapping[str, datetime]:
        """Tell for each route with anything pending when its next delivery falls due."""
        return await self._read(self._hot_reader, catalog.due_routes)

    async def claim(
        self, route: str, *, now: datetime, until: datetime, limit: int, claim: str, early: bool = False
    ) -> Sequence[ClaimedDelivery]:
        """Take up to *limit* deliveries of *route* that are due, or *early* to be tried again."""
        wanted = deliveries.ClaimCall(route=route, now=now, until=until, limit=limit, claim=claim, early=early)
        return await self._writer.execute(deliveries.CLAIM, wanted)

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alert: RoutedEvent | None = None,
    ) -> bool:
        """Record an attempt, its verdict and what follows for the route, if the claim is still ours."""
        finish = deliveries.RecordAttemptCall(attempt=attempt, verdict=verdict, claim=claim, route=route, alert=alert)
        return await self._writer.execute(deliveries.RECORD_ATTEMPT, finish)

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Give a claimed delivery back untried."""
        return await self._writer.execute(
            deliveries.RELEASE, deliveries.ReleaseCall(delivery_id=delivery_id, claim=claim, now=now)
        )

    async def release_all(self, *, now: datetime) -> int:
        """Make everything claimed due now."""
        return await self._writer.execute(deliveries.RELEASE_ALL, now)

    async def retry_now(self, route: str, *, now: datetime) -> int:
        """Make all in *route* that was tried and that nobody has claimed due, by age."""
        return await self._writer.execute(deliveries.RETRY_NOW, deliveries.RetryNowCall(route=route, now=now))

    async def bring_forward(self, route: str, *, now: datetime, archive_wait_until: datetime, limit: int) -> int:
        """Make due what lies ahead untried, for a clock that was set back."""
        ahead = deliveries.BringForwardCall(route=route, now=now, archive_wait_until=archive_wait_until, limit=limit)
        return await self._writer.execute(deliveries.BRING_FORWARD, ahead)

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        return await self._read(self._hot_reader, catalog.route_states)

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Remember a route's state, the alert that tells of it, and who changed it."""
        await self._writer.execute(
            deliveries.SAVE_ROUTE, deliveries.SaveRouteCall(state=state, alert=alert, action=action)
        )

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
        wanted = {
            "states": json_list(states),
            "endpoint": endpoint,
            "label": label,
            "batch": batch,
            "tags": json.dumps(dict(tags)) if tags else None,
            "cursor": decode_cursor(cursor, prefix="tsk"),
        }
        return await self._page("list_tasks", wanted, limit=limit, read=rows.task)

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        return await self._read(self._list_reader, catalog.counts, tags, batch)

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Give all that arrived about a task, oldest first."""
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
        """List events, newest first, or those committed after *after*, in that order."""
        seen = decode_cursor(cursor, prefix="evt")
        wanted = {"types": json_list(types), "task_id": task_id, "batch": batch}
        if after is not None:
            wanted["after"] = seen or after
            return await self._page("events_after", wanted, limit=limit, read=rows.event)
        return await self._page("list_events", {**wanted, "cursor": seen}, limit=limit, read=rows.event)

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
        wanted = {
            "statuses": json_list(statuses),
            "route": route,
            "task_id": task_id,
            "event_id": event_id,
            "cursor": decode_cursor(cursor, prefix="dlv"),
        }
        return await self._page("list_deliveries", wanted, limit=limit, read=catalog.delivery_view)

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Give a delivery's attempts, oldest first."""
        return await self._read(self._list_reader, catalog.attempts, delivery_id)

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Tell what waits in each route."""
        return await self._read(self._list_reader, catalog.backlog)

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Tell what people did, newest first."""
        return await self._read(self._list_reader, catalog.actions, subjects, limit=limit)

    # Home

    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Give up to *limit* events whose results are to be looked after *now*."""
        return await self._read(self._hot_reader, archive.due_events, now, exclude, limit)

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Tell when results are next to be looked after."""
        return await self._read(self._hot_reader, archive.next_due, exclude)

    async def make_all_due(self, *, now: datetime) -> int:
        """Have all events looked after now."""
        return await self._writer.execute(archive.MAKE_ALL_DUE, now)

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write what came home, if anything was still to come."""
        return await self._writer.execute(archive.SAVE, update)

    async def abandon_all(self, *, now: datetime) -> int:
        """Bring nothing home any more."""
        return await self._writer.execute(archive.ABANDON_ALL, now)

    # Attic, and looking after it all

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Take away a little of what is from *before*."""
        return await self._writer.execute(
            retention.SWEEP, retention.SweepCall(target=target, before=before, now=now, after=after)
        )

    async def truncate_wal(self) -> None:
        """Bring the file up to date, and the log down in size."""
        await self._health.guard(self._writer.run_exclusive(checkpoint.truncate_wal))

    async def newest_id(self) -> str:
        """Give the newest id that anything has, without its prefix; empty in an empty store."""
        return await self._read(self._hot_reader, catalog.newest_id)

    async def stats(self) -> Mapping[str, int]:
        """Count the rows of every kind and the bytes they take."""
        return await self._read(self._list_reader, maintenance.stats)

    async def backup(self, target: Path) -> None:
        """Copy the store to the new file *target*, checked, while work goes on."""
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


async def _open_thread(
    stack: AsyncExitStack, health: Health, connect: Callable[[], sqlite3.Connection], name: str
) -> ConnectionThread:
    lane = await health.guard(ConnectionThread.open(connect, name=name))
    stack.push_async_callback(lane.aclose)
    return lane
