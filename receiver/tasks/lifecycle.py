"""What a piece of news changes about a task: the state machine, in one place. Pure: no clock, no I/O.

Kling's word comes by two ways. A *callback* is a hint that anybody who knows its URL can give: it is believed
as far as ``[callbacks] verify`` and its signature allow, else it only makes us ask. An *answer* of Kling's API
is the truth. States rise submitted → processing → succeed | failed and never fall; ``queued``, ``submitting``
and ``awaiting`` come before them, ``rejected`` and ``expired`` are our own endings, which Kling's word undoes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from receiver.domain.model import Push, PushOutcome, StatusReport, Task, TaskState, Verification
from receiver.settings import PollSettings, Verify
from receiver.tasks.poll_schedule import (
    EMPTY_RESULT_RETRIES,
    PendingPushes,
    can_poll,
    earliest,
    ids_in,
    is_unbound,
    next_check_at,
    next_poll_after_expiry,
    poll_interval,
    record_poll,
    running_since,
    schedule_end_check,
    schedule_next,
    schedule_soon,
)

CALLBACK_GRACE = timedelta(days=7)
"""How long a callback URL outlives its task's end: long enough for any push that comes again."""

UNKNOWN = "unknown"
"""What the message of a task begins with that Kling may or may not have made, and nobody can tell."""

CANCELLED = "cancelled"
"""What the message of a task begins with that a person took out of the line before Kling heard of it."""

_RANK = {TaskState.SUBMITTED: 1, TaskState.PROCESSING: 2, TaskState.SUCCEED: 3, TaskState.FAILED: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What a callback changes. ``announce`` asks for an event; ``trusted`` says that verify's demand is met.

    ``settles`` gives the pushes their outcome that waited for a word of Kling's, where this callback is one.
    ``contradicts`` says that a final state was spoken against by a voice that counts, and nobody can be asked.
    """

    task: Task
    outcome: PushOutcome
    announce: bool = False
    trusted: bool = True
    resolved: Mapping[str, PushOutcome] = field(default_factory=dict)
    contradicts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an answer of the API changes.

    ``settles`` gives the pushes that waited for it their outcome; ``confirmed`` is the one of them that said the
    same, so that its body may go out as it came. ``contradicts`` says that a final state was answered otherwise.
    """

    task: Task
    outcome: PushOutcome
    announce: bool = False
    resolved: Mapping[str, PushOutcome] = field(default_factory=dict)
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
    poll: PollSettings,
) -> Ruling:
    """Rule on a callback for the *task* whose token it came by; *pending* are its pushes that wait for confirmation."""
    ruling = _decide_callback(task, report, verified=verified, verify=verify, now=now, poll=poll)
    if ruling.announce and ruling.task.state.is_final and pending:
        strangers, ours = _split_foreign_pushes(ruling.task, pending)
        ruling = replace(ruling, resolved={**strangers, **_resolved_by_end(report, ours)})
    if ruling.task.updated_at == now:
        return ruling
    return replace(ruling, task=replace(ruling.task, updated_at=now))


def _decide_callback(
    task: Task, report: StatusReport, *, verified: Verification, verify: Verify, now: datetime, poll: PollSettings
) -> Ruling:
    if not _belongs(task, report):
        return Ruling(task=schedule_soon(task, now=now), outcome=PushOutcome.MISMATCH)
    if is_unbound(task):
        if task.endpoint is not None and verified is Verification.NONE and verify is not Verify.NEVER:
            return _unbound_callback(task, report, now=now)
        task = _bind_minted(task, report, now=now)
    if report.state is None or report.has_duplicate_keys:
        return Ruling(task=schedule_soon(task, now=now), outcome=PushOutcome.UNRECOGNIZED)

    trusted = _is_trusted(report.state, verified, verify)
    is_step_of_lost_task = task.state is TaskState.EXPIRED and not report.state.is_final
    if task.state.is_final or is_step_of_lost_task or _rank(report.state) <= _rank(task.kling_state):
        return _redundant_callback(task, report.state, trusted=trusted, now=now)
    task = _created_after_all(task, report, now=now)
    if (not trusted or _needs_confirmation(task, report, verified, verify)) and can_poll(task):
        return Ruling(task=schedule_end_check(task, now=now), outcome=PushOutcome.PENDING)
    return Ruling(
        task=_advance(task, report, now=now, poll=poll), outcome=PushOutcome.APPLIED, announce=True, trusted=trusted
    )


