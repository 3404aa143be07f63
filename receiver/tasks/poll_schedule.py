"""When Kling is asked about a task, how soon again, and by which id. Pure: no clock, no I/O.

Asking is the guarantee behind callbacks: a task without an end is asked about at growing intervals, sooner where a
push waits for confirmation, and never so often that a flood of false pushes would cost anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias

from receiver.domain.clock import iso
from receiver.domain.model import Json, Origin, Push, StatusReport, Task, TaskState
from receiver.settings import PollSettings

MIN_POLL_GAP = timedelta(seconds=5)
"""The least time between two questions that pushes about one task bring about, so that a flood of forged ones costs
next to nothing."""

MIN_END_POLL_GAP = timedelta(seconds=1.5)
"""How soon after an ordinary question an end that is pushed is asked about, or anything at a start: an end holds a slot
that others wait for."""

FRESH_PUSH = timedelta(minutes=1)
"""How long a push that waits for confirmation keeps the questions close together: the API may lag behind."""

EMPTY_RESULT_RETRIES = 5
"""How many answers that tell of a succeed without any result it takes until one is taken as it is."""

PendingPushes: TypeAlias = Sequence[tuple[Push, StatusReport]]
"""The pushes of a task that wait for the API's word, oldest first, with what each says."""

_OWN_END_STATES = (TaskState.REJECTED, TaskState.EXPIRED)


def poll_id(task: Task, pending: PendingPushes) -> str | None:
    """Give the id to ask Kling about the task by; None when there is none."""
    return next(iter(candidate_ids(task, pending)), None)


def candidate_ids(task: Task, pending: PendingPushes) -> Sequence[str]:
    """Give the ids that Kling can be asked about the task by, beginning with another one after each question.

    A task whose Kling's id is not known yet is asked about by those its pushes name, each in its turn: the answer
    tells which of them speaks the truth.
    """
    if task.kling_id is not None:
        return [task.kling_id]
    named = [name for _, said in pending for name in ids_in(said)]
    ids = list(dict.fromkeys(name for name in (*named, task.external_task_id) if name))
    turn = task.poll_count % len(ids) if ids else 0
    return ids[turn:] + ids[:turn]


def record_poll(task: Task, *, now: datetime) -> Task:
    """Note that Kling has been asked about a task."""
    asked_at, prompted_at = task.polled_at, task.push_poll_at
    if prompted_at is not None and (asked_at is None or asked_at < prompted_at):
        prompted_at = now  # it was this question that a push brought about
    return replace(task, polled_at=now, poll_count=task.poll_count + 1, push_poll_at=prompted_at)


def schedule_next(task: Task, pending: PendingPushes, *, now: datetime, poll: PollSettings) -> Task:
    """Plan the next question after an answer: soon while a fresh push waits for it, else after a growing interval."""
    fresh = any(now - push.received_at < FRESH_PUSH for push, _ in pending)
    if is_unbound(task) and not pending:
        return replace(task, started_at=None, due_at=None)  # nobody names an id any more
    if (
        has_ended(task)
        and not fresh
        and not (pending and task.state in _OWN_END_STATES and _accepts_callbacks(task, now))
    ):
        return replace(task, due_at=next_poll_after_expiry(task, now=now))
    if task.empty_result_count:
        wait = MIN_POLL_GAP * 2 ** min(task.empty_result_count, EMPTY_RESULT_RETRIES)
    elif fresh or (is_unbound(task) and task.poll_count <= 2 * len(pending)):
        wait, task = MIN_POLL_GAP, replace(task, push_poll_at=now + MIN_POLL_GAP)
    else:
        wait = poll_interval(task, poll)
    return replace(task, due_at=next_check_at(task, wait, now=now, poll=poll))


def schedule_soon(task: Task, *, now: datetime, min_gap: timedelta = MIN_POLL_GAP) -> Task:
    """Have the API asked because of a push: now, or *apart* from the last question, and from the last such one 5 s."""
    if not can_poll(task) or task.state in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    soon = now
    if task.polled_at is not None and task.polled_at <= now:  # else the clock was set back
        soon = max(soon, task.polled_at + min_gap)
    if task.push_poll_at is not None and task.push_poll_at <= now + MIN_POLL_GAP:
        soon = max(soon, task.push_poll_at + MIN_POLL_GAP)
    due_at = earliest(task.due_at, soon)
    return replace(task, due_at=due_at, push_poll_at=due_at)


