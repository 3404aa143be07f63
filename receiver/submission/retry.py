"""A task that failed, submitted again as a new task. Pure: no clock, no I/O."""

import json
from collections.abc import Iterator

from receiver.domain.errors import Conflict
from receiver.domain.model import ClientCallbacks, Json, Task, TaskState
from receiver.submission.request import SubmitRequest

RETRY_TAG = "retry_of"
"""The tag that links the new task to the old one."""

_RETRYABLE = (TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED)
_MAX_BATCHES = 100
_EXTERNAL_ID = "external_task_id"
_CALLBACK_URL = "callback_url"


def retry_request(task: Task, intent: bytes) -> SubmitRequest:
    """Return the request that submits *task* again; *intent* is its stored body.

    Its key is the old task's id, so that a task is retried once: a repeat returns the first new task. The client's
    external id is left out, because Kling accepts an id once. Raises Conflict.
    """
    if task.state not in _RETRYABLE:
        raise Conflict(
            f"The state of task {task.id} is {task.state.value!r}.",
            remedy="Only a failed, rejected, cancelled or expired task can be retried.",
        )
    if task.endpoint is None or not intent:
        raise Conflict(
            f"The body of task {task.id} is not stored.",
            remedy="Submit it again from its source; [retention] bodies says how long bodies are kept.",
        )
    return SubmitRequest(
        endpoint=task.endpoint,
        body=_resent_body(task, json.loads(intent)),
        label=task.label,
        tags={**task.tags, RETRY_TAG: task.id},
        batch=task.batch,
        priority=task.queueing.priority,
        callbacks=ClientCallbacks.ALL if task.client_callbacks is ClientCallbacks.ALL else ClientCallbacks.FINAL,
        idempotency_key=f"retry-{task.id}",
        reuse=True,
    )


def batch_names(name: str | None) -> Iterator[str | None]:
    """Yield the batches to try, in order: the task's own, then new ones, because a closed batch accepts no task."""
    yield name
    if name is not None:
        yield f"{name}-retry"
        yield from (f"{name}-retry-{number}" for number in range(2, _MAX_BATCHES))


def _resent_body(task: Task, body: Json) -> Json:
    """Return a stored body without the client's external id, and with its callback URL, which storage may truncate."""
    kept = _resent_members(task, body)
    options = kept.get("options")
    if isinstance(options, dict):
        kept["options"] = _resent_members(task, options)
    return kept


def _resent_members(task: Task, members: Json) -> Json:
    kept = {key: value for key, value in members.items() if key != _EXTERNAL_ID}
    return {key: task.reply_to if key == _CALLBACK_URL and value else value for key, value in kept.items()}