def on_bad_signature(task: Task, *, now: datetime) -> Ruling:
    """Rule on a callback whose signature is wrong: it changes nothing, but Kling is asked, should it be our secret
    that is wrong."""
    return Ruling(task=schedule_soon(task, now=now), outcome=PushOutcome.FORGED)


def on_poll_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    """Take in what the API answered about *task*; *pending* are its pushes that wait for confirmation."""
    task = record_poll(replace(task, updated_at=now), now=now)
    if not _is_about(task, report):
        return _answer_for_other_task(task, report, pending, now=now, poll=poll)
    task = _bind_minted(task, report, now=now)
    hollow = task.empty_result_count + 1 if _is_empty(report) else task.empty_result_count
    task = replace(task, kling_id=task.kling_id or report.kling_id, empty_result_count=hollow)
    strangers, ours = _split_foreign_pushes(task, pending)
    lesson = _decide_answer(task, report, ours, now=now, poll=poll)
    return replace(lesson, resolved={**strangers, **lesson.resolved})


def _split_foreign_pushes(task: Task, pending: PendingPushes) -> tuple[dict[str, PushOutcome], PendingPushes]:
    """Tell the pushes that are of another task from those of this one."""
    strangers = {push.id: PushOutcome.MISMATCH for push, said in pending if not _belongs(task, said)}
    return strangers, [each for each in pending if each[0].id not in strangers]


