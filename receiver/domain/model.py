"""The domain's values, all frozen. A value that exists is valid. No I/O."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from receiver.domain.costs import Cost
from receiver.domain.listed_state import ListedState
from receiver.domain.queueing import Queueing
from receiver.domain.results import has_result, without_queries
from receiver.domain.text_enum import TextEnum

Json: TypeAlias = dict[str, Any]

ALERT_PREFIX = "alert."  # the start of the type of every alert


class TaskState(TextEnum):
    """The state of a task. ``succeed`` and ``failed`` are final."""

    AWAITING = "awaiting"  # a minted URL whose task is not known yet
    QUEUED = "queued"  # stored; submitted when a slot is free
    SUBMITTING = "submitting"  # the create is in flight, or its answer was lost
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"
    REJECTED = "rejected"  # refused by Kling, or cancelled before the submit
    EXPIRED = "expired"  # given up; a late succeed or failed still counts

    def __init__(self, word: str) -> None:
        """Set whether Kling has ended the task, and whether it may occupy one of Kling's slots."""
        self.is_final = word in ("succeed", "failed")
        self.is_running = word in ("submitting", "submitted", "processing")


class EndReason(TextEnum):
    """Why the receiver itself ended a task: the first two for ``rejected``, the others for ``expired``."""

    CANCELLED = "cancelled"  # by an operator, before Kling received it
    REFUSED = "refused"  # Kling did not create it
    UNKNOWN = "unknown"  # Kling may or may not have created it
    TIMED_OUT = "timed_out"  # Kling did not end it in time


class Origin(TextEnum):
    """How a task was created."""

    GATEWAY = "gateway"  # a client that uses the receiver as if it were Kling
    API = "api"  # POST /api/tasks, also the CLI's submit
    MINTED = "minted"  # a callback URL for a job submitted elsewhere
    TEST = "test"  # created by `trigger`: unknown to Kling, never billed


class ClientCallbacks(TextEnum):
    """What a client's own callback URL receives of its task."""

    ALL = "all"  # every status that Kling reports
    FINAL = "final"  # one request, with the end
    ENDED = "ended"  # as FINAL, and the delivery of the end is stored


class Source(TextEnum):
    """Where a report about a task came from."""

    CALLBACK = "callback"
    POLL = "poll"
    SUBMIT = "submit"  # Kling's answer to the create
    RECEIVER = "receiver"  # the receiver itself, such as a task that it gave up


class Verification(TextEnum):
    """How an event was verified."""

    SIGNATURE = "signature"
    API = "api"
    NONE = "none"


class PushOutcome(TextEnum):
    """How a push was processed."""

    PENDING = "pending"  # committed; takes effect only once the API confirms it
    APPLIED = "applied"  # it changed the task
    DUPLICATE = "duplicate"  # it reported a known state
    STALE = "stale"  # it arrived after a newer state
    MISMATCH = "mismatch"  # it is about a task other than its token's
    UNRECOGNIZED = "unrecognized"  # an unknown format or status
    FORGED = "forged"  # a bad signature, or the API contradicts it


class DeliveryStatus(TextEnum):
    """The status of a delivery. A delivery in flight is ``pending`` with a claim."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> "DeliveryStatus | None":
        """Accept the American spelling."""
        return cls.CANCELLED if value == "canceled" else None


class HeldBy(TextEnum):
    """What holds a route, which decides what releases it."""

    FAILURES = "failures"  # consecutive failures: the first successful probe releases it
    OPERATOR = "operator"  # an operator: no deliveries until an operator releases it


class ArchiveState(TextEnum):
    """The state of an archive job whose files are not all stored yet."""

    PENDING = "awaited"  # its routes receive the event once the files are stored
    LATE = "late"  # its routes received the event without some files; downloads continue
    EXPIRING = "expiring"  # as LATE, and an alert has warned that files may be lost


class Generation(TextEnum):
    """Which of Kling's two APIs a body or an endpoint belongs to."""

    LEGACY = "legacy"
    NEW = "new"


