"""Waits for the outcome of a queued task that another process submits."""

from collections.abc import Sequence
from datetime import timedelta

from receiver.domain.clock import Clock
from receiver.domain.model import Push, Task, TaskState
from receiver.domain.notifier import Notifier
from receiver.store.interfaces import ById, Change, TaskStore

_LOOK_EVERY = timedelta(milliseconds=500)
_QUEUED_FOR = timedelta(seconds=2)
"""How long a task without a reason to wait may be queued before it is returned as queued."""


async def wait_for_outcome(
    task_store: TaskStore, task: Task, *, notifier: Notifier, clock: Clock, limit: timedelta
) -> Task:
    """Return *task* when Kling has answered, when it has to wait in the queue, or after *limit*."""
    wake, began = notifier.subscribe(), clock.monotonic()
    try:
        while True:
            wake.clear()
            task = await _stored(task_store, task)
            waited = timedelta(seconds=clock.monotonic() - began)
            is_over = task.state not in (TaskState.QUEUED, TaskState.SUBMITTING)
            has_to_wait = task.state is TaskState.QUEUED and (bool(task.message) or waited >= _QUEUED_FOR)
            if is_over or has_to_wait or waited >= limit:
                return task
            await clock.wait(wake, until=clock.now() + _LOOK_EVERY)
    finally:
        notifier.unsubscribe(wake)


async def _stored(task_store: TaskStore, task: Task) -> Task:
    found = task

    def read(held: Task, _: Sequence[Push]) -> Change:
        nonlocal found
        found = held
        return Change()

    await task_store.apply(ById(id=task.id), read)
    return found
