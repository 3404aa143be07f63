"""The state machine of a submit: queued → submitting → submitted, or rejected. Pure: no clock, no I/O.

A callback may arrive before Kling's answer to the create. These functions keep what such a callback reported.
"""

from datetime import datetime

from msgspec.structs import replace

from receiver.domain.model import EndReason, StatusReport, Task, TaskState
from receiver.tasks.lifecycle import CALLBACK_GRACE
from receiver.tasks.poll_optimizer import PollPolicy
from receiver.tasks.poll_schedule import earliest, poll_interval, running_since


def start_submit(task: Task, token_hash: bytes | None, *, now: datetime, lookup_at: datetime) -> Task:
    """Return the task as submitting, with a new callback URL. Without an answer it is looked up at *lookup_at*."""
    return replace(
        task,
        state=TaskState.SUBMITTING,
        token_hash=token_hash,
        queueing=replace(task.queueing, attempts=task.queueing.attempts + 1),
        polling=replace(task.polling, count=0),
        started_at=now,
        updated_at=now,
        due_at=lookup_at,
        expires_at=_expiry(task, created_at=now),
        message="",
    )


def bind(task: Task, report: StatusReport, *, poll_now: bool, now: datetime, poll: PollPolicy) -> Task:
    """Bind Kling's id, from the answer to the create or from a lookup.

    A state that callbacks reported before is kept. With *poll_now* the task is polled at once.
    """
    task = replace(
        task,
        kling_id=report.kling_id or task.kling_id,
        external_task_id=task.external_task_id or report.external_task_id,
        polling=replace(task.polling, count=0),
        updated_at=now,
    )
    if task.state.is_final:
        return task
    state = TaskState.PROCESSING if task.kling_state is TaskState.PROCESSING else TaskState.SUBMITTED
    task = replace(task, state=state, end_reason=None, message="")
    if poll_now:
        return replace(task, due_at=now, polling=replace(task.polling, push_at=now))
    return replace(task, due_at=now + poll_interval(task, poll, now=now))


def schedule_lookup(task: Task, message: str, *, now: datetime, lookup_at: datetime) -> Task:
    """Schedule a lookup of a task whose create has no clear answer."""
    polling = replace(task.polling, count=task.polling.count + 1)
    return replace(task, message=message, polling=polling, updated_at=now, due_at=lookup_at)


def reject(task: Task, message: str, *, now: datetime, end_reason: EndReason = EndReason.REFUSED) -> Task:
    """End a task that Kling did not create."""
    task = replace(task, state=TaskState.REJECTED, message=message, end_reason=end_reason, updated_at=now, due_at=None)
    return replace(task, expires_at=earliest(task.expires_at, now + CALLBACK_GRACE))


def await_first_callback(task: Task, message: str, *, now: datetime) -> Task:
    """Stop following a create whose answer names no task. A callback for it still counts."""
    return replace(task, state=TaskState.AWAITING, message=message, updated_at=now, due_at=None)


def requeue(task: Task, message: str, *, now: datetime, due_at: datetime) -> Task:
    """Queue a task again that Kling did not create. *message* tells the operator why it waits."""
    return replace(
        task,
        state=TaskState.QUEUED,
        kling_id=None,
        kling_state=None,
        message=message,
        started_at=None,
        updated_at=now,
        due_at=due_at,
        expires_at=_expiry(task, created_at=task.created_at),
    )


def _expiry(task: Task, *, created_at: datetime) -> datetime | None:
    """Return the expiry of a callback URL made at *created_at*. Its lifetime is that of the task's first URL."""
    return None if task.expires_at is None else created_at + (task.expires_at - running_since(task))
