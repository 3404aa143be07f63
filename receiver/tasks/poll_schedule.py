"""When a task is polled, and by which id. Pure: no clock, no I/O.

Polling is the guarantee behind callbacks: a running task is polled at growing intervals, or by the plan in
:mod:`receiver.tasks.poll_optimizer` if no callback is expected. A push that waits for confirmation causes an earlier
poll. A minimum gap between such polls makes a flood of forged pushes cheap.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from msgspec.structs import replace

from receiver.domain.backoff import backoff
from receiver.domain.clock import iso
from receiver.domain.model import Json, Origin, Polling, Push, StatusReport, Task, TaskState
from receiver.tasks.poll_optimizer import PollPolicy

MIN_POLL_GAP = timedelta(seconds=5)
"""The least time between two polls of one task that pushes cause, so that forged pushes cost almost nothing."""

MIN_END_POLL_GAP = timedelta(seconds=1.5)
"""The least time between a regular poll and one to confirm a pushed end. It is short, because the task occupies a slot.

It also applies to the polls at startup."""

FRESH_PUSH = timedelta(minutes=1)
"""How long an unconfirmed push keeps the polls frequent: the API may lag behind callbacks."""

EMPTY_RESULT_STEPS = 31
"""For how many steps of MIN_POLL_GAP a success has no result before it is accepted: five polls, 150 s."""

_SECOND = timedelta(seconds=1)
_MAX_POLL_DELAY = timedelta(hours=1)
"""A poll later than this may be due to a clock set forward, so its time does not count."""

PendingPushes: TypeAlias = Sequence[tuple[Push, StatusReport]]
"""A task's unconfirmed pushes and their reports, oldest first."""

_OWN_END_STATES = (TaskState.REJECTED, TaskState.EXPIRED)


def poll_id(task: Task, pending: PendingPushes) -> str | None:
    """Return the id to poll the task by, or None."""
    return next(iter(candidate_ids(task, pending)), None)


def candidate_ids(task: Task, pending: PendingPushes) -> Sequence[str]:
    """Return the ids to poll the task by, rotated by one after each poll.

    A task without a known Kling id is polled by the ids in its pushes, one after the other. The answers show which of
    them is genuine.
    """
    if task.kling_id is not None:
        return [task.kling_id]
    pushed = [id_ for _, report in pending for id_ in ids_in(report)]
    ids = list(dict.fromkeys(id_ for id_ in (*pushed, task.external_task_id) if id_))
    first = task.polling.count % len(ids) if ids else 0
    return ids[first:] + ids[:first]


def record_poll(task: Task, *, now: datetime) -> Task:
    """Record that a task was polled."""
    last, push_at = task.polling.at, task.polling.push_at
    if push_at is not None and (last is None or last < push_at):
        push_at = now  # this is the poll that a push caused
    return replace(task, polling=replace(task.polling, count=task.polling.count + 1, at=now, push_at=push_at))


