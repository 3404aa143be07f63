"""What is asked of Kling, as it is stored before Kling hears of it. Pure: no clock, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from receiver.domain.model import Json, Origin, Task, TaskState
from receiver.kling import create_body, endpoints
from receiver.kling.endpoints import Endpoint

_MAX_MODEL_LENGTH = 100
MAX_PRIORITY = 1000
"""How far from 0 a priority may be, either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetadata:
    """What a task is to be known by, to us alone. ``batch_size`` says of how many tasks its batch is to be."""

    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest(TaskMetadata):
    """A job for Kling. ``body`` goes to Kling with the callback URL and the external id put in.

    Of what waits the higher ``priority`` goes first.
    """

    endpoint: str
    body: Json
    idempotency_key: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """A job's task; ``existing`` says that it was there already, from a request with the same idempotency key."""

    task: Task
    deduplicated: bool = False


def make_task(
    endpoint: Endpoint,
    body: bytes,
    *,
    task_id: str,
    origin: Origin,
    state: TaskState,
    now: datetime,
    expires_at: datetime,
) -> Task:
    """Make the task for a job; checks its *body* as far as we put something into it.

    Its external id is the client's own, or else *task_id*. Raises Unreadable and InvalidRequest.
    """
    composed = create_body.compose(body, generation=endpoint.generation, callback_url=None, external_task_id=task_id)
    return Task(
        id=task_id,
        origin=origin,
        state=state,
        endpoint=endpoint.path,
        external_task_id=composed.external_task_id,
        reply_to=composed.reply_to,
        pack=endpoint.pack,
        weight=endpoints.slot_weight(endpoint, composed.parsed),
        created_at=now,
        updated_at=now,
        due_at=now,
        expires_at=expires_at,
    )


def permission_key(endpoint: Endpoint, body: Json) -> str:
    """Name what a job asks for, as far as a right to it may be missing: the endpoint, and the model that it names."""
    model = body.get("model_name")
    is_named = isinstance(model, str) and model.isprintable() and 0 < len(model) <= _MAX_MODEL_LENGTH
    return f"{endpoint.path} {model}" if is_named else endpoint.path
