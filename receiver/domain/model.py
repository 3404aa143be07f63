"""The words of the product as frozen values. A value that exists is valid; nothing here does I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class TaskState(StrEnum):
    """Where a task stands. ``succeed`` and ``failed`` are never left."""

    AWAITING = "awaiting"  # a minted URL whose task is not known yet
    QUEUED = "queued"  # stored, to be sent to Kling when a slot is free
    SUBMITTING = "submitting"  # being sent, or sent and the answer lost
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"
    REJECTED = "rejected"  # Kling refused to create it
    EXPIRED = "expired"  # given up on; a late succeed or failed still counts

    @property
    def is_final(self) -> bool:
        """Whether Kling has said the last word on the task."""
        return self in (TaskState.SUCCEED, TaskState.FAILED)

    @property
    def is_running(self) -> bool:
        """Whether the task may hold a slot of Kling's."""
        return self in (TaskState.SUBMITTING, TaskState.SUBMITTED, TaskState.PROCESSING)


class Origin(StrEnum):
    """Which way a task came to us."""

    GATEWAY = "gateway"  # a client that speaks to us as if to Kling
    API = "api"  # POST /api/tasks, also the CLI's submit
    MINTED = "minted"  # a callback URL for a job submitted elsewhere


class Source(StrEnum):
    """How a piece of news about a task reached us."""

    CALLBACK = "callback"
    POLL = "poll"
    SUBMIT = "submit"  # Kling's answer to the create
    RECEIVER = "receiver"  # our own finding, such as a task given up on


class Verification(StrEnum):
    """What vouches for an event."""

    SIGNATURE = "signature"
    API = "api"
    NONE = "none"


class PushOutcome(StrEnum):
    """What became of a push."""

    PENDING = "pending"  # committed; Kling's API is asked before anything follows
    APPLIED = "applied"  # it changed the task
    DUPLICATE = "duplicate"  # it said what was known
    STALE = "stale"  # it came after something newer
    MISMATCH = "mismatch"  # it speaks of another task than its token's
    UNRECOGNIZED = "unrecognized"  # a shape or a status word never seen before
    FORGED = "forged"  # a bad signature, or the API says otherwise


class DeliveryStatus(StrEnum):
    """Where a delivery stands. Being in flight is a claim, not a status."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


class HeldBy(StrEnum):
    """What holds a route, and so what releases it."""

    FAILURES = "failures"  # failures in a row: probes go out, and the first success releases it
    OPERATOR = "operator"  # a person: nothing goes out until a person releases it


class ArchiveState(StrEnum):
    """How it stands with a succeed whose results are to be brought home, and are not all there yet."""

    PENDING = "awaited"  # its routes are told when the files are there
    LATE = "late"  # they were told without some of the files, which are still tried for
    EXPIRING = "expiring"  # and an alert has said that the rest may be lost


class Generation(StrEnum):
    """Which of Kling's two API generations a body or an endpoint belongs to."""

    LEGACY = "legacy"
    NEW = "new"


class Secret:
    """A secret string that shows itself to nobody who does not ask for it by :meth:`reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One Kling job and its callback URL.

    ``due_at`` is when the task is next to be submitted or asked about, None when neither is wanted.
    ``heard`` is the last state Kling itself told us of after the create, None before any.
    ``weight`` is the number of Kling's slots it takes out of ``pack``; ``asks`` counts the polls so far.
    Of what is queued the higher ``priority`` goes first, and among equal ones the shares take turns.
    ``started_at`` is since when Kling may be at work on it, None before. ``hollow`` counts answers that told of a
    success without a result, ``surplus`` all pushes that changed nothing at once: the newest of them are kept.
    ``prompted_at`` is of the last question that a push brought about, asked or planned. ``stuck_at`` is when it was
    told that the task does not come to its end.
    ``batch`` names the tasks it is to be told of together with.
    """

    id: str
    origin: Origin
    state: TaskState
    created_at: datetime
    updated_at: datetime
    token_hash: bytes | None = None
    endpoint: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: str | None = None
    idempotency_key: str | None = None
    kling_id: str | None = None
    external_task_id: str | None = None
    reply_to: str | None = None
    message: str = ""
    kling_state: TaskState | None = None
    pack: str | None = None
    weight: int = 1
    priority: int = 0
    fair_share: str = ""
    attempts: int = 0
    poll_count: int = 0
    empty_result_count: int = 0
    redundant_push_count: int = 0
    started_at: datetime | None = None
    polled_at: datetime | None = None
    push_poll_at: datetime | None = None
    stuck_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None