def schedule_end_check(task: Task, *, now: datetime) -> Task:
    """Have the API asked whether a task has come to its end, soon also after an ordinary question."""
    return schedule_soon(task, now=now, min_gap=MIN_POLL_GAP if has_ended(task) else MIN_END_POLL_GAP)


def postpone(task: Task, *, until: datetime) -> Task:
    """Leave a question for later because nobody can be asked just now; it does not count as asked."""
    return replace(task, due_at=until)


def has_timed_out(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether Kling has had a task for so long without an end that it is given up."""
    if has_ended(task):
        return False
    return now - running_since(task) >= poll.give_up_after


def next_poll_after_expiry(task: Task, *, now: datetime) -> datetime | None:
    """Tell when to ask again about a task that was given up, for a late end counts; None when no more.

    It is asked about each time that it has become a quarter older, as long as callbacks of it are taken.
    """
    if (
        task.state is not TaskState.EXPIRED
        or not task.kling_id
        or not can_poll(task)
        or not _accepts_callbacks(task, now)
    ):
        return None
    return now + (now - running_since(task)) / 4


def is_stuck(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether Kling has had a task for longer than tasks should take, which nobody has been told yet."""
    if poll.stuck_after is None or task.stuck_at is not None or not task.state.is_running:
        return False
    return now - running_since(task) >= poll.stuck_after


def mark_stuck(task: Task, *, now: datetime, poll: PollSettings) -> Task:
    """Note that it was told of a task that it is stuck."""
    task = replace(task, stuck_at=now)
    return task if can_poll(task) else replace(task, due_at=next_check_at(task, timedelta(), now=now, poll=poll))


def stuck_alert(task: Task, *, poll: PollSettings) -> Json:
    """Say what is known of a task that does not come to its end, and what to do."""
    began = running_since(task)
    if not can_poll(task):
        asked = "it cannot be asked about, as nobody said at which endpoint it is"
    elif task.polled_at is None:
        asked = "nothing came of asking yet"
    else:
        asked = f"it was last asked about at {iso(task.polled_at)}"
    return {
        "message": f"Kling has had this task since {iso(began)} and has not ended it: it is {task.state}, and {asked}.",
        "remedy": (
            "Look the task up in Kling's console, and ask Kling's support if it says the same. Sending it again may "
            f"be paid for twice. It is followed until {iso(began + poll.give_up_after)}, then it expires, and an end "
            "that comes in the 7 days after that still counts."
        ),
        "state": task.state.value,
        "reason": task.message,
        "asks": task.poll_count,
        "since": iso(began),
    }


def running_since(task: Task) -> datetime:
    """Tell since when Kling may be at work on a task."""
    return task.started_at or task.created_at


def can_poll(task: Task) -> bool:
    """Tell whether Kling's API can be asked about a task: its endpoint is known and an id, or its pushes name one."""
    return task.endpoint is not None and bool(task.kling_id or task.external_task_id or is_unbound(task))


def is_unbound(task: Task) -> bool:
    """Tell whether a task came by a minted URL and nobody has told yet which of Kling's it is."""
    return task.origin is Origin.MINTED and task.kling_id is None


def has_ended(task: Task) -> bool:
    """Tell whether a task has come to an end, Kling's or ours."""
    return task.state.is_final or task.state in _OWN_END_STATES


def next_check_at(task: Task, delay: timedelta, *, now: datetime, poll: PollSettings) -> datetime:
    """Tell when to look at a task next: to ask about it, or where that cannot be, to tell of it or give it up."""
    if can_poll(task):
        return now + delay
    until = [poll.give_up_after]
    if poll.stuck_after is not None and task.stuck_at is None and task.state.is_running:
        until.append(poll.stuck_after)
    return max(now, running_since(task) + min(until))


def poll_interval(task: Task, poll: PollSettings) -> timedelta:
    """Tell how long a task that is asked about in vain is left alone."""
    grown: timedelta = poll.after * 2 ** min(task.poll_count, 20)
    return min(grown, poll.every)


def ids_in(report: StatusReport) -> Sequence[str]:
    """Give the ids that a body goes by, Kling's first."""
    return [name for name in (report.kling_id, report.external_task_id) if name]


def earliest(one: datetime | None, other: datetime) -> datetime:
    """Give the earlier of two moments, the first of which may be missing."""
    return other if one is None else min(one, other)


def _accepts_callbacks(task: Task, now: datetime) -> bool:
    """Tell whether callbacks of the task are still taken."""
    return task.expires_at is None or now < task.expires_at
