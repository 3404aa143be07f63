"""What the service asks of a store, split by who asks. The conformance suite in tests/store defines it.

A store keeps what it acknowledged through a crash of the process and a cut of the power. Every call that
writes returns only after its commit; writes that wait at the same time share one transaction.
Time, ids and claims are arguments: a store knows no clock and no chance.

    Intake    tasks and what happens to them       inbox, submit, reconcile
    Queue     deliveries that want to go out       dispatch
    Catalog   everything, to be looked at          web, replay
    Home      results on their way home            archive
    Attic     what is old                          retention
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from receiver.domain.audit import AuditEntry
from receiver.domain.costs import Cost
from receiver.domain.model import (
    ArchiveState,
    Asset,
    Attempt,
    Delivery,
    DeliveryStatus,
    Event,
    Push,
    PushOutcome,
    RouteState,
    Task,
    TaskState,
    Verdict,
)
from receiver.events.factory import RoutedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ByToken:
    """Finds a task by its callback token's SHA-256."""

    token_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ById:
    """Finds a task by our own id."""

    id: str


TaskRef = ByToken | ById
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one piece of news writes, all of it or nothing.

    ``task`` replaces the row (None: unchanged), ``push`` is kept as it came, ``settles`` gives earlier pushes
    their outcome, ``intent`` replaces the stored body of the submit, ``cost`` is kept unless a fuller one is known.
    ``keep`` is how many of the task's pushes that changed nothing are kept from now on, the newest ones (None: all).
    ``action`` says on whose word it is changed, where it is a person's.
    """

    task: Task | None = None
    push: Push | None = None
    events: Sequence[Event] = ()
    deliveries: Sequence[Delivery] = ()
    resolved: Mapping[str, PushOutcome] = field(default_factory=dict)
    intent: bytes | None = None
    cost: Cost | None = None
    keep_redundant: int | None = None
    action: AuditEntry | None = None


Decide = Callable[[Task, Sequence[Push]], Change]
"""Decides, inside the transaction, what follows for a task. Gets its pushes still ``pending`` where asked for.
Pure: it may be called again with a newer row if the transaction has to be repeated."""


class TaskStore(Protocol):
    """Tasks, and the one door through which anything happens to them."""

    async def add(
        self, task: Task, intent: bytes, *, events: Sequence[Event] = (), batch_size: int | None = None
    ) -> Task:
        """Store a new task and the body it was asked for with; give the first one where its
        idempotency key was seen before (compare the ids to tell).

        Its batch is made where there is none, and closed when it has *batch_size* tasks. Raises Conflict where
        the batch is closed, or was to have another size.
        """
        ...

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Let *judge* see the task as it is and write what it decides, in one transaction.

        None when there is no such task. Calls for one task are judged one after the other, each seeing what
        the one before it wrote. *with_pending* also reads the task's pushes that await confirmation.
        """
        ...

    async def has_live_token(self, token_hash: bytes, *, now: datetime) -> bool:
        """Tell whether a task has this token and has not expired, without waiting for whoever writes."""
        ...

    async def intent(self, task_id: str) -> bytes:
        """Give the body the task was asked for with; empty when it is no longer kept."""
        ...

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
        """Take up to *limit* tasks in *states* that are due, longest due first, and make them due again *until*.

        With *endpoints* the tasks of all others are left alone; *pushes_first* lets those go before that pushes await.
        """
        ...

    async def make_due(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, min_gap: timedelta
    ) -> int:
        """At start, when no other process can be at work: make tasks that fall due *before* then due *now*, or *apart*
        from when they were last asked about, as those that were claimed; give the count."""
        ...

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Tell when the next task in *states* falls due, of those that do so *after* a moment."""
        ...

    async def next_queued(self, *, now: datetime, head_ids: Sequence[str] = ()) -> Sequence[Task]:
        """Give for each pack the due queued task that goes next, the highest priority first; nothing is claimed.
        Of a pack's highest priority it is one of *kept*, task ids; else the longest due of the share that takes the
        fewest of its slots, and among such of that served the longest ago."""
        ...

    async def assign_fair_shares(self, tag: str) -> None:
        """Make the value of *tag* the share of each task that waits or runs; without a value it is ""."""
        ...

    async def slots_in_use(self, *, confirmed_only: bool = False) -> Mapping[str, int]:
        """Count the slots that running tasks take, by pack; where *bound*, of those alone that are known to be made."""
        ...

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events that belong to no task, such as alerts, with their deliveries; also where room is short."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """A delivery under our claim, with all its sender needs. ``reply_to`` is the task's own callback URL."""

    delivery: Delivery
    event: Event
    reply_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteBacklog:
    """What waits in one route."""

    route: str
    pending: int
    oldest: datetime


