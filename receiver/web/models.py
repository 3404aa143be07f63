"""The objects of the admin API as pydantic models. The schemas in ``/openapi.json`` are generated from them."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field

from receiver.domain.batches import BatchState
from receiver.domain.model import (
    ArchiveState,
    DeliveryStatus,
    Generation,
    HeldBy,
    Origin,
    PushOutcome,
    Source,
    TaskState,
    Verification,
)
from receiver.domain.replays import ReplayState

Object = dict[str, Any]
"""An object that Kling defines."""


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class BatchRequest(BaseModel):
    """The batch of a new task, with the number of tasks it will have."""

    name: str
    size: int | None = None


class SubmitRequest(BaseModel):
    """A new task."""

    endpoint: Annotated[str, Field(examples=["images/multi-image2image"])]
    body: Annotated[Object, Field(description="As Kling documents it; sent unchanged.")]
    label: str | None = None
    tags: dict[str, str] = {}
    batch: Annotated[str | BatchRequest | None, Field(description="Name of the batch, or its name and size.")] = None
    priority: Annotated[int, Field(description="Queued tasks of higher priority are sent first.")] = 0
    idempotency_key: str | None = None


class TaskCost(BaseModel):
    """What Kling charged for a task."""

    charges: Annotated[dict[str, str], Field(description="Exact amounts by unit.")]
    said: Annotated[Any, Field(description="Kling's own JSON.")]


class Task(BaseModel):
    """A task. A list omits its results."""

    id: str
    state: TaskState
    endpoint: str | None
    label: str | None
    tags: dict[str, str]
    batch: str | None
    priority: int
    kling_id: str | None
    external_task_id: str | None
    message: str
    origin: Origin
    created_at: AwareDatetime
    updated_at: AwareDatetime
    expires_at: AwareDatetime | None
    existing: Annotated[bool, Field(description="Only after a submit: its idempotency key was known.")] = False
    verified: Annotated[Verification | None, Field(description="Only for a single task.")] = None
    result: Annotated[
        dict[str, list[Object]], Field(description="Only for a single task: entries by kind, such as images.")
    ] = {}
    assets: Annotated[list[Object], Field(description="Only for a single task: archived files.")] = []
    archiving: Annotated[ArchiveState | None, Field(description="Only for a single task: state of the archive.")] = None
    cost: Annotated[TaskCost | None, Field(description="Only for a single task.")] = None


class Endpoint(BaseModel):
    """One of Kling's endpoints."""

    path: str
    generation: Generation
    pack: str | None
    slots: Annotated[int | str | None, Field(description="Slots per task, or the member that contains the number.")]
    result: str
    asynchronous: bool
    create: str
    query: str | None
    list: str | None


class CostTotal(BaseModel):
    """The costs of a group of tasks."""

    name: str | None
    tasks: Annotated[int, Field(description="Number of tasks with a known cost.")]
    charges: Annotated[dict[str, str], Field(description="Exact amounts by unit.")]


class Batch(BaseModel):
    """A batch of tasks."""

    name: str
    state: BatchState
    size: Annotated[int | None, Field(description="Declared number of tasks.")]
    tasks: Annotated[int, Field(description="Number of tasks so far.")]
    counts: Annotated[dict[str, int], Field(description="Number of tasks in each state.")]
    created_at: AwareDatetime
    closed_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    event_id: Annotated[str | None, Field(description="ID of the event `batch.finished`.")]


class Event(BaseModel):
    """An event, exactly as destinations receive it."""

    type: Annotated[str, Field(examples=["task.succeed"])]
    timestamp: AwareDatetime
    data: Annotated[Object, Field(description="With `event_id`; its other members depend on the type.")]


class Attempt(BaseModel):
    """An attempt at a delivery."""

    number: int
    started_at: AwareDatetime
    duration_ms: float
    outcome: Literal["accepted", "failed", "refused"]
    code: int | None
    reason: str
    excerpt: str


class RouteTestOutcome(BaseModel):
    """The outcome of a test delivery."""

    outcome: Literal["accepted", "failed", "refused"]
    code: int | None
    reason: str
    excerpt: str
    duration_ms: float


