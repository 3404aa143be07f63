"""The responses of the admin API, apart from tasks, batches and events."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from receiver.domain.api_schema.json_object import JsonObject, SchemaOf, SparseObject, Timestamp, Url, definition
from receiver.domain.api_schema.tasks import SubmittedTask, Task
from receiver.domain.listed_state import ListedState
from receiver.domain.model import (
    DeliveryStatus,
    Generation,
    HeldBy,
    Json,
    PushOutcome,
    Source,
    Verification,
)
from receiver.domain.replays import ReplayState

Outcome = Annotated[str, SchemaOf(Literal["accepted", "failed", "refused"])]


@definition
class Problem(JsonObject):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """What is wrong, and what to do."""
    code: str
    """The kind of error, for programs."""


@definition
class TaskRefused(Problem):
    """The error of a submit that Kling refused."""

    id: str
    """ID of the task, as in the response to an accepted submit."""
    task: SubmittedTask
    """The task, which is stored as rejected. Its `message` is Kling's reason."""


@definition
class TaskCounts(JsonObject):
    """The number of tasks in each state."""

    counts: Mapping[ListedState, int]


@definition
class CallbackUrl(JsonObject):
    """A new callback URL and its task."""

    task: Task
    callback_url: Url


@definition
class Endpoint(JsonObject):
    """One of Kling's endpoints."""

    path: str
    generation: Generation
    pack: str | None
    slots: int | str | None
    """Slots per task, or the member that contains the number."""
    result: str
    asynchronous: bool
    create: str
    query: str | None
    list: str | None


@definition
class RouteTestOutcome(JsonObject):
    """The outcome of an attempt."""

    outcome: Outcome
    code: int | None
    """HTTP status or exit code; null if there was none."""
    reason: str
    excerpt: str
    """The start of the response, or the end of the output."""
    duration_ms: float


@definition
class Attempt(RouteTestOutcome):
    """An attempt at a delivery."""

    number: int
    started_at: Timestamp


@definition
class Delivery(JsonObject):
    """A delivery."""

    id: str
    event_id: str
    event_type: str
    task_id: str | None
    route: str
    status: DeliveryStatus
    attempts: int
    due_at: Timestamp
    created_at: Timestamp
    finished_at: Timestamp | None
    replay_of: str | None
    in_flight: bool


@definition
class DeliveryDetails(Delivery):
    """A delivery and its attempts."""

    attempts_made: Sequence[Attempt]


@definition
class Route(JsonObject):
    """A route and its state."""

    name: str
    kind: Literal["webhook", "script", "notify", "reply", "gone"]
    """`reply`: the URL of a client. `gone`: no longer in the configuration."""
    destination: str
    on: Sequence[str]
    endpoints: Sequence[str]
    where: str | None
    concurrency: int
    held_at: Timestamp | None
    held_by: HeldBy | None
    held_why: str
    probe_at: Timestamp | None
    failures: int
    pending: int
    oldest_pending_at: Timestamp | None


@definition
class ReplaySelection(JsonObject):
    """Which events a replay delivers again."""

    deliveries: Sequence[str]
    events: Sequence[str]
    task: str | None
    route: str | None
    status: Sequence[DeliveryStatus]
    from_: Timestamp | None
    to: Timestamp | None
    to_route: str | None


@definition
class Replay(JsonObject):
    """A replay and its progress."""

    id: str
    state: ReplayState
    total: int
    created: int
    """Number of deliveries created so far."""
    selection: ReplaySelection
    pace: str | None
    actor: str
    why: str
    created_at: Timestamp
    finished_at: Timestamp | None


@definition
class ReplayCount(JsonObject):
    """How many deliveries a replay would create for a route, by present status."""

    route: str
    status: DeliveryStatus | None
    count: int
    oldest_at: Timestamp
    newest_at: Timestamp


@definition
class ReplaySample(JsonObject):
    """A delivery that a replay would create."""

    event_id: str
    event_type: str
    task_id: str | None
    route: str
    replay_of: str | None
    created_at: Timestamp


@definition
class ReplayPreview(JsonObject):
    """What a replay would deliver."""

    dry_run: Literal[True]
    total: int
    by: Sequence[ReplayCount]
    sample: Sequence[ReplaySample]