def record_empty_result(task: Task, *, now: datetime) -> Task:
    """Record that a poll at *now*, not recorded yet, found a success without a result.

    This counts time, not polls: a restart, a push or a clock that is set causes polls before their time.
    """
    polling, steps = task.polling, 1
    if polling.empty_results and polling.at is not None:
        wait, passed = _empty_result_wait(polling), now - polling.at
        steps = 0 if passed > wait + _MAX_POLL_DELAY else max(0, min(passed, wait) // MIN_POLL_GAP)
    return replace(task, polling=replace(polling, empty_results=polling.empty_results + steps))


def _empty_result_wait(polling: Polling) -> timedelta:
    """Return the delay until the next poll for a missing result: 10, 20, 40, 80, then 160 s."""
    return MIN_POLL_GAP * (min(polling.empty_results, EMPTY_RESULT_STEPS) + 1)


def schedule_next(task: Task, pending: PendingPushes, *, now: datetime, poll: PollPolicy) -> Task:
    """Schedule the next poll after an answer: soon for a fresh push, else after a growing interval."""
    fresh = any(now - push.received_at < FRESH_PUSH for push, _ in pending)
    if task.state is TaskState.AWAITING and is_unbound(task) and not pending:
        return replace(task, started_at=None, due_at=None)  # no id is left to poll by
    if (
        has_ended(task)
        and not fresh
        and not (pending and task.state in _OWN_END_STATES and _accepts_callbacks(task, now))
    ):
        return replace(task, due_at=next_poll_after_expiry(task, now=now))
    if task.polling.empty_results:
        wait = _empty_result_wait(task.polling)
    elif fresh or (is_unbound(task) and task.polling.count <= 2 * len(pending)):
        wait, task = MIN_POLL_GAP, replace(task, polling=replace(task.polling, push_at=now + MIN_POLL_GAP))
    else:
        wait = poll_interval(task, poll, now=now)
    return replace(task, due_at=next_check_at(task, wait, now=now, poll=poll))


def schedule_soon(task: Task, *, now: datetime, min_gap: timedelta = MIN_POLL_GAP) -> Task:
    """Schedule a poll for a push: now, but *min_gap* after the last poll and 5 s after the last one for a push."""
    if not can_poll(task) or task.state in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    soon = now
    if task.polling.at is not None and task.polling.at <= now:  # otherwise the clock was set back
        soon = max(soon, task.polling.at + min_gap)
    if task.polling.push_at is not None and task.polling.push_at <= now + MIN_POLL_GAP:
        soon = max(soon, task.polling.push_at + MIN_POLL_GAP)
    due_at = earliest(task.due_at, soon)
    return replace(task, due_at=due_at, polling=replace(task.polling, push_at=due_at))


def schedule_end_check(task: Task, *, now: datetime) -> Task:
    """Schedule a poll to confirm a task's end, with a short gap after a regular poll."""
    return schedule_soon(task, now=now, min_gap=MIN_POLL_GAP if has_ended(task) else MIN_END_POLL_GAP)


def postpone(task: Task, *, until: datetime) -> Task:
    """Postpone a poll because Kling cannot be reached. It does not count as a poll."""
    return replace(task, due_at=until)


def has_timed_out(task: Task, *, now: datetime, poll: PollPolicy) -> bool:
    """Return whether a task has run for ``give_up_after`` without an end."""
    if has_ended(task):
        return False
    return now - running_since(task) >= poll.give_up_after


def next_poll_after_expiry(task: Task, *, now: datetime) -> datetime | None:
    """Return the next poll time of an expired task, because a late end counts. None if it is not polled any more.

    The interval is a quarter of the task's age. Polling stops when its callback URL expires.
    """
    if (
        task.state is not TaskState.EXPIRED
        or not task.kling_id
        or not can_poll(task)
        or not _accepts_callbacks(task, now)
    ):
        return None
    return now + (now - running_since(task)) / 4


def is_stuck(task: Task, *, now: datetime, poll: PollPolicy) -> bool:
    """Return whether a task has run for ``stuck_after`` and no alert has been raised for it."""
    if poll.stuck_after is None or task.stuck_at is not None or not task.state.is_running:
        return False
    return now - running_since(task) >= poll.stuck_after


def mark_stuck(task: Task, *, now: datetime, poll: PollPolicy) -> Task:
    """Record that ``alert.task_stuck`` was raised."""
    task = replace(task, stuck_at=now)
    return task if can_poll(task) else replace(task, due_at=next_check_at(task, timedelta(), now=now, poll=poll))


def stuck_alert(task: Task, *, poll: PollPolicy) -> Json:
    """Return the data of ``alert.task_stuck``."""
    since = running_since(task)
    if not can_poll(task):
        last_poll = "it cannot be polled, because its endpoint is unknown"
    elif task.polling.at is None:
        last_poll = "no poll has succeeded yet"
    else:
        last_poll = f"it was last polled at {iso(task.polling.at)}"
    return {
        "message": (
            f"Kling has had this task since {iso(since)} without ending it: it is {task.state}, and {last_poll}."
        ),
        "remedy": (
            "Look the task up in Kling's console, and contact Kling's support if it shows the same state. Submitting "
            f"it again may cost twice. The receiver gives it up at {iso(since + poll.give_up_after)}. An end that "
            "Kling reports in the 7 days after that still counts."
        ),
        "state": task.state.value,
        "reason": task.message,
        "asks": task.polling.count,
        "since": iso(since),
    }


def running_since(task: Task) -> datetime:
    """Return since when Kling may be working on a task."""
    return task.started_at or task.created_at


def can_poll(task: Task) -> bool:
    """Return whether a task can be polled: its endpoint is known, and it or its pushes have an id."""
    return task.endpoint is not None and bool(task.kling_id or task.external_task_id or is_unbound(task))


def is_unbound(task: Task) -> bool:
    """Return whether a task has a minted URL and no known Kling id yet."""
    return task.origin is Origin.MINTED and task.kling_id is None


def has_ended(task: Task) -> bool:
    """Return whether Kling or the receiver has ended a task."""
    return task.state.is_final or task.state in _OWN_END_STATES


def next_check_at(task: Task, delay: timedelta, *, now: datetime, poll: PollPolicy) -> datetime:
    """Return when to poll a task next or, if it cannot be polled, when to raise the stuck alert or give it up."""
    if can_poll(task):
        return now + delay
    deadlines = [poll.give_up_after]
    if poll.stuck_after is not None and task.stuck_at is None and task.state.is_running:
        deadlines.append(poll.stuck_after)
    return max(now, running_since(task) + min(deadlines))


def ensure_deadline(task: Task, *, now: datetime, poll: PollPolicy) -> Task:
    """Return the task with a time to give it up, if Kling has it and it cannot be polled."""
    if task.due_at is not None or not task.state.is_running or can_poll(task):
        return task
    return replace(task, due_at=next_check_at(task, timedelta(), now=now, poll=poll))


def poll_interval(task: Task, poll: PollPolicy, *, now: datetime) -> timedelta:
    """Return the delay until the next poll, at most ``poll.every``.

    With a plan it ends at the next planned poll. Without one it doubles with each poll, from ``poll.after``.
    """
    if poll.plan is None:
        return backoff(task.polling.count, base=poll.after, maximum=poll.every)
    age = max((now - running_since(task)) / _SECOND, 0.0)  # below zero after the clock was set back
    delay = min(timedelta(seconds=poll.plan.gap_after(age, polls=task.polling.count)), poll.every)
    is_first = not task.polling.count and poll.first_within is not None
    return min(delay, poll.first_within) if is_first and poll.first_within else delay


def next_planned_poll(task: Task, poll: PollPolicy, *, now: datetime) -> datetime | None:
    """Return when the plan wants a running task polled after its last poll. None if anything else decides that.

    Something else decides if there is no plan, if a push or a missing result causes the next poll, or if the clock was
    set back.
    """
    polling, since = task.polling, running_since(task)
    waits_for_push = polling.push_at is not None and (polling.at is None or polling.push_at > polling.at)
    if poll.plan is None or not task.state.is_running or waits_for_push or polling.empty_results:
        return None
    last_at = polling.at or since
    if last_at > now or task.due_at is None:
        return None
    return max(last_at + poll_interval(task, poll, now=last_at), now)


def replan(task: Task, poll: PollPolicy, *, now: datetime) -> Task:
    """Plan the next poll again, by what is known now."""
    planned_at = next_planned_poll(task, poll, now=now)
    return task if planned_at is None else replace(task, due_at=planned_at)


def ids_in(report: StatusReport) -> Sequence[str]:
    """Return the ids in a report, Kling's first."""
    return [id_ for id_ in (report.kling_id, report.external_task_id) if id_]


def earliest(one: datetime | None, other: datetime) -> datetime:
    """Return the earlier of two times, of which the first may be missing."""
    return other if one is None else min(one, other)


def _accepts_callbacks(task: Task, now: datetime) -> bool:
    """Return whether the task's callback URL is still valid."""
    return task.expires_at is None or now < task.expires_at
