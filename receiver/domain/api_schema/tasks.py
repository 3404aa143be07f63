"""Tasks and batches. The classes of the same name in :mod:`receiver.client` extend these.

A member with a default may be missing in the response of an older service. The present one always sends it.
Those that the client extends refuse changes, as its own do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from receiver.domain.api_schema.json_object import (
    Amount,
    JsonObject,
    SchemaOf,
    SparseObject,
    Timestamp,
    Url,
    definition,
)
from receiver.domain.batches import BatchState
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ArchiveState, Json, Origin, Verification

TASK_REFUSED = "task_refused"
"""The ``code`` of the error of a submit that Kling refused."""


@definition
class Asset(SparseObject):
    """An archived file: a result of a task."""

    url: Url
    """Kling's URL, which expires."""
    path: str | None = None
    """The local file; missing if only the object store has it."""
    storage: Url | None = None
    """The URL in the object store; missing without one."""
    sha256: str
    bytes: int
    content_type: str


Results = Mapping[str, Sequence[Json]]
"""Entries by kind, such as images. Kling defines their members."""

Assets = Annotated[Sequence[Json], SchemaOf(list[Asset])]


@dataclass(frozen=True, kw_only=True)
class TaskCost(JsonObject):
    """What Kling charged for a task."""

    charges: Mapping[str, Amount] = field(default_factory=dict)
    """Exact amounts by unit."""
    said: Any = None
    """Kling's own JSON."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Task(JsonObject):
    """A task."""

    id: str
    state: Annotated[str, SchemaOf(ListedState)]
    endpoint: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: str | None = None
    priority: int = 0
    """Queued tasks of higher priority are sent first."""
    kling_id: str | None = None
    external_task_id: str | None = None
    message: str = ""
    origin: Annotated[str | None, SchemaOf(Origin)] = None
    created_at: Annotated[str | None, SchemaOf(Timestamp)] = None
    updated_at: Annotated[str | None, SchemaOf(Timestamp)] = None
    expires_at: Timestamp | None = None
    """When its callback URL expires."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SubmittedTask(Task):
    """A task after its submit."""

    existing: bool
    """Whether an earlier submit with the same idempotency key created it."""


@definition
class TaskDeletion(JsonObject):
    """A deleted task, or a preview of its deletion."""

    task: Task
    dry_run: bool
    pushes: int
    events: int
    deliveries: int
    pending_deliveries: int
    """Deliveries that were still to be made."""
    removed: Sequence[str]
    """Archived files and objects that were removed."""
    left: Sequence[str]
    """Archived files and objects that remain."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TaskDetails(Task):
    """A task with its results and its cost."""

    verified: Annotated[str | None, SchemaOf(Verification | None)] = None
    """How the event of its end was verified; null before its end."""
    result: Results = field(default_factory=dict, repr=False)
    """Entries by kind, such as images. Kling defines their members."""
    assets: Assets = field(default=(), repr=False)
    """Archived files."""
    archiving: Annotated[str | None, SchemaOf(ArchiveState | None)] = None
    """State of the archive while files are missing."""
    cost: TaskCost | None = None
    """Null while it is unknown."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchSummary(JsonObject):
    """A batch of tasks."""

    name: str
    state: Annotated[str, SchemaOf(BatchState)]
    size: int | None = None
    """Declared number of tasks."""
    tasks: int
    """Number of tasks so far."""
    counts: Annotated[Mapping[str, int], SchemaOf(dict[ListedState, int])] = field(default_factory=dict)
    """Number of tasks in each state that has any."""
    created_at: Annotated[str | None, SchemaOf(Timestamp)] = None
    closed_at: Timestamp | None = None
    finished_at: Timestamp | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Batch(BatchSummary):
    """A batch of tasks, with its event."""

    event_id: str | None = None
    """ID of the event `batch.finished`."""


@definition
class TaskSummary(JsonObject):
    """The task that an event is about."""

    id: str
    kling_id: str | None
    external_task_id: str | None
    endpoint: str | None
    label: str | None
    tags: Mapping[str, str]
    batch: str | None
    created_at: Timestamp