class Delivery(BaseModel):
    """A delivery."""

    id: str
    event_id: str
    event_type: str
    task_id: str | None
    route: str
    status: DeliveryStatus
    attempts: int
    due_at: AwareDatetime
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    replay_of: str | None
    in_flight: bool
    attempts_made: Annotated[list[Attempt], Field(description="Only for a single delivery.")] = []


class Route(BaseModel):
    """A route and its state."""

    name: str
    kind: Literal["webhook", "script", "reply", "gone"]
    destination: str
    on: list[str]
    endpoints: list[str]
    where: str | None
    concurrency: int
    held_at: AwareDatetime | None
    held_by: HeldBy | None
    held_why: str
    probe_at: AwareDatetime | None
    failures: int
    pending: int
    oldest_pending_at: AwareDatetime | None


class ReplayRequest(BaseModel):
    """Which events to deliver again, and how."""

    deliveries: Annotated[list[str], Field(description="IDs of deliveries.")] = []
    events: Annotated[list[str], Field(description="IDs of events.")] = []
    task: Annotated[str | None, Field(description="Only this task, by any of its IDs.")] = None
    route: Annotated[str | None, Field(description="Only deliveries to this route.")] = None
    status: list[Literal["delivered", "dead"]] = []
    from_: Annotated[AwareDatetime | None, Field(alias="from", description="Created at or after this time.")] = None
    to: Annotated[AwareDatetime | None, Field(description="Created before this time.")] = None
    to_route: Annotated[str | None, Field(description="Deliver to this route instead.")] = None
    pace: Annotated[str | None, Field(description="Maximum rate.", examples=["5/s", "100/m"])] = None
    why: Annotated[str | None, Field(description="Reason, for the audit log.")] = None
    dry_run: Annotated[bool, Field(description="Only preview the replay.")] = False


class ReplaySelection(BaseModel):
    """Which events a replay delivers again."""

    deliveries: list[str]
    events: list[str]
    task: str | None
    route: str | None
    status: list[DeliveryStatus]
    from_: Annotated[AwareDatetime | None, Field(alias="from")]
    to: AwareDatetime | None
    to_route: str | None


class Replay(BaseModel):
    """A replay and its progress."""

    id: str
    state: ReplayState
    total: int
    created: Annotated[int, Field(description="Number of deliveries created so far.")]
    selection: ReplaySelection
    pace: str | None
    actor: str
    why: str
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class ReplayCount(BaseModel):
    """How many deliveries a replay would create for a route, by present status."""

    route: str
    status: DeliveryStatus | None
    count: int
    oldest_at: AwareDatetime
    newest_at: AwareDatetime


class ReplaySample(BaseModel):
    """A delivery that a replay would create."""

    event_id: str
    event_type: str
    task_id: str | None
    route: str
    replay_of: str | None
    created_at: AwareDatetime


class ReplayPreview(BaseModel):
    """What a replay would deliver."""

    dry_run: bool
    total: int
    by: list[ReplayCount]
    sample: list[ReplaySample]


class Push(BaseModel):
    """A push about a task, as received."""

    id: str
    source: Source
    received_at: AwareDatetime
    outcome: PushOutcome
    meaning: str
    status: str | None
    message: str
    body: str | None
    bytes: int


class RouteDecision(BaseModel):
    """Whether a route gets an event, and why."""

    route: str
    wanted: bool
    reason: str


class ExplainedEvent(BaseModel):
    """An event of a task, with the routes' decisions and its deliveries."""

    id: str
    type: str
    created_at: AwareDatetime
    source: str | None
    verified: Verification
    message: str
    push_id: str | None
    decisions: list[RouteDecision]
    deliveries: list[Delivery]


class AuditEntry(BaseModel):
    """An action of an operator."""

    at: AwareDatetime
    actor: str
    verb: str
    subject: str
    why: str


class TaskExplanation(BaseModel):
    """Everything stored about a task, and the next step."""

    task: Task
    intent: Annotated[Object | None, Field(description="The request, shortened; null if it is not stored.")]
    pushes: list[Push]
    events: list[ExplainedEvent]
    actions: list[AuditEntry]
    next: Annotated[str, Field(description="What happens next, or what an operator must do.")]


class Check(BaseModel):
    """One condition of readiness."""

    name: str
    ok: bool
    reason: str
