"""When Kling is asked about a task, how soon again, and by which id. Pure: no clock, no I/O.

Asking is the guarantee behind callbacks: a task without an end is asked about at growing intervals, sooner where a
push waits for confirmation, and never so often that a flood of false pushes would cost anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias

from receiver.model import Origin, Push, Reading, Task, TaskState
from receiver.settings import PollSettings

ASK_APART = timedelta(seconds=5)
"""The least time between two questions about one task, so that a flood of forged pushes costs next to nothing."""

FRESH = timedelta(minutes=1)
"""How long a push that waits for confirmation keeps the questions close together: the API may lag behind."""

HOLLOW_ASKS = 5
"""How many answers that tell of a succeed without any result it takes until one is taken as it is."""

Waiting: TypeAlias = Sequence[tuple[Push, Reading]]
"""The pushes of a task that wait for the API's word, oldest first, with what each says."""

_OUR_ENDS = (TaskState.REJECTED, TaskState.EXPIRED)


def question(task: Task, pending: Waiting) -> str | None:
    """Give the id to ask Kling about the task by; None when there is none.

    A task whose Kling's id is not known yet is asked about by those its pushes name, each in its turn: the answer
    tells which of them speaks the truth.
    """
    if task.kling_id is not None:
        return task.kling_id
    named = [name for _, said in pending for name in names_in(said)]
    ids = list(dict.fromkeys(name for name in (*named, task.external_task_id) if name))
    return ids[task.asks % len(ids)] if ids else None


def ask_later(task: Task, pending: Waiting, *, now: datetime, poll: PollSettings) -> Task:
    """Plan the next question after an answer: soon while a fresh push waits for it, else after a growing interval."""
    fresh = any(now - push.received_at < FRESH for push, _ in pending)
    if is_unbound(task) and not pending:
        return replace(task, started_at=None, due_at=None)  # nobody names an id any more
    if is_over(task) and not fresh and not (pending and task.state in _OUR_ENDS and _is_heard(task, now)):
        return replace(task, due_at=None)
    if task.hollow:
        wait = ASK_APART * 2 ** min(task.hollow, HOLLOW_ASKS)
    elif fresh or (is_unbound(task) and task.asks <= 2 * len(pending)):
        wait = ASK_APART
    else:
        wait = interval(task, poll)
    return replace(task, due_at=next_look(task, wait, now=now, poll=poll))


def ask_soon(task: Task, *, now: datetime) -> Task:
    """Have the API asked now, or as soon as the last question is long enough ago."""
    if not can_ask(task) or task.state in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    soon = now if task.asked_at is None else max(now, task.asked_at + ASK_APART)
    return replace(task, due_at=sooner(task.due_at, soon))


def put_off(task: Task, *, until: datetime) -> Task:
    """Leave a question for later because nobody can be asked just now; it does not count as asked."""
    return replace(task, due_at=until)


def is_given_up(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether Kling has had a task for so long without an end that it is given up."""
    if is_over(task):
        return False
    return now - (task.started_at or task.created_at) >= poll.give_up_after


def can_ask(task: Task) -> bool:
    """Tell whether Kling's API can be asked about a task: its endpoint is known and an id, or its pushes name one."""
    return task.endpoint is not None and bool(task.kling_id or task.external_task_id or is_unbound(task))


def is_unbound(task: Task) -> bool:
    """Tell whether a task came by a minted URL and nobody has told yet which of Kling's it is."""
    return task.origin is Origin.MINTED and task.kling_id is None


def is_over(task: Task) -> bool:
    """Tell whether a task has come to an end, Kling's or ours."""
    return task.state.is_final or task.state in _OUR_ENDS


def next_look(task: Task, wait: timedelta, *, now: datetime, poll: PollSettings) -> datetime:
    """Tell when to look at a task next: to ask about it, or where that cannot be, to give it up."""
    if can_ask(task):
        return now + wait
    return max(now, (task.started_at or task.created_at) + poll.give_up_after)


def interval(task: Task, poll: PollSettings) -> timedelta:
    """Tell how long a task that is asked about in vain is left alone."""
    grown: timedelta = poll.after * 2 ** min(task.asks, 20)
    return min(grown, poll.every)


def names_in(reading: Reading) -> Sequence[str]:
    """Give the ids that a body goes by, Kling's first."""
    return [name for name in (reading.kling_id, reading.external_task_id) if name]


def sooner(one: datetime | None, other: datetime) -> datetime:
    """Give the earlier of two moments, the first of which may be missing."""
    return other if one is None else min(one, other)


def _is_heard(task: Task, now: datetime) -> bool:
    """Tell whether callbacks of the task are still taken."""
    return task.expires_at is None or now < task.expires_at