class DeliveryQueue(Protocol):
    """Deliveries that want to go out. A claim makes a delivery due again at its lease's end."""

    async def due_routes(self) -> Mapping[str, datetime]:
        """Tell, for each route with anything pending, when its next delivery falls due."""
        ...

    async def claim(
        self, route: str, *, now: datetime, until: datetime, limit: int, claim: str, early: bool = False
    ) -> Sequence[ClaimedDelivery]:
        """Take up to *limit* due deliveries of *route*, oldest due first, under *claim* and a lease *until*.

        Counts one more ``unfinished`` on each. *early* takes those as well that wait for their next attempt.
        """
        ...

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alert: RoutedEvent | None = None,
    ) -> bool:
        """Record an attempt and its verdict, the route's new state and the alert that tells of it, if given.

        False, and nothing written, when the claim is no longer ours. Sets ``attempts`` to the attempt's number,
        ``unfinished`` to 0.
        """
        ...

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Give a claimed delivery back untried: due *now*, one ``unfinished`` fewer."""
        ...

    async def release_all(self, *, now: datetime) -> int:
        """At start, when no other process can be at work: make everything claimed due *now*; give the count."""
        ...

    async def retry_now(self, route: str, *, now: datetime) -> int:
        """Make all in *route* that was tried, is pending and unclaimed due, in the order of its age; give the count."""
        ...

    async def bring_forward(self, route: str, *, now: datetime, archive_wait_until: datetime, limit: int) -> int:
        """Where the clock was set back to *now*: make up to *limit* in *route* due that lie ahead untried.

        What waits for files is due by *held_until*. Gives the count; 0 when nothing is left.
        """
        ...

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        ...

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Remember a route's state, the alert that tells of it, and who changed it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list, newest first. ``next`` is the cursor of the page after it."""

    items: Sequence[T]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A delivery with its event's type and task, as lists show it."""

    delivery: Delivery
    event_type: str
    task_id: str | None


class Catalog(Protocol):
    """Everything, to be looked at. Reads never wait for writers."""

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, Kling's or the external one, in this order."""
        ...

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
        ...

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        ...

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Give all that arrived about a task, oldest first."""
        ...

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        ...

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
        """List events, newest first; with *after*, an event id, only newer ones and oldest first.

        With *batch* those of its tasks.
        """
        ...

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        ...

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
        ...

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Give a delivery's attempts, oldest first."""
        ...

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Tell what waits in each route."""
        ...

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Tell what people did, newest first; with *subjects*, to these alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveUpdate:
    """Files of an event that have come home, and how it goes on with the rest, all of it written or nothing.

    ``envelope`` is the event's with all its files in it. ``archiving`` None says that no more are to come, else the
    event is looked after again at ``archive_at``. ``deliver_at`` makes due what was held back for the files.
    """

    event_id: str
    envelope: bytes
    assets: Sequence[Asset] = ()
    archiving: ArchiveState | None = None
    archive_at: datetime | None = None
    deliver_at: datetime | None = None
    alerts: Sequence[RoutedEvent] = ()


class ArchiveStore(Protocol):
    """Events whose results are on their way home."""

    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Give up to *limit* events whose results are to be looked after *now*, longest due first, but for *without*.

        Nothing is claimed: whoever looks after an event names it in *without*, and after a crash it is due as it was.
        """
        ...

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Tell when the next event but *without* is to be looked after."""
        ...

    async def make_all_due(self, *, now: datetime) -> int:
        """Have all events looked after *now* that were to be later; give the count."""
        ...

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write what came home; False, and nothing written, where nothing more is to come for the event."""
        ...

    async def abandon_all(self, *, now: datetime) -> int:
        """Bring nothing home any more: what was held back falls due *now*. Give the count of events."""
        ...


class RetentionTarget(StrEnum):
    """What is taken away when it is old, each kind by itself and in this order."""

    BODIES = "bodies"  # out of pushes: their rows, digests and outcomes stay
    INTENTS = "intents"  # what tasks were asked for with
    EVENTS = "events"  # with deliveries, attempts and assets
    TASKS = "tasks"  # that are over and have no event left, with their pushes
    BATCHES = "batches"  # that have no task left
    ACTIONS = "actions"
    REPLAYS = "replays"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What one step took away, by kind. The next step goes on after ``next``; None: nothing old is left."""

    deleted: Mapping[str, int]
    next: str | None


class RetentionStore(Protocol):
    """What is old."""

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Take away a little of what is from *before*; nothing that waits, and nothing of a task that goes on."""
        ...

    async def truncate_wal(self) -> None:
        """Bring the file up to date and the log beside it down in size, without making anybody wait."""
        ...
