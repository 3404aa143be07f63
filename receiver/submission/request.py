"""A submit request and the task made from it, as stored before Kling is called. Pure: no clock, no I/O."""

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
from msgspec.structs import replace

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import ClientCallbacks, Json, Origin, Task, TaskState
from receiver.domain.queueing import Queueing
from receiver.kling import create_body, endpoints
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import PassThrough
from receiver.settings import Settings

_KEY_PREFIX = "gateway:"
_MAX_MODEL_LENGTH = 100
MAX_PRIORITY = 1000
"""The highest priority; the lowest is its negative."""


class TaskMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a task, not sent to Kling. ``batch_size`` is the expected number of tasks in its batch.

    ``callbacks`` is what the client's own callback URL receives; None means as the configuration says.
    """

    label: str | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    batch: str | None = None
    batch_size: int | None = None
    callbacks: ClientCallbacks | None = None

    def add_to(self, task: Task, settings: Settings) -> Task:
        """Return a task with this metadata, and with the settings if that says nothing."""
        callbacks = self.callbacks or settings.gateway.callbacks
        return replace(
            task,
            label=self.label,
            tags=dict(self.tags),
            batch=self.batch,
            client_callbacks=ClientCallbacks.ALL if task.reply_to is None else callbacks,
            queueing=replace(task.queueing, share=self.tags.get(settings.kling.fair_by, "")),
        )


class Caller(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Who sends a create: the client's address and credentials, and its idempotency key if it sent one.

    ``has_left`` tells whether the client has closed its connection, ``is_stopping`` whether the service is stopping.
    """

    client: str = ""
    key: str | None = None
    has_left: Callable[[], bool] = msgspec.field(default=lambda: False)
    is_stopping: Callable[[], bool] = msgspec.field(default=lambda: False)


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway client's create. ``pass_through`` is what it sent beside the body; it is forwarded and not stored.

    ``digest`` is that of the whole request. ``deadline`` is until when it may wait for a slot, on the monotonic clock.
    """

    endpoint: Endpoint
    body: bytes
    metadata: TaskMetadata
    pass_through: PassThrough
    caller: Caller
    digest: bytes
    deadline: float

    @property
    def idempotency_key(self) -> str | None:
        """The key of its task: a gateway client's keys are no keys of the API."""
        return f"{_KEY_PREFIX}{self.caller.key}" if self.caller.key else None

    @property
    def slot(self) -> tuple[str, bytes]:
        """What a repeat without a key has in common with it: the client, and what it sends."""
        return self.caller.client, self.digest


class SubmitRequest(TaskMetadata, frozen=True, kw_only=True):
    """A request to submit a task. ``body`` is sent to Kling with the callback URL and the external id added.

    A queued task with a higher ``priority`` is sent first. With ``reuse`` a known idempotency key returns its task
    even if that was submitted with another body.
    """

    endpoint: str
    body: Json
    idempotency_key: str | None = None
    reuse: bool = False
    priority: int = 0

    def add_to(self, task: Task, settings: Settings) -> Task:
        """As of all tasks. Raises InvalidRequest if the end is requested and there is no URL to send it to."""
        if self.callbacks is ClientCallbacks.FINAL and task.reply_to is None:
            raise InvalidRequest(
                "`reply` is final, and the body has no `callback_url` to send the end to.",
                remedy="Add `callback_url` to the body, or leave out `reply`.",
            )
        return TaskMetadata.add_to(self, task, settings)


class SubmitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The submitted task. If ``deduplicated``, an earlier request with the same idempotency key created it."""

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
    slot_key: Callable[[Endpoint, Json], str],
) -> Task:
    """Return the task for a request. Only the members of *body* that the receiver adds or reads are checked.

    The external id is the client's own, or else *task_id*. Raises MalformedBody and InvalidRequest.
    """
    composed = create_body.compose(body, generation=endpoint.generation, callback_url=None, external_task_id=task_id)
    return Task(
        id=task_id,
        origin=origin,
        state=state,
        endpoint=endpoint.path,
        external_task_id=composed.external_task_id,
        reply_to=composed.reply_to,
        queueing=Queueing(
            slot_key=slot_key(endpoint, composed.parsed), weight=endpoints.slot_weight(endpoint, composed.parsed)
        ),
        created_at=now,
        updated_at=now,
        due_at=now,
        expires_at=expires_at,
    )


def permission_key(endpoint: Endpoint, body: Json) -> str:
    """Return the resource that may need a permission: the endpoint, and the model if the body names one."""
    model = body.get("model_name")
    is_named = isinstance(model, str) and model.isprintable() and 0 < len(model) <= _MAX_MODEL_LENGTH
    return f"{endpoint.path} {model}" if is_named else endpoint.path