@definition
class Push(JsonObject):
    """A push about a task, as received."""

    id: str
    source: Source
    received_at: Timestamp
    outcome: PushOutcome
    meaning: str
    status: str | None
    """Kling's own word for the state."""
    message: str
    body: str | None
    """The start of the body; null if it is not stored."""
    bytes: int


@definition
class RouteDecision(JsonObject):
    """Whether a route gets an event, and why."""

    route: str
    wanted: bool
    reason: str


@definition
class ExplainedEvent(JsonObject):
    """An event of a task, with the routes' decisions and its deliveries."""

    id: str
    type: str
    created_at: Timestamp
    source: str | None
    verified: Verification
    message: str
    push_id: str | None
    decisions: Sequence[RouteDecision]
    deliveries: Sequence[DeliveryDetails]


@definition
class AuditEntry(JsonObject):
    """An action of an operator."""

    at: Timestamp
    actor: str
    verb: str
    subject: str
    why: str


@definition
class TaskStep(JsonObject):
    """A step of a task: its create, Kling's answer, or the download of one result."""

    at: Timestamp
    kind: Literal["create", "answer", "download"]
    state: str
    text: str


@definition
class TaskExplanation(JsonObject):
    """Everything stored about a task, and the next step."""

    task: Task
    intent: Json | None
    """The request, shortened; null if it is not stored."""
    kling_created_at: Timestamp | None
    """When Kling made the task, by its ID; a hint. Null if the ID contains no time."""
    kling_id_hint: str
    """What the form of Kling's ID tells: the same time, or that it is probably a gateway's own ID."""
    steps: Sequence[TaskStep]
    pushes: Sequence[Push]
    events: Sequence[ExplainedEvent]
    actions: Sequence[AuditEntry]
    next: str
    """What happens next, or what an operator must do."""


@definition
class Liveness(JsonObject):
    """The service responds."""

    ok: Literal[True]


@definition
class Check(JsonObject):
    """One condition of readiness."""

    name: str
    ok: bool
    reason: str = ""
    """Why it is not met. It is public."""


@definition
class Readiness(JsonObject):
    """Whether the service is ready, and the conditions."""

    ready: bool
    checks: Sequence[Check]


@definition
class Node(JsonObject):
    """A process that uses the database."""

    name: str
    version: str
    started_at: Timestamp
    seen_at: Timestamp
    """When it last reported to the database, by the database's clock."""
    state: Literal["live", "silent"]
    """`silent`: it does not report, so other nodes do its duties."""
    duties: Sequence[str]
    """The background work that it does for all nodes: `kling`, `delivering`, `archiving`, `housekeeping`."""


@definition
class Diagnostics(JsonObject):
    """The running process."""

    version: str
    python: str
    sqlite: str
    event_loop: str
    http_parser: str
    open_files: int
    """How many files are open, with sockets."""
    open_files_limit: int | None
    """How many may be open; null without a limit."""
    processes_limit: int | None
    """How many processes its account may have; null without a limit."""
    extras: Sequence[str]
    """The installed extras of the package."""
    traces_to: str | None
    """Scheme, host and port of the collector of traces; null without tracing."""
    started_at: Timestamp
    checks: Sequence[Check]
    """The conditions of readiness."""


@definition
class Probe(JsonObject):
    """A registered probe of the public URL."""

    token: str
    """Send a POST to `/callbacks/` and this token."""
    secret: str
    """Key of the digests in the answer."""
    expires_at: Timestamp


@definition
class OpenApiDocument(SparseObject):
    """An OpenAPI 3.1 document."""

    openapi: Literal["3.1.0"]
    info: Annotated[Mapping[str, str], SchemaOf(dict[str, str])]
    security: Sequence[Mapping[str, Sequence[str]]]
    tags: Sequence[Mapping[str, str]]
    """The subjects of the operations."""
    paths: Mapping[str, Mapping[str, Json]]
    """Operations by path and method."""
    webhooks: Mapping[str, Mapping[str, Json]]
    """The requests that destinations receive, by name and method."""
    components: Mapping[str, Json]
    """Schemas, error responses and security schemes by name."""