def on_no_answer(
    task: Task, pending: PendingPushes, *, denied_id: str | None, now: datetime, poll: PollSettings
) -> Lesson:
    """Take in that the API said nothing about *task*, or that it knows of none that goes by the id *denied*."""
    task = record_poll(task, now=now)
    own = [task.external_task_id]  # what a push goes by that names nothing
    forged = [push.id for push, said in pending if denied_id and (task.kling_id or denied_id in (ids_in(said) or own))]
    left = [(push, said) for push, said in pending if push.id not in forged]
    if forged and is_unbound(task):
        task = replace(task, poll_count=0)  # one fewer; those that are left are not to wait for longer because of it
    return Lesson(
        task=schedule_next(task, left, now=now, poll=poll),
        outcome=PushOutcome.UNRECOGNIZED,
        resolved=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def start_submit(task: Task, token_hash: bytes | None, *, now: datetime, lookup_at: datetime) -> Task:
    """Send a task to Kling, with a callback URL made now; hearing no more of it, it is looked up *until* then."""
    return replace(
        task,
        state=TaskState.SUBMITTING,
        token_hash=token_hash,
        attempts=task.attempts + 1,
        poll_count=0,
        started_at=now,
        updated_at=now,
        due_at=lookup_at,
        expires_at=_expiry(task, created_at=now),
        message="",
    )


def bind(task: Task, report: StatusReport, *, poll_now: bool, now: datetime, poll: PollSettings) -> Task:
    """Bind Kling's id, from its answer to the create or from looking the task up.

    Callbacks may have come before; what they said stands. *awaited* says that news is waiting to be asked for.
    """
    task = replace(
        task,
        kling_id=report.kling_id or task.kling_id,
        external_task_id=task.external_task_id or report.external_task_id,
        poll_count=0,
        updated_at=now,
    )
    if task.state.is_final:
        return task
    state = TaskState.PROCESSING if task.kling_state is TaskState.PROCESSING else TaskState.SUBMITTED
    due_at, prompted_at = (now, now) if poll_now else (now + poll_interval(task, poll), task.push_poll_at)
    return replace(task, state=state, message="", due_at=due_at, push_poll_at=prompted_at)


def schedule_lookup(task: Task, message: str, *, now: datetime, lookup_at: datetime) -> Task:
    """Plan to look a task up whose submit has no clear answer."""
    return replace(task, message=message, poll_count=task.poll_count + 1, updated_at=now, due_at=lookup_at)


def reject(task: Task, message: str, *, now: datetime) -> Task:
    """End a task that Kling refused to create."""
    task = replace(task, state=TaskState.REJECTED, message=message, updated_at=now, due_at=None)
    return replace(task, expires_at=earliest(task.expires_at, now + CALLBACK_GRACE))


def await_first_callback(task: Task, message: str, *, now: datetime) -> Task:
    """Leave a call be that made nothing with a name. Should it be called back about all the same, that counts."""
    return replace(task, state=TaskState.AWAITING, message=message, updated_at=now, due_at=None)


def requeue(task: Task, message: str, *, now: datetime, due_at: datetime) -> Task:
    """Put a task back that Kling did not take; *message* tells people why it waits."""
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


def expire(task: Task, *, now: datetime, message: str | None = None) -> Task:
    """Give a task up that Kling says nothing final about; *message* replaces what was said of it last."""
    message, expires_at = task.message if message is None else message, earliest(task.expires_at, now + CALLBACK_GRACE)
    task = replace(task, state=TaskState.EXPIRED, message=message, updated_at=now, expires_at=expires_at)
    return replace(task, due_at=next_poll_after_expiry(task, now=now))


def _expiry(task: Task, *, created_at: datetime) -> datetime | None:
    """Tell until when a callback URL is good that is made then: as long as one made when the task began."""
    return None if task.expires_at is None else created_at + (task.expires_at - running_since(task))


def _unbound_callback(task: Task, report: StatusReport, *, now: datetime) -> Ruling:
    """Let the first push of a minted URL wait until Kling confirms the id it names.

    Whoever found the URL could else bind an id of their own to it, and then no true push would belong.
    """
    if not ids_in(report) or report.state is None or report.has_duplicate_keys:
        return Ruling(task=task, outcome=PushOutcome.UNRECOGNIZED)
    task = schedule_soon(replace(task, started_at=task.started_at or now), now=now)
    return Ruling(task=task, outcome=PushOutcome.PENDING)


def _decide_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    state = report.state
    if state is None:
        return Lesson(task=schedule_next(task, pending, now=now, poll=poll), outcome=PushOutcome.UNRECOGNIZED)
    if task.state.is_final:
        return _answer_after_end(task, state, pending, now=now, poll=poll)
    if state.is_final and not (_is_empty(report) and task.empty_result_count < EMPTY_RESULT_RETRIES):
        return _final_answer(task, report, pending, now=now, poll=poll)
    return _progress_answer(task, report, pending, now=now, poll=poll)


def _answer_for_other_task(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    """Take in an answer about a task that is not this one: the pushes that named it were not of this task either."""
    forged = [push.id for push, said in pending if report.kling_id in ids_in(said)]
    left = [(push, said) for push, said in pending if push.id not in forged]
    return Lesson(
        task=schedule_next(task, left, now=now, poll=poll),
        outcome=PushOutcome.MISMATCH,
        resolved=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def _answer_after_end(
    task: Task, state: TaskState, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    """Compare an answer with an end that stands whatever is said."""
    task = schedule_next(task, () if state.is_final else pending, now=now, poll=poll)
    if task.due_at is not None:
        return Lesson(task=task, outcome=PushOutcome.STALE)
    agrees = state == task.state
    otherwise = PushOutcome.FORGED if agrees else PushOutcome.MISMATCH
    return Lesson(
        task=task,
        outcome=PushOutcome.DUPLICATE if agrees else PushOutcome.MISMATCH,
        resolved={push.id: PushOutcome.DUPLICATE if said.state == task.state else otherwise for push, said in pending},
        contradicts=state.is_final and not agrees,
    )


def _final_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    settles = _resolved_by_end(report, pending)
    confirmed = next((push for push, said in pending if said.matches(report)), None)
    if confirmed is not None:
        settles[confirmed.id] = PushOutcome.APPLIED
    return Lesson(
        task=_advance(task, report, now=now, poll=poll),
        outcome=PushOutcome.APPLIED if confirmed is None else PushOutcome.DUPLICATE,
        announce=True,
        resolved=settles,
        confirmed=confirmed,
    )


def _resolved_by_end(report: StatusReport, pending: PendingPushes) -> dict[str, PushOutcome]:
    """Give each push that waited its outcome, now that Kling has told of the end."""
    settles: dict[str, PushOutcome] = {}
    for push, said in pending:
        if said.state is not None and _rank(said.state) < _rank(report.state):
            settles[push.id] = PushOutcome.STALE
        elif _is_empty(said) and report.state is TaskState.SUCCEED and not _is_empty(report):
            settles[push.id] = PushOutcome.DUPLICATE
        else:
            settles[push.id] = PushOutcome.DUPLICATE if said.matches(report) else PushOutcome.FORGED
    return settles


def _progress_answer(
    task: Task, report: StatusReport, pending: PendingPushes, *, now: datetime, poll: PollSettings
) -> Lesson:
    state = TaskState.PROCESSING if report.state is None or report.state.is_final else report.state
    confirmed = next((push for push, said in pending if said.state == state and said.matches(report)), None)
    passed = {push.id: PushOutcome.STALE for push, said in pending if _rank(said.state) <= _rank(state)}
    if confirmed is not None:
        passed[confirmed.id] = PushOutcome.APPLIED
    waiting = [(push, said) for push, said in pending if push.id not in passed]
    news = _rank(state) > _rank(task.kling_state) and task.state is not TaskState.EXPIRED and not _is_empty(report)
    if news:
        task = _advance(task, replace(report, state=state), now=now, poll=poll)
    return Lesson(
        task=schedule_next(task, waiting, now=now, poll=poll),
        outcome=PushOutcome.APPLIED if news and confirmed is None else PushOutcome.DUPLICATE,
        announce=news,
        resolved=passed,
        confirmed=confirmed if news else None,
    )


def _redundant_callback(task: Task, state: TaskState, *, trusted: bool, now: datetime) -> Ruling:
    if state == task.kling_state:
        return Ruling(task=task, outcome=PushOutcome.DUPLICATE)
    if task.state.is_final and state.is_final:
        if can_poll(task):
            return Ruling(task=schedule_soon(task, now=now), outcome=PushOutcome.PENDING)
        return Ruling(task=task, outcome=PushOutcome.STALE, contradicts=trusted)
    return Ruling(task=task, outcome=PushOutcome.STALE)


def _created_after_all(task: Task, report: StatusReport, *, now: datetime) -> Task:
    """Hold on to a sign that Kling has made a task whose submit is not answered yet.

    The id it names serves until the answer comes. One that was about to be sent again is looked up instead.
    """
    if task.state not in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    task = replace(task, kling_id=task.kling_id or report.kling_id)
    return task if task.state is TaskState.SUBMITTING else replace(task, state=TaskState.SUBMITTING, due_at=now)


def _advance(task: Task, report: StatusReport, *, now: datetime, poll: PollSettings) -> Task:
    """Take the state that *reading* tells of, and what else it knows."""
    state, due_at, expires_at = report.state or task.state, task.due_at, task.expires_at
    if state.is_final:
        due_at, expires_at = None, earliest(expires_at, now + CALLBACK_GRACE)
    elif task.state is TaskState.SUBMITTING:
        state = task.state  # the create's answer binds it first
    else:
        due_at = next_check_at(task, poll_interval(task, poll), now=now, poll=poll)
    return replace(
        task,
        state=state,
        kling_state=report.state,
        message=report.message,
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
        poll_count=0,
        started_at=task.started_at or now,
    )


def _belongs(task: Task, report: StatusReport) -> bool:
    """Compare the ids a body carries with the task's. Ours goes first: through some gateways Kling's differ."""
    if report.external_task_id and task.external_task_id:
        return report.external_task_id == task.external_task_id
    if report.kling_id and task.kling_id:
        return report.kling_id == task.kling_id
    return True


def _is_about(task: Task, report: StatusReport) -> bool:
    """Tell whether an answer is about the task. Kling's id is what was asked by, and a gateway may show another."""
    if report.external_task_id and task.external_task_id:
        return report.external_task_id == task.external_task_id
    return True


def _is_trusted(state: TaskState, verified: Verification, verify: Verify) -> bool:
    if verified is not Verification.NONE or verify is Verify.NEVER:
        return True
    return verify is Verify.TERMINAL and not state.is_final


def _needs_confirmation(task: Task, report: StatusReport, verified: Verification, verify: Verify) -> bool:
    """Tell whether a body is not to be taken as it is though its state is: no result, or of a task that was refused."""
    is_revived = task.state is TaskState.REJECTED and verified is Verification.NONE
    return verify is not Verify.NEVER and (is_revived or _is_empty(report))


def _is_empty(report: StatusReport) -> bool:
    return report.state is TaskState.SUCCEED and not any(report.result.values())


def _rank(state: TaskState | None) -> int:
    return 0 if state is None else _RANK.get(state, 0)