EXACT_DECIMAL = Context(prec=200)
"""In which amounts are added: no sum of what Kling writes is ever rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What Kling took for a task: amounts by their unit, and as JSON the words it said so in."""

    charges: Mapping[str, Decimal]
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What a body says about a task, in either generation's words, as far as it could be read.

    ``state`` is None for a status word never seen before (``word`` keeps it) or none at all.
    ``result`` maps a kind (``images``, ``videos``, ...) to its entries as Kling wrote them.
    ``ambiguous`` is true when a key stands twice in one object, so that two readers may disagree.
    """

    state: TaskState | None
    raw_status: str = ""
    message: str = ""
    kling_id: str | None = None
    external_task_id: str | None = None
    generation: Generation = Generation.LEGACY
    result: Mapping[str, tuple[Json, ...]] = field(default_factory=dict)
    cost: Cost | None = None
    has_duplicate_keys: bool = False

    def matches(self, other: "StatusReport") -> bool:
        """Whether both tell of the same end: state, reason and result.

        A URL's query does not count: it is its signature, which may be made anew for every answer.
        """
        mine, theirs = (_without_queries(reading.result) for reading in (self, other))
        return (self.state, self.message, mine) == (other.state, other.message, theirs)


def _without_queries(result: Mapping[str, tuple[Json, ...]]) -> Json:
    return {
        kind: [{name: _without_query(value) for name, value in entry.items()} for entry in entries]
        for kind, entries in result.items()
    }


def _without_query(value: object) -> object:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return value.partition("?")[0]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What arrived about a task: a callback, or a poll's answer.

    ``body`` is raw, as it came, and empty once it is no longer kept.
    """

    id: str
    task_id: str
    source: Source
    headers: tuple[tuple[str, str], ...]
    body: bytes
    digest: bytes
    received_at: datetime
    outcome: PushOutcome = PushOutcome.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDecision:
    """Whether a route wanted an event, and why (not)."""

    route: str
    wanted: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An accepted change of a task's state, or an alert. Immutable, but for files that come home.

    ``envelope`` is the JSON object destinations receive, without ``data.kling``; ``body`` is that
    missing member exactly as Kling wrote it (empty for alerts). :mod:`receiver.events.payload` joins them.
    ``decisions`` are the routes' answers as they were given when it happened; a claim does not bring them along.
    ``archiving`` is None where there is nothing, or nothing more, to bring home.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A result that was brought home. ``number`` is its place among those of its event, from zero.

    It is kept at ``path`` on this machine, at ``storage`` in a store elsewhere, or at both.
    """

    number: int
    url: str
    sha256: bytes
    size: int
    content_type: str
    path: str | None = None
    storage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The promise of one event to one route.

    ``route`` is a route's name, or ``reply:HOST`` for a client's own callback URL on that host.
    ``attempts`` counts recorded attempts, ``probes`` those among them that were made for a held route's sake;
    ``unfinished`` counts claims since then that came to no verdict.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a delivery, and what came back.

    ``code`` is an HTTP status or an exit code, None when there was neither.
    ``reason`` is a sentence a person can act on; ``excerpt`` the start of the answer or the end of the output.
    """

    delivery_id: str
    number: int
    started_at: datetime
    duration: timedelta
    outcome: str
    code: int | None = None
    reason: str = ""
    excerpt: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteState:
    """What is remembered about a route between runs; its definition lives in the configuration.

    ``failures`` counts those in a row. ``probe_at`` is when a route held by failures is tried next;
    ``released_at`` is when the last hold ended.
    """

    name: str
    failures: int = 0
    held_at: datetime | None = None
    held_by: HeldBy | None = None
    held_why: str = ""
    probe_at: datetime | None = None
    released_at: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Whether the route's events wait."""
        return self.held_by is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The destination took the event."""

    code: int | None = None
    excerpt: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed and may be made again; ``retry_after`` is what the destination asked for."""

    reason: str
    code: int | None = None
    excerpt: bytes = b""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The destination refused for good; ``hold`` asks to hold the whole route as well."""

    reason: str
    code: int | None = None
    excerpt: bytes = b""
    hold: bool = False


Outcome: TypeAlias = Accepted | Failed | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows an attempt: pending again at ``due_at``, or final. A ``probe`` spends none of the schedule."""

    status: DeliveryStatus
    due_at: datetime
    finished_at: datetime | None = None
    probe: bool = False
