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
from receiver.domain.replays import Action
from receiver.events.factory import Announcement
from receiver.store.disk import RESERVE, Room, free_bytes
from receiver.store.interfaces import (
    Backlog,
    Change,
    Claimed,
    DeliveryView,
    Homecoming,
    Judge,
    Litter,
    Page,
    Swept,
    TaskRef,
)
from receiver.store.sqlite import archive, catalog, checkpoint, deliveries, maintenance, retention, rows, tasks
from receiver.store.sqlite.batches import BatchStore
from receiver.store.sqlite.catalog import json_list, read_cursor
from receiver.store.sqlite.costs import CostStore
from receiver.store.sqlite.database import Health, Lane, connect_reader, connect_writer, had_alone
from receiver.store.sqlite.migrate import bring_up, known
from receiver.store.sqlite.replays import ReplayStore
from receiver.store.sqlite.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_CLOCK = SystemClock()


class SqliteStore:
    """Intake, Queue, Catalog, Home and Attic on one SQLite file that this process has alone.

    ``broken`` is set when the file can no longer be trusted; whoever runs the service then stops it.
    """

    def __init__(self, path: Path, *, room: Room, health: Health, writer: Writer, glance: Lane, browse: Lane) -> None:
        self.room = room
        self._path = path
        self._health = health
        self._writer = writer
        self._glance = glance  # the look-ups that work waits for
        self._browse = browse  # lists, which may take their time
        self._resources = AsyncExitStack()
        self._closed = False
        self.replays = ReplayStore(writer, partial(self._read, self._browse))
        self.costs = CostStore(partial(self._read, self._browse))
        self.batches = BatchStore(writer, partial(self._read, self._glance), partial(self._read, self._browse))

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
            stack.enter_context(had_alone(path, create=create))
            health, after_commit = Health(path), checkpoint.Checkpoints(path).after_commit
            # Opened first, so closed last: the last one to close empties the log into the file.
            lane = await _opened(stack, health, partial(connect_writer, path), "store-writer")
            await health.vouch(lane.run(bring_up, known(), clock=clock))
            await health.vouch(lane.run(partial(maintenance.clear_suspicion, path)))
            glance = await _opened(stack, health, partial(connect_reader, path), "store-glance")
            browse = await _opened(stack, health, partial(connect_reader, path), "store-browse")
            room = Room(path.parent, reserve=reserve, free=free)
            writer = Writer(lane, health, has_room=room.suffices, after_commit=after_commit)
            stack.push_async_callback(writer.aclose)
            store = cls(path, room=room, health=health, writer=writer, glance=glance, browse=browse)
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
        new = tasks.NewTask(task=task, intent=intent, events=events, batch_size=batch_size)
        return await self._writer.do(tasks.ADD, new)

    async def apply(self, ref: TaskRef, judge: Judge, *, with_pending: bool = False) -> Change | None:
        """Let *judge* see the task as it is and write what it decides."""
        return await self._writer.do(tasks.APPLY, tasks.News(ref=ref, judge=judge, with_pending=with_pending))

    async def knows(self, token_hash: bytes, *, now: datetime) -> bool:
        """Tell whether a live task has the token."""
        return await self._read(self._glance, catalog.knows, token_hash, now)

    async def intent(self, task_id: str) -> bytes:
        """Give the body a task was asked for with."""
        return await self._read(self._glance, catalog.intent, task_id)

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
        claim = tasks.TaskClaim(
            states=states, now=now, until=until, limit=limit, endpoints=endpoints, pushes_first=pushes_first
        )
        return await self._writer.do(tasks.CLAIM_TASKS, claim)

    async def hasten_tasks(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, apart: timedelta
    ) -> int:
        """Make tasks that fall due *before* then due now."""
        hastened = tasks.Hastened(states=states, now=now, before=before, apart=apart)
        return await self._writer.do(tasks.HASTEN_TASKS, hastened)

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Tell when the next task in *states* falls due."""
        return await self._read(self._glance, catalog.next_task_due, states, after)

    async def line(self, *, now: datetime, kept: Sequence[str] = ()) -> Sequence[Task]:
        """Give for each pack the queued task that goes next."""
        return await self._read(self._glance, catalog.line, now, kept)

    async def share_out(self, tag: str) -> None:
        """Make the value of *tag* the share of each task that waits or runs."""
        await self._writer.do(tasks.SHARE_OUT, tag)

    async def occupancy(self, *, bound: bool = False) -> Mapping[str, int]:
        """Count the slots that running tasks take, by pack."""
        return await self._read(self._glance, catalog.occupancy, bound=bound)

    async def record(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events that belong to no task, and deliveries of events that are stored."""
        await self._writer.do(tasks.RECORD, tasks.Record(events=events, deliveries=deliveries))

    # Queue

    async def due_routes(self) -> Mapping[str, datetime]:
        """Tell for each route with anything pending when its next delivery falls due."""
        return await self._read(self._glance, catalog.due_routes)

    async def claim(
        self, route: str, *, now: datetime, until: datetime, limit: int, claim: str, early: bool = False
    ) -> Sequence[Claimed]:
        """Take up to *limit* deliveries of *route* that are due, or *early* to be tried again."""
        wanted = deliveries.Claim(route=route, now=now, until=until, limit=limit, claim=claim, early=early)
        return await self._writer.do(deliveries.CLAIM, wanted)

    async def finish(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alert: Announcement | None = None,
    ) -> bool:
        """Record an attempt, its verdict and what follows for the route, if the claim is still ours."""
        finish = deliveries.Finish(attempt=attempt, verdict=verdict, claim=claim, route=route, alert=alert)
        return await self._writer.do(deliveries.FINISH, finish)

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Give a claimed delivery back untried."""
        return await self._writer.do(
            deliveries.RELEASE, deliveries.Release(delivery_id=delivery_id, claim=claim, now=now)
        )

    async def release_all(self, *, now: datetime) -> int:
        """Make everything claimed due now."""
        return await self._writer.do(deliveries.RELEASE_ALL, now)

    async def hasten(self, route: str, *, now: datetime) -> int:
        """Make all in *route* that was tried and that nobody has claimed due, by age."""
        return await self._writer.do(deliveries.HASTEN, deliveries.Hasten(route=route, now=now))

    async def bring_forward(self, route: str, *, now: datetime, held_until: datetime, limit: int) -> int:
        """Make due what lies ahead untried, for a clock that was set back."""
        ahead = deliveries.Ahead(route=route, now=now, held_until=held_until, limit=limit)
        return await self._writer.do(deliveries.BRING_FORWARD, ahead)

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        return await self._read(self._glance, catalog.route_states)

    async def save_route(
        self, state: RouteState, *, alert: Announcement | None = None, action: Action | None = None
    ) -> None:
        """Remember a route's state, the alert that tells of it, and who changed it."""
        await self._writer.do(deliveries.SAVE_ROUTE, deliveries.SaveRoute(state=state, alert=alert, action=action))

    # Catalog

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, Kling's or the external one."""
        return await self._read(self._browse, catalog.find_task, ref)

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
            "cursor": read_cursor(cursor, prefix="tsk"),
        }
        return await self._page("list_tasks", wanted, limit=limit, read=rows.task)

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        return await self._read(self._browse, catalog.counts, tags, batch)

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Give all that arrived about a task, oldest first."""
        return await self._read(self._browse, catalog.pushes, task_id)

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        return await self._read(self._browse, catalog.find_event, event_id)

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
        seen = read_cursor(cursor, prefix="evt")
        wanted = {"types": json_list(types), "task_id": task_id, "batch": batch}
        if after is not None:
            wanted["after"] = seen or after
            return await self._page("events_after", wanted, limit=limit, read=rows.event)
        return await self._page("list_events", {**wanted, "cursor": seen}, limit=limit, read=rows.event)

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        return await self._read(self._browse, catalog.find_delivery, delivery_id)

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
            "cursor": read_cursor(cursor, prefix="dlv"),
        }
        return await self._page("list_deliveries", wanted, limit=limit, read=catalog.delivery_view)

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Give a delivery's attempts, oldest first."""
        return await self._read(self._browse, catalog.attempts, delivery_id)

    async def backlog(self) -> Sequence[Backlog]:
        """Tell what waits in each route."""
        return await self._read(self._browse, catalog.backlog)

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[Action]:
        """Tell what people did, newest first."""
        return await self._read(self._browse, catalog.actions, subjects, limit=limit)

    # Home

    async def archiving(self, *, now: datetime, without: Sequence[str], limit: int) -> Sequence[Event]:
        """Give up to *limit* events whose results are to be looked after *now*."""
        return await self._read(self._glance, archive.awaiting, now, without, limit)

    async def next_archiving(self, *, without: Sequence[str]) -> datetime | None:
        """Tell when results are next to be looked after."""
        return await self._read(self._glance, archive.next_at, without)

    async def hasten_archiving(self, *, now: datetime) -> int:
        """Have all events looked after now."""
        return await self._writer.do(archive.HASTEN, now)

    async def bring_home(self, homecoming: Homecoming) -> bool:
        """Write what came home, if anything was still to come."""
        return await self._writer.do(archive.BRING, homecoming)

    async def leave_archiving(self, *, now: datetime) -> int:
        """Bring nothing home any more."""
        return await self._writer.do(archive.LEAVE, now)

    # Attic, and looking after it all

    async def sweep(self, litter: Litter, *, before: datetime, now: datetime, after: str = "") -> Swept:
        """Take away a little of what is from *before*."""
        return await self._writer.do(
            retention.SWEEP, retention.Sweep(litter=litter, before=before, now=now, after=after)
        )

    async def empty_log(self) -> None:
        """Bring the file up to date, and the log down in size."""
        await self._health.vouch(self._writer.between(checkpoint.empty_log))

    async def newest_id(self) -> str:
        """Give the newest id that anything has, without its prefix; empty in an empty store."""
        return await self._read(self._glance, catalog.newest_id)

    async def stats(self) -> Mapping[str, int]:
        """Count the rows of every kind and the bytes they take."""
        return await self._read(self._browse, maintenance.stats)

    async def backup(self, target: Path) -> None:
        """Copy the store to the new file *target*, checked, while work goes on."""
        self._health.check()
        await asyncio.to_thread(maintenance.backup, self._path, target)

    async def _page(
        self, name: str, wanted: Mapping[str, object], *, limit: int, read: Callable[[sqlite3.Row], T]
    ) -> Page[T]:
        return await self._read(self._browse, catalog.page, name, wanted, limit=limit, read=read)

    async def _read(
        self,
        lane: Lane,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._health.check()
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        return await self._health.vouch(lane.run(work, *args, **kwargs))


async def _opened(stack: AsyncExitStack, health: Health, connect: Callable[[], sqlite3.Connection], name: str) -> Lane:
    lane = await health.vouch(Lane.open(connect, name=name))
    stack.push_async_callback(lane.aclose)
    return lane
