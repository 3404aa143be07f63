"""The state machine of a task: what a callback or a poll answer changes. Pure: no clock, no I/O.

Kling reports a task's state in two ways. A *callback* is a hint: any client that knows the URL can send one. It takes
effect as far as ``[callbacks] verify`` and its signature allow; otherwise it only causes a poll. A *poll answer* of
Kling's API is the truth. States rise submitted → processing → succeed | failed and never fall. ``queued``,
``submitting`` and ``awaiting`` precede them (:mod:`receiver.tasks.submit_lifecycle`). The receiver itself ends a task
as ``rejected`` or ``expired``, and a later report from Kling revokes that end. An end that only an unsigned push
reports, of a task that cannot be polled, is replaced by a signed end: a forged push must not cost the result.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from receiver.domain.model import EndReason, Origin, Push, PushOutcome, StatusReport, Task, TaskState, Verification
from receiver.settings import Verify
from receiver.tasks.poll_optimizer import PollPolicy
from receiver.tasks.poll_schedule import (
    EMPTY_RESULT_STEPS,
    PendingPushes,
    can_poll,
    earliest,
    ensure_deadline,
    ids_in,
    is_unbound,
    next_check_at,
    next_poll_after_expiry,
    poll_interval,
    record_empty_result,
    record_poll,
    schedule_end_check,
    schedule_next,
    schedule_soon,
)
from receiver.tasks.slot_use import with_true_slots

CALLBACK_GRACE = timedelta(days=7)
"""How long a callback URL stays valid after its task's end, for callbacks that Kling repeats."""

NO_RESULT = "Kling reported a success without a URL for each result. Its own words are in `data.kling`."
"""The message of a success that is accepted without a result."""

_RANK = {TaskState.SUBMITTED: 1, TaskState.PROCESSING: 2, TaskState.SUCCEED: 3, TaskState.FAILED: 3}


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """What a callback or a poll answer changes.

    ``outcome`` is that of the push itself; ``resolved`` maps pending pushes to the outcome they have now.
    ``announce``: an event follows. ``trusted``: the demand of ``[callbacks] verify`` is met.
    ``confirmed`` is the pending push that a poll answer confirms: the event carries its body unchanged.
    ``contradicts``: for the first time, a trusted report differs from the final state, and a poll cannot decide or has
    decided so. The task keeps its end, and ``kling_state`` becomes the other one.
    """

    task: Task
    outcome: PushOutcome
    announce: bool = False
    trusted: bool = True
    resolved: Mapping[str, PushOutcome] = msgspec.field(default_factory=dict)
    confirmed: Push | None = None
    contradicts: bool = False


def on_callback(
    task: Task,
    report: StatusReport,
    pending: PendingPushes = (),
    *,
    verified: Verification,
    verify: Verify,
    now: datetime,
    poll: PollPolicy,
) -> Transition:
    """Return what a callback by the token of *task* changes. *pending* are the task's unconfirmed pushes."""
    transition = _decide_callback(task, report, verified=verified, verify=verify, now=now, poll=poll)
    if transition.announce and transition.task.state.is_final and pending:
        foreign, own = _split_foreign_pushes(transition.task, pending)
        transition = replace(transition, resolved={**foreign, **_resolved_by_end(report, own)})
    task = ensure_deadline(transition.task, now=now, poll=poll)
    return replace(transition, task=task if task.updated_at == now else replace(task, updated_at=now))


def _decide_callback(
    task: Task, report: StatusReport, *, verified: Verification, verify: Verify, now: datetime, poll: PollPolicy
) -> Transition:
    if not _belongs(task, report):
        return Transition(task=schedule_soon(task, now=now), outcome=PushOutcome.MISMATCH)
    if is_unbound(task):
        if task.endpoint is not None and verified is Verification.NONE and verify is not Verify.NEVER:
            return _unbound_callback(task, report, now=now)
        task = _bind_minted(task, report, now=now)
    if report.state is None or report.has_duplicate_keys:
        return Transition(task=schedule_soon(task, now=now), outcome=PushOutcome.UNRECOGNIZED)

    trusted = _is_trusted(report.state, verified, verify)
    is_progress_after_expiry = task.state is TaskState.EXPIRED and not report.state.is_final
    is_behind = task.state.is_final or is_progress_after_expiry or _rank(report.state) <= _rank(task.kling_state)
    if is_behind and not _replaces_end(task, report.state, verified):
        return _redundant_callback(task, report.state, trusted=trusted, now=now)
    task = _created_after_all(task, report, now=now)
    if (not trusted or _needs_confirmation(task, report, verified, verify)) and can_poll(task):
        return Transition(task=schedule_end_check(task, now=now), outcome=PushOutcome.PENDING)
    task = _advance(task, report, trusted=trusted, now=now, poll=poll)
    return Transition(task=task, outcome=PushOutcome.APPLIED, announce=True, trusted=trusted)