class Polling(msgspec.Struct, frozen=True, kw_only=True):
    """The polls of a task so far: their ``count``, and ``at``, the time of the last one.

    ``push_at`` is the time of the last poll caused by a push, done or planned.
    ``empty_results`` counts the 5 s steps for which answers reported a success without a result.
    """

    count: int = 0
    at: datetime | None = None
    push_at: datetime | None = None
    empty_results: int = 0


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One Kling job and its callback URL.

    ``due_at`` is the time of the next submit, lookup or poll; None if none is planned.
    ``kling_state`` is the last state that Kling reported after the create, None before the first report.
    ``end_reason`` says why the receiver ended the task; None if Kling ended it or it has not ended.
    ``started_at`` is since when Kling may be working on the task, None before the submit.
    ``redundant_push_count`` counts pushes that changed nothing; only the newest of them are kept.
    ``stuck_at`` is when ``alert.task_stuck`` was raised. ``batch`` names the task's batch.
    ``reply_to`` is the client's own callback URL, and ``client_callbacks`` what it receives.
    ``is_end_unverified``: Kling's end is known only from a push that could not be confirmed; a signed end replaces it.
    """

    id: str
    origin: Origin
    state: TaskState
    created_at: datetime
    updated_at: datetime
    token_hash: bytes | None = None
    endpoint: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    batch: str | None = None
    idempotency_key: str | None = None
    kling_id: str | None = None
    external_task_id: str | None = None
    reply_to: str | None = None
    client_callbacks: ClientCallbacks = ClientCallbacks.ALL
    message: str = ""
    kling_state: TaskState | None = None
    end_reason: EndReason | None = None
    is_end_unverified: bool = False
    queueing: Queueing = Queueing()
    polling: Polling = Polling()
    redundant_push_count: int = 0
    started_at: datetime | None = None
    stuck_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def listed_state(self) -> ListedState:
        """The state as lists show it."""
        return ListedState.CANCELLED if self.end_reason is EndReason.CANCELLED else ListedState(self.state.value)


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a body of either API reports about a task, as far as it could be parsed.

    ``state`` is None if the status is missing or unknown; ``raw_status`` keeps an unknown one.
    ``result`` maps a kind (``images``, ``videos``, ...) to its entries as Kling wrote them.
    ``has_duplicate_keys`` is true if an object has a key twice, because two parsers may then disagree.
    ``updated_at`` is when Kling changed the task, in seconds since the epoch.
    """

    state: TaskState | None
    raw_status: str = ""
    message: str = ""
    kling_id: str | None = None
    external_task_id: str | None = None
    generation: Generation = Generation.LEGACY
    result: Mapping[str, tuple[Json, ...]] = msgspec.field(default_factory=dict)
    cost: Cost | None = None
    has_duplicate_keys: bool = False
    updated_at: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether this is a success without a result, or with an entry that has no URL yet."""
        return self.state is TaskState.SUCCEED and not has_result(self.result)

    def matches(self, other: "StatusReport") -> bool:
        """Return whether both report the same state, message and result.

        The query of a URL is ignored: it holds a signature that may change with every answer.
        """
        mine, theirs = (without_queries(report.result) for report in (self, other))
        return (self.state, self.message, mine) == (other.state, other.message, theirs)


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A callback or a poll answer as received.

    ``body`` is the raw bytes, and empty once retention has removed them.
    """

    id: str
    task_id: str
    source: Source
    headers: tuple[tuple[str, str], ...]
    body: bytes
    digest: bytes
    received_at: datetime
    outcome: PushOutcome = PushOutcome.PENDING


class RouteDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a route matched an event, and the reason."""

    route: str
    wanted: bool
    reason: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted change of a task's state, or an alert. Immutable, except for its archived files.

    ``envelope`` is the JSON object that destinations receive, without ``data.kling``. ``body`` is that
    member exactly as Kling wrote it, empty for alerts. :mod:`receiver.events.payload` joins them.
    ``decisions`` are the routes' decisions at that time; a claimed delivery's event is loaded without them.
    ``archiving`` is None if there is nothing left to archive.
    """

    id: str
    type: str
    envelope: bytes
    body: bytes
    verified: Verification
    created_at: datetime
    task_id: str | None = None
    push_id: str | None = None
    decisions: tuple[RouteDecision, ...] = ()
    archiving: ArchiveState | None = None

    @property
    def is_alert(self) -> bool:
        """Whether this is an alert."""
        return self.type.startswith(ALERT_PREFIX)


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """An archived result. ``number`` is its index among the results of its event, from zero.

    The file is at ``path`` on this machine, at ``storage`` in object storage, or at both.
    """

    number: int
    url: str
    sha256: bytes
    size: int
    content_type: str
    path: str | None = None
    storage: str | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The promise of one event to one route.

    ``route`` is a route's name, or ``reply:HOST`` for a client's own callback URL on that host.
    ``attempts`` counts recorded attempts; ``probes`` counts those of them that probed a held route.
    ``unfinished_claims`` counts deaths of the process during an attempt, since the last attempt with a verdict.
    """

    id: str
    event_id: str
    route: str
    status: DeliveryStatus
    created_at: datetime
    due_at: datetime
    attempts: int = 0
    probes: int = 0
    unfinished_claims: int = 0
    claim: str | None = None
    replay_of: str | None = None
    finished_at: datetime | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a delivery, and its result.

    ``code`` is an HTTP status or an exit code, None if there was neither.
    ``reason`` is a sentence for an operator. ``excerpt`` is the start of the response or the end of the output.
    """

    delivery_id: str
    number: int
    started_at: datetime
    duration: timedelta
    outcome: str
    code: int | None = None
    reason: str = ""
    excerpt: bytes = b""


class RouteState(msgspec.Struct, frozen=True, kw_only=True):
    """A route's state that is kept between runs. Its definition is in the configuration.

    ``failures`` counts consecutive failures. ``probe_at`` is when a route held by failures is probed next.
    ``released_at`` is when the last hold ended. ``failing`` and ``rejected`` are the first few deliveries that failed
    in a row, and whose events were rejected in a row. They are not stored: each process starts without them.
    """

    name: str
    failures: int = 0
    held_at: datetime | None = None
    held_by: HeldBy | None = None
    held_why: str = ""
    probe_at: datetime | None = None
    released_at: datetime | None = None
    failing: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()

    @property
    def is_held(self) -> bool:
        """Whether the route delivers nothing."""
        return self.held_by is not None

    @property
    def has_failures(self) -> bool:
        """Whether there is something that an accepted delivery ends."""
        return bool(self.failures or self.failing or self.rejected) or self.held_by is HeldBy.FAILURES


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The destination accepted the event."""

    code: int | None = None
    excerpt: bytes = b""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt failed and may be retried; ``retry_after`` is the delay that the destination requested.

    With ``is_about_event`` the destination works and rejects this event. ``fault`` says what failed, for metrics:
    a network fault or how a script ended. It is empty if the code says it.
    """

    reason: str
    code: int | None = None
    excerpt: bytes = b""
    retry_after: timedelta | None = None
    is_about_event: bool = False
    fault: str = ""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Refused for good; with ``hold`` the whole route is held too, with ``set_aside`` the receiver itself gave up."""

    reason: str
    code: int | None = None
    excerpt: bytes = b""
    hold: bool = False
    set_aside: bool = False


Outcome: TypeAlias = Accepted | Failed | Refused


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What follows an attempt: a retry at ``due_at``, or an end. A ``probe`` does not advance the retry schedule."""

    status: DeliveryStatus
    due_at: datetime
    finished_at: datetime | None = None
    probe: bool = False
