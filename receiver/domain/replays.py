"""What people ask of the service, as frozen values: an action that is done, a replay or a batch that takes its time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from receiver.domain.model import Delivery, DeliveryStatus, Task, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What a person did: ``verb`` says what (``route.held``), ``subject`` to which thing, ``note`` why."""

    at: datetime
    actor: str
    verb: str
    subject: str
    reason: str = ""


class ReplayState(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySelection:
    """What is to go out again; all that is given must hold.

    It is about deliveries that are over, each to its own route or all to ``to_route``. Where only a ``to_route``
    says where, it is about events, whether or not they went anywhere before, as far as that route's ``words``
    name them. Each event goes once to each route. ``among`` are the routes there are.
    """

    deliveries: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    task_id: str | None = None
    route: str | None = None
    statuses: tuple[DeliveryStatus, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    to_route: str | None = None
    event_kinds: tuple[str, ...] = ()
    known_routes: tuple[str, ...] = ()

    @property
    def selects_events(self) -> bool:
        """Whether events are chosen, and not what became of them."""
        return self.to_route is not None and not (self.deliveries or self.route or self.statuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A person's wish that events go out again, and how far it has come.

    It goes through what there was when it was asked for, up to ``last``, by id; ``cursor`` is the last one done.
    """

    id: str
    state: ReplayState
    selection: ReplaySelection
    actor: str
    why: str
    last: str
    total: int
    created_at: datetime
    rate: tuple[int, timedelta] | None = None
    cursor: str = ""
    created: int = 0
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayItem:
    """An event that a replay is to bring to a route again; ``place`` is where that stands in the replay's order."""

    position: str
    event_id: str
    event_type: str
    task_id: str | None
    route: str
    replay_of: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCount:
    """How much of what a replay is about had one status in one route; None where events are chosen themselves."""

    route: str
    status: DeliveryStatus | None
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStep:
    """A step of a replay from where *replay* stands to ``cursor``, the last one if it has a ``finished_at``."""

    replay: Replay
    deliveries: Sequence[Delivery]
    cursor: str
    finished_at: datetime | None = None


class BatchState(StrEnum):
    """Where a batch stands."""

    OPEN = "open"  # takes tasks in
    CLOSED = "closed"  # waits for its tasks
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tasks that somebody wants to hear of together: ``event_id`` names the event that tells of their end.

    It takes tasks in, ``taken`` of them so far, until it is closed: by a word, or by having its declared ``size``.
    """

    name: str
    id: str
    created_at: datetime
    size: int | None = None
    task_count: int = 0
    closed_at: datetime | None = None
    finished_at: datetime | None = None
    event_id: str | None = None

    @property
    def state(self) -> BatchState:
        """Where it stands."""
        if self.closed_at is None:
            return BatchState.OPEN
        return BatchState.CLOSED if self.finished_at is None else BatchState.FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch and how many of its tasks are in each state."""

    batch: Batch
    counts: Mapping[TaskState, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """A task that is over, and the object that told of it; empty where that is no longer kept."""

    task: Task
    envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBatch:
    """A batch whose tasks are all over, and the first of them."""

    batch: Batch
    counts: Mapping[TaskState, int]
    tasks: Sequence[FinishedTask]


class CostGrouping(StrEnum):
    """By what costs are summed."""

    TAG = "tag"
    ENDPOINT = "endpoint"
    DAY = "day"  # on which the task ended, UTC
    LABEL = "label"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTotal:
    """What tasks that share a ``name`` have cost, by unit; ``tasks`` counts those whose cost is known."""

    name: str | None
    tasks: int
    charges: Mapping[str, Decimal]