def differs_from_binding(task: Task, report: StatusReport) -> bool:
    """Return whether a push names another task than the one that an earlier push has bound to a minted URL."""
    return task.origin is Origin.MINTED and not _belongs(task, report)


def release_binding(task: Task) -> Task:
    """Return a minted task without its ids, so that the next push binds others. Its state stays."""
    return replace(task, kling_id=None, external_task_id=None)


def on_bad_signature(task: Task, *, now: datetime) -> Transition:
    """Return what a callback with a wrong signature changes: nothing but the next poll.

    The poll is for the case that the receiver's secret is the wrong one.
    """
    return Transition(task=schedule_soon(task, now=now), outcome=PushOutcome.FORGED)


def on_poll_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    """Return what the API's answer about *task* changes. *pending* are the task's unconfirmed pushes."""
    is_about = _is_about(task, report)
    if is_about and report.is_empty:
        task = record_empty_result(task, now=now)
    task = record_poll(replace(task, updated_at=now), now=now)
    if not is_about:
        return _answer_for_other_task(task, report, pending, now=now, poll=poll)
    task = _bind_minted(task, report, now=now)
    task = replace(task, kling_id=task.kling_id or report.kling_id)
    foreign, own = _split_foreign_pushes(task, pending)
    transition = _decide_answer(task, report, own, now=now, poll=poll)
    return replace(transition, resolved={**foreign, **transition.resolved})


