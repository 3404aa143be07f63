"""When Kling is asked about a task, how soon again, and by which id. Pure: no clock, no I/O.

Asking is the guarantee behind callbacks: a task without an end is asked about at growing intervals, sooner where a
push waits for confirmation, and never so often that a flood of false pushes would cost anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias

from receiver.domain.clock import iso
from receiver.domain.model import Json, Origin, Push, Reading, Task, TaskState
from receiver.settings import PollSettings

ASK_APART = timedelta(seconds=5)
"""The least time between two questions that pushes about one task bring about, so that a flood of forged ones costs
next to nothing."""

END_APART = timedelta(seconds=1.5)
"""How soon after an ordinary question an end that is pushed is asked about, or anything at a start: an end holds a slot
that others wait for."""

FRESH = timedelta(minutes=1)
"""How long a push that waits for confirmation keeps the questions close together: the API may lag behind."""

HOLLOW_ASKS = 5
"""How many answers that tell of a succeed without any result it takes until one is taken as it is."""

Waiting: TypeAlias = Sequence[tuple[Push, Reading]]
"""The pushes of a task that wait for the API's word, oldest first, with what each says."""

_OUR_ENDS = (TaskState.REJECTED, TaskState.EXPIRED)


def question(task: Task, pending: Waiting) -> str | None:
    """Give the id to ask Kling about the task by; None when there is none."""
    return next(iter(ids_of(task, pending)), None)


def ids_of(task: Task, pending: Waiting) -> Sequence[str]:
    """Give the ids that Kling can be asked about the task by, beginning with another one after each question.

    A task whose Kling's id is not known yet is asked about by those its pushes name, each in its turn: the answer
    tells which of them speaks the truth.
    """
    if task.kling_id is not None:
        return [task.kling_id]
    named = [name for _, said in pending for name in names_in(said)]
    ids = list(dict.fromkeys(name for name in (*named, task.external_task_id) if name))
    turn = task.asks % len(ids) if ids else 0
    return ids[turn:] + ids[:turn]


def note_asked(task: Task, *, now: datetime) -> Task:
    """Note that Kling has been asked about a task."""
    asked_at, prompted_at = task.asked_at, task.prompted_at
    if prompted_at is not None and (asked_at is None or asked_at < prompted_at):
        prompted_at = now  # it was this question that a push brought about
    return replace(task, asked_at=now, asks=task.asks + 1, prompted_at=prompted_at)


def ask_later(task: Task, pending: Waiting, *, now: datetime, poll: PollSettings) -> Task:
    """Plan the next question after an answer: soon while a fresh push waits for it, else after a growing interval."""
    fresh = any(now - push.received_at < FRESH for push, _ in pending)
    if is_unbound(task) and not pending:
        return replace(task, started_at=None, due_at=None)  # nobody names an id any more
    if is_over(task) and not fresh and not (pending and task.state in _OUR_ENDS and _is_heard(task, now)):
        return replace(task, due_at=look_back(task, now=now))
    if task.hollow:
        wait = ASK_APART * 2 ** min(task.hollow, HOLLOW_ASKS)
    elif fresh or (is_unbound(task) and task.asks <= 2 * len(pending)):
        wait, task = ASK_APART, replace(task, prompted_at=now + ASK_APART)
    else:
        wait = interval(task, poll)
    return replace(task, due_at=next_look(task, wait, now=now, poll=poll))


def ask_soon(task: Task, *, now: datetime, apart: timedelta = ASK_APART) -> Task:
    """Have the API asked because of a push: now, or *apart* from the last question, and from the last such one 5 s."""
    if not can_ask(task) or task.state in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    soon = now
    if task.asked_at is not None and task.asked_at <= now:  # else the clock was set back
        soon = max(soon, task.asked_at + apart)
    if task.prompted_at is not None and task.prompted_at <= now + ASK_APART:
        soon = max(soon, task.prompted_at + ASK_APART)
    due_at = sooner(task.due_at, soon)
    return replace(task, due_at=due_at, prompted_at=due_at)


def ask_about_end(task: Task, *, now: datetime) -> Task:
    """Have the API asked whether a task has come to its end, soon also after an ordinary question."""
    return ask_soon(task, now=now, apart=ASK_APART if is_over(task) else END_APART)


def put_off(task: Task, *, until: datetime) -> Task:
    """Leave a question for later because nobody can be asked just now; it does not count as asked."""
    return replace(task, due_at=until)


def is_given_up(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether Kling has had a task for so long without an end that it is given up."""
    if is_over(task):
        return False
    return now - began_at(task) >= poll.give_up_after


def look_back(task: Task, *, now: datetime) -> datetime | None:
    """Tell when to ask again about a task that was given up, for a late end counts; None when no more.

    It is asked about each time that it has become a quarter older, as long as callbacks of it are taken.
    """
    if task.state is not TaskState.EXPIRED or not task.kling_id or not can_ask(task) or not _is_heard(task, now):
        return None
    return now + (now - began_at(task)) / 4


def is_stuck(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether Kling has had a task for longer than tasks should take, which nobody has been told yet."""
    if poll.stuck_after is None or task.stuck_at is not None or not task.state.is_running:
        return False
    return now - began_at(task) >= poll.stuck_after


def mark_stuck(task: Task, *, now: datetime, poll: PollSettings) -> Task:
    """Note that it was told of a task that it is stuck."""
    task = replace(task, stuck_at=now)
    return task if can_ask(task) else replace(task, due_at=next_look(task, timedelta(), now=now, poll=poll))


def tell_stuck(task: Task, *, poll: PollSettings) -> Json:
    """Say what is known of a task that does not come to its end, and what to do."""
    began = began_at(task)
    if not can_ask(task):
        asked = "it cannot be asked about, as nobody said at which endpoint it is"
    elif task.asked_at is None:
        asked = "nothing came of asking yet"
    else:
        asked = f"it was last asked about at {iso(task.asked_at)}"
    return {
        "message": f"Kling has had this task since {iso(began)} and has not ended it: it is {task.state}, and {asked}.",
        "remedy": (
            "Look the task up in Kling's console, and ask Kling's support if it says the same. Sending it again may "
            f"be paid for twice. It is followed until {iso(began + poll.give_up_after)}, then it expires, and an end "
            "that comes in the 7 days after that still counts."
        ),
        "state": task.state.value,
        "reason": task.message,
        "asks": task.asks,
        "since": iso(began),
    }


def began_at(task: Task) -> datetime:
    """Tell since when Kling may be at work on a task."""
    return task.started_at or task.created_at


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
    """Tell when to look at a task next: to ask about it, or where that cannot be, to tell of it or give it up."""
    if can_ask(task):
        return now + wait
    until = [poll.give_up_after]
    if poll.stuck_after is not None and task.stuck_at is None and task.state.is_running:
        until.append(poll.stuck_after)
    return max(now, began_at(task) + min(until))


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