def on_no_answer(
    task: Task, pending: PendingPushes, *, denied_id: str | None, now: datetime, poll: PollPolicy
) -> Transition:
    """Return what a poll without an answer changes. *denied_id* is the id that Kling does not know, if it said so."""
    task = record_poll(task, now=now)
    own_id = [task.external_task_id]  # identifies a push that names no id
    forged = [
        push.id
        for push, report in pending
        if denied_id and (task.kling_id or denied_id in (ids_in(report) or own_id))
    ]  # fmt: skip
    left = [(push, report) for push, report in pending if push.id not in forged]
    if forged and is_unbound(task):
        # the other ids must not wait longer because of the forged one
        task = replace(task, polling=replace(task.polling, count=0))
    return Transition(
        task=schedule_next(task, left, now=now, poll=poll),
        outcome=PushOutcome.UNRECOGNIZED,
        resolved=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def expire(
    task: Task, *, now: datetime, message: str | None = None, end_reason: EndReason = EndReason.TIMED_OUT
) -> Task:
    """Expire a task that Kling has not ended. *message* replaces the task's message if given."""
    message = task.message if message is None else message
    task = replace(
        task,
        state=TaskState.EXPIRED,
        message=message,
        end_reason=end_reason,
        updated_at=now,
        expires_at=earliest(task.expires_at, now + CALLBACK_GRACE),
    )
    return replace(task, due_at=next_poll_after_expiry(task, now=now))


def _split_foreign_pushes(task: Task, pending: PendingPushes) -> tuple[dict[str, PushOutcome], PendingPushes]:
    """Return the outcome of the pushes that are about another task, and the other pushes."""
    foreign = {push.id: PushOutcome.MISMATCH for push, report in pending if not _belongs(task, report)}
    return foreign, [each for each in pending if each[0].id not in foreign]


def _unbound_callback(task: Task, report: StatusReport, *, now: datetime) -> Transition:
    """Keep the first push of a minted URL pending until Kling confirms the id in it.

    Otherwise an attacker who found the URL could bind it to an id of their own. Every true push would then mismatch.
    """
    if not ids_in(report) or report.state is None or report.has_duplicate_keys:
        return Transition(task=task, outcome=PushOutcome.UNRECOGNIZED)
    task = schedule_soon(replace(task, started_at=task.started_at or now), now=now)
    return Transition(task=task, outcome=PushOutcome.PENDING)


def _decide_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    state = report.state
    if state is None:
        return Transition(task=schedule_next(task, pending, now=now, poll=poll), outcome=PushOutcome.UNRECOGNIZED)
    if task.state.is_final:
        return _answer_after_end(task, state, pending, now=now, poll=poll)
    if state.is_final and not (report.is_empty and task.polling.empty_results < EMPTY_RESULT_STEPS):
        return _final_answer(task, report, pending, now=now, poll=poll)
    return _progress_answer(task, report, pending, now=now, poll=poll)


def _answer_for_other_task(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    """Return what an answer about another task changes: the pushes with that task's id are forged."""
    forged = [push.id for push, claimed in pending if report.kling_id in ids_in(claimed)]
    left = [(push, claimed) for push, claimed in pending if push.id not in forged]
    return Transition(
        task=schedule_next(task, left, now=now, poll=poll),
        outcome=PushOutcome.MISMATCH,
        resolved=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def _answer_after_end(
    task: Task, state: TaskState, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    """Compare an answer with the final state, which no answer changes."""
    task = schedule_next(task, () if state.is_final else pending, now=now, poll=poll)
    if task.due_at is not None:
        return Transition(task=task, outcome=PushOutcome.STALE)
    agrees = state == task.state
    differing = PushOutcome.FORGED if agrees else PushOutcome.MISMATCH
    contradicts = state.is_final and not agrees and state != task.kling_state
    return Transition(
        task=replace(task, kling_state=state) if contradicts else task,
        outcome=PushOutcome.DUPLICATE if agrees else PushOutcome.MISMATCH,
        resolved={
            push.id: PushOutcome.DUPLICATE if report.state == task.state else differing for push, report in pending
        },
        contradicts=contradicts,
    )


def _final_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    resolved = _resolved_by_end(report, pending)
    confirmed = next((push for push, claimed in pending if claimed.matches(report)), None)
    if confirmed is not None:
        resolved[confirmed.id] = PushOutcome.APPLIED
    return Transition(
        task=_advance(task, report, now=now, poll=poll),
        outcome=PushOutcome.APPLIED if confirmed is None else PushOutcome.DUPLICATE,
        announce=True,
        resolved=resolved,
        confirmed=confirmed,
    )


def _resolved_by_end(report: StatusReport, pending: PendingPushes) -> dict[str, PushOutcome]:
    """Return the outcome of each pending push, given Kling's final report."""
    resolved: dict[str, PushOutcome] = {}
    for push, claimed in pending:
        if claimed.state is not None and _rank(claimed.state) < _rank(report.state):
            resolved[push.id] = PushOutcome.STALE
        elif claimed.is_empty and report.state is TaskState.SUCCEED and not report.is_empty:
            resolved[push.id] = PushOutcome.DUPLICATE
        else:
            resolved[push.id] = PushOutcome.DUPLICATE if claimed.matches(report) else PushOutcome.FORGED
    return resolved


def _progress_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollPolicy
) -> Transition:
    state = TaskState.PROCESSING if report.state is None or report.state.is_final else report.state
    confirmed = next((push for push, claimed in pending if claimed.state == state and claimed.matches(report)), None)
    resolved = {push.id: PushOutcome.STALE for push, claimed in pending if _rank(claimed.state) <= _rank(state)}
    if confirmed is not None:
        resolved[confirmed.id] = PushOutcome.APPLIED
    left = [(push, claimed) for push, claimed in pending if push.id not in resolved]
    is_new = _rank(state) > _rank(task.kling_state) and task.state is not TaskState.EXPIRED and not report.is_empty
    if is_new:
        task = _advance(task, replace(report, state=state), now=now, poll=poll)
    return Transition(
        task=schedule_next(task, left, now=now, poll=poll),
        outcome=PushOutcome.APPLIED if is_new and confirmed is None else PushOutcome.DUPLICATE,
        announce=is_new,
        resolved=resolved,
        confirmed=confirmed if is_new else None,
    )


def _redundant_callback(task: Task, state: TaskState, *, trusted: bool, now: datetime) -> Transition:
    if state == task.kling_state or (state == task.state and state.is_final):
        return Transition(task=task, outcome=PushOutcome.DUPLICATE)
    if task.state.is_final and state.is_final:
        if can_poll(task):
            return Transition(task=schedule_soon(task, now=now), outcome=PushOutcome.PENDING)
        told = replace(task, kling_state=state) if trusted else task
        return Transition(task=told, outcome=PushOutcome.STALE, contradicts=trusted)
    return Transition(task=task, outcome=PushOutcome.STALE)


def _created_after_all(task: Task, report: StatusReport, *, now: datetime) -> Task:
    """Record that Kling created a task whose create has no answer yet.

    The reported id is used until the answer comes. A task that was queued for another submit is looked up instead.
    """
    if task.state not in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    task = replace(task, kling_id=task.kling_id or report.kling_id)
    return task if task.state is TaskState.SUBMITTING else replace(task, state=TaskState.SUBMITTING, due_at=now)


def _replaces_end(task: Task, state: TaskState, verified: Verification) -> bool:
    """Return whether a signed end replaces the one that only an unsigned push reported."""
    return task.is_end_unverified and state.is_final and verified is Verification.SIGNATURE


def _advance(task: Task, report: StatusReport, *, trusted: bool = True, now: datetime, poll: PollPolicy) -> Task:
    """Return the task in the state that *report* has, with its message and the next poll time."""
    state, due_at, expires_at = report.state or task.state, task.due_at, task.expires_at
    if state.is_final:
        due_at = None
        if trusted:  # otherwise a forged end would shorten the time in which the signed one may come
            expires_at = earliest(expires_at, now + CALLBACK_GRACE)
    elif task.state is TaskState.SUBMITTING:
        state = task.state  # the create's answer binds it first
    else:
        due_at = next_check_at(task, poll_interval(task, poll, now=now), now=now, poll=poll)
    return replace(
        task,
        state=state,
        kling_state=report.state,
        queueing=with_true_slots(task.queueing, report),
        end_reason=None,
        is_end_unverified=state.is_final and not trusted,
        message=report.message or (NO_RESULT if report.is_empty else ""),
        updated_at=now,
        due_at=due_at,
        expires_at=expires_at,
    )


def _bind_minted(task: Task, report: StatusReport, *, now: datetime) -> Task:
    if not is_unbound(task):
        return task
    return replace(
        task,
        kling_id=report.kling_id,
        external_task_id=task.external_task_id or report.external_task_id,
        state=TaskState.SUBMITTED if task.state is TaskState.AWAITING else task.state,
        polling=replace(task.polling, count=0),
        started_at=task.started_at or now,
    )


def _belongs(task: Task, report: StatusReport) -> bool:
    """Return whether the ids in a body match the task's. The external id decides: some gateways change Kling's id."""
    if report.external_task_id and task.external_task_id:
        return report.external_task_id == task.external_task_id
    if report.kling_id and task.kling_id:
        return report.kling_id == task.kling_id
    return True


def _is_about(task: Task, report: StatusReport) -> bool:
    """Return whether an answer is about the task. Kling's id is not compared: a gateway may answer with another one."""
    if report.external_task_id and task.external_task_id:
        return report.external_task_id == task.external_task_id
    return True


def _is_trusted(state: TaskState, verified: Verification, verify: Verify) -> bool:
    if verified is not Verification.NONE or verify is Verify.NEVER:
        return True
    return verify is Verify.TERMINAL and not state.is_final


def _needs_confirmation(task: Task, report: StatusReport, verified: Verification, verify: Verify) -> bool:
    """Return whether even a trusted state must be confirmed: the result is empty, or the task was rejected."""
    is_revived = task.state is TaskState.REJECTED and verified is Verification.NONE
    return verify is not Verify.NEVER and (is_revived or report.is_empty)


def _rank(state: TaskState | None) -> int:
    return 0 if state is None else _RANK.get(state, 0)
