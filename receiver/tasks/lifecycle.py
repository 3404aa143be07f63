"""What a piece of news changes about a task: the state machine, in one place. Pure: no clock, no I/O.

Kling's word comes by two ways. A *callback* is a hint that anybody who knows its URL can give: it is believed
as far as ``[callbacks] verify`` and its signature allow, else it only makes us ask. An *answer* of Kling's API
is the truth. States rise submitted → processing → succeed | failed and never fall; ``queued``, ``submitting``
and ``awaiting`` come before them, ``rejected`` and ``expired`` are our own endings, which Kling's word undoes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from receiver.domain.model import Push, PushOutcome, Reading, Task, TaskState, Verified
from receiver.settings import PollSettings, Verify
from receiver.tasks.poll_schedule import (
    HOLLOW_ASKS,
    Waiting,
    ask_about_end,
    ask_later,
    ask_soon,
    began_at,
    can_ask,
    interval,
    is_unbound,
    look_back,
    names_in,
    next_look,
    note_asked,
    sooner,
)

GRACE = timedelta(days=7)
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
    settles: Mapping[str, PushOutcome] = field(default_factory=dict)
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
    settles: Mapping[str, PushOutcome] = field(default_factory=dict)
    confirmed: Push | None = None
    contradicts: bool = False


def hear(
    task: Task,
    reading: Reading,
    pending: Waiting = (),
    *,
    verified: Verified,
    verify: Verify,
    now: datetime,
    poll: PollSettings,
) -> Ruling:
    """Rule on a callback for the *task* whose token it came by; *pending* are its pushes that wait for confirmation."""
    ruling = _hear(task, reading, verified=verified, verify=verify, now=now, poll=poll)
    if ruling.announce and ruling.task.state.is_final and pending:
        strangers, ours = _sorted(ruling.task, pending)
        ruling = replace(ruling, settles={**strangers, **_settled_by_the_end(reading, ours)})
    if ruling.task.updated_at == now:
        return ruling
    return replace(ruling, task=replace(ruling.task, updated_at=now))


def _hear(
    task: Task, reading: Reading, *, verified: Verified, verify: Verify, now: datetime, poll: PollSettings
) -> Ruling:
    if not _belongs(task, reading):
        return Ruling(task=ask_soon(task, now=now), outcome=PushOutcome.MISMATCH)
    if is_unbound(task):
        if task.endpoint is not None and verified is Verified.NONE and verify is not Verify.NEVER:
            return _hear_a_claim(task, reading, now=now)
        task = _bind_minted(task, reading, now=now)
    if reading.state is None or reading.ambiguous:
        return Ruling(task=ask_soon(task, now=now), outcome=PushOutcome.UNREADABLE)

    trusted = _is_trusted(reading.state, verified, verify)
    is_step_of_lost_task = task.state is TaskState.EXPIRED and not reading.state.is_final
    if task.state.is_final or is_step_of_lost_task or _rank(reading.state) <= _rank(task.heard):
        return _hear_nothing_new(task, reading.state, trusted=trusted, now=now)
    task = _made_after_all(task, reading, now=now)
    if (not trusted or _is_doubtful(task, reading, verified, verify)) and can_ask(task):
        return Ruling(task=ask_about_end(task, now=now), outcome=PushOutcome.PENDING)
    return Ruling(
        task=_advance(task, reading, now=now, poll=poll), outcome=PushOutcome.SETTLED, announce=True, trusted=trusted
    )


def suspect(task: Task, *, now: datetime) -> Ruling:
    """Rule on a callback whose signature is wrong: it changes nothing, but Kling is asked, should it be our secret
    that is wrong."""
    return Ruling(task=ask_soon(task, now=now), outcome=PushOutcome.FORGED)


def learn(task: Task, reading: Reading, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    """Take in what the API answered about *task*; *pending* are its pushes that wait for confirmation."""
    task = note_asked(replace(task, updated_at=now), now=now)
    if not _is_about(task, reading):
        return _learn_of_another(task, reading, pending, now=now, poll=poll)
    task = _bind_minted(task, reading, now=now)
    hollow = task.hollow + 1 if _is_hollow(reading) else task.hollow
    task = replace(task, kling_id=task.kling_id or reading.kling_id, hollow=hollow)
    strangers, ours = _sorted(task, pending)
    lesson = _learn_state(task, reading, ours, now=now, poll=poll)
    return replace(lesson, settles={**strangers, **lesson.settles})


def _sorted(task: Task, pending: Waiting) -> tuple[dict[str, PushOutcome], Waiting]:
    """Tell the pushes that are of another task from those of this one."""
    strangers = {push.id: PushOutcome.MISMATCH for push, said in pending if not _belongs(task, said)}
    return strangers, [each for each in pending if each[0].id not in strangers]


def learn_nothing(task: Task, pending: Waiting, *, denied: str | None, now: datetime, poll: PollSettings) -> Lesson:
    """Take in that the API said nothing about *task*, or that it knows of none that goes by the id *denied*."""
    task = note_asked(task, now=now)
    own = [task.external_task_id]  # what a push goes by that names nothing
    forged = [push.id for push, said in pending if denied and (task.kling_id or denied in (names_in(said) or own))]
    left = [(push, said) for push, said in pending if push.id not in forged]
    if forged and is_unbound(task):
        task = replace(task, asks=0)  # one fewer; those that are left are not to wait for longer because of it
    return Lesson(
        task=ask_later(task, left, now=now, poll=poll),
        outcome=PushOutcome.UNREADABLE,
        settles=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def begin(task: Task, token_hash: bytes | None, *, now: datetime, until: datetime) -> Task:
    """Send a task to Kling, with a callback URL made now; hearing no more of it, it is looked up *until* then."""
    return replace(
        task,
        state=TaskState.SUBMITTING,
        token_hash=token_hash,
        attempts=task.attempts + 1,
        asks=0,
        started_at=now,
        updated_at=now,
        due_at=until,
        expires_at=_expiry(task, made_at=now),
        message="",
    )


def bind(task: Task, reading: Reading, *, awaited: bool, now: datetime, poll: PollSettings) -> Task:
    """Bind Kling's id, from its answer to the create or from looking the task up.

    Callbacks may have come before; what they said stands. *awaited* says that news is waiting to be asked for.
    """
    task = replace(
        task,
        kling_id=reading.kling_id or task.kling_id,
        external_task_id=task.external_task_id or reading.external_task_id,
        asks=0,
        updated_at=now,
    )
    if task.state.is_final:
        return task
    state = TaskState.PROCESSING if task.heard is TaskState.PROCESSING else TaskState.SUBMITTED
    due_at, prompted_at = (now, now) if awaited else (now + interval(task, poll), task.prompted_at)
    return replace(task, state=state, message="", due_at=due_at, prompted_at=prompted_at)


def look_again(task: Task, message: str, *, now: datetime, until: datetime) -> Task:
    """Plan to look a task up whose submit has no clear answer."""
    return replace(task, message=message, asks=task.asks + 1, updated_at=now, due_at=until)


def reject(task: Task, message: str, *, now: datetime) -> Task:
    """End a task that Kling refused to create."""
    task = replace(task, state=TaskState.REJECTED, message=message, updated_at=now, due_at=None)
    return replace(task, expires_at=sooner(task.expires_at, now + GRACE))


def leave_open(task: Task, message: str, *, now: datetime) -> Task:
    """Leave a call be that made nothing with a name. Should it be called back about all the same, that counts."""
    return replace(task, state=TaskState.AWAITING, message=message, updated_at=now, due_at=None)


def queue_again(task: Task, message: str, *, now: datetime, until: datetime) -> Task:
    """Put a task back that Kling did not take; *message* tells people why it waits."""
    return replace(
        task,
        state=TaskState.QUEUED,
        kling_id=None,
        heard=None,
        message=message,
        started_at=None,
        updated_at=now,
        due_at=until,
        expires_at=_expiry(task, made_at=task.created_at),
    )


def expire(task: Task, *, now: datetime, message: str | None = None) -> Task:
    """Give a task up that Kling says nothing final about; *message* replaces what was said of it last."""
    message, expires_at = task.message if message is None else message, sooner(task.expires_at, now + GRACE)
    task = replace(task, state=TaskState.EXPIRED, message=message, updated_at=now, expires_at=expires_at)
    return replace(task, due_at=look_back(task, now=now))


def _expiry(task: Task, *, made_at: datetime) -> datetime | None:
    """Tell until when a callback URL is good that is made then: as long as one made when the task began."""
    return None if task.expires_at is None else made_at + (task.expires_at - began_at(task))


def _hear_a_claim(task: Task, reading: Reading, *, now: datetime) -> Ruling:
    """Let the first push of a minted URL wait until Kling confirms the id it names.

    Whoever found the URL could else bind an id of their own to it, and then no true push would belong.
    """
    if not names_in(reading) or reading.state is None or reading.ambiguous:
        return Ruling(task=task, outcome=PushOutcome.UNREADABLE)
    task = ask_soon(replace(task, started_at=task.started_at or now), now=now)
    return Ruling(task=task, outcome=PushOutcome.PENDING)


def _learn_state(task: Task, reading: Reading, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    state = reading.state
    if state is None:
        return Lesson(task=ask_later(task, pending, now=now, poll=poll), outcome=PushOutcome.UNREADABLE)
    if task.state.is_final:
        return _learn_what_is_past(task, state, pending, now=now, poll=poll)
    if state.is_final and not (_is_hollow(reading) and task.hollow < HOLLOW_ASKS):
        return _learn_the_end(task, reading, pending, now=now, poll=poll)
    return _learn_on_the_way(task, reading, pending, now=now, poll=poll)


def _learn_of_another(task: Task, reading: Reading, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    """Take in an answer about a task that is not this one: the pushes that named it were not of this task either."""
    forged = [push.id for push, said in pending if reading.kling_id in names_in(said)]
    left = [(push, said) for push, said in pending if push.id not in forged]
    return Lesson(
        task=ask_later(task, left, now=now, poll=poll),
        outcome=PushOutcome.MISMATCH,
        settles=dict.fromkeys(forged, PushOutcome.FORGED),
    )


def _learn_what_is_past(task: Task, state: TaskState, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    """Compare an answer with an end that stands whatever is said."""
    task = ask_later(task, () if state.is_final else pending, now=now, poll=poll)
    if task.due_at is not None:
        return Lesson(task=task, outcome=PushOutcome.STALE)
    agrees = state == task.state
    otherwise = PushOutcome.FORGED if agrees else PushOutcome.MISMATCH
    return Lesson(
        task=task,
        outcome=PushOutcome.DUPLICATE if agrees else PushOutcome.MISMATCH,
        settles={push.id: PushOutcome.DUPLICATE if said.state == task.state else otherwise for push, said in pending},
        contradicts=state.is_final and not agrees,
    )


def _learn_the_end(task: Task, reading: Reading, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    settles = _settled_by_the_end(reading, pending)
    confirmed = next((push for push, said in pending if said.says_the_same_as(reading)), None)
    if confirmed is not None:
        settles[confirmed.id] = PushOutcome.SETTLED
    return Lesson(
        task=_advance(task, reading, now=now, poll=poll),
        outcome=PushOutcome.SETTLED if confirmed is None else PushOutcome.DUPLICATE,
        announce=True,
        settles=settles,
        confirmed=confirmed,
    )


def _settled_by_the_end(reading: Reading, pending: Waiting) -> dict[str, PushOutcome]:
    """Give each push that waited its outcome, now that Kling has told of the end."""
    settles: dict[str, PushOutcome] = {}
    for push, said in pending:
        if said.state is not None and _rank(said.state) < _rank(reading.state):
            settles[push.id] = PushOutcome.STALE
        elif _is_hollow(said) and reading.state is TaskState.SUCCEED and not _is_hollow(reading):
            settles[push.id] = PushOutcome.DUPLICATE
        else:
            settles[push.id] = PushOutcome.DUPLICATE if said.says_the_same_as(reading) else PushOutcome.FORGED
    return settles


def _learn_on_the_way(task: Task, reading: Reading, pending: Waiting, *, now: datetime, poll: PollSettings) -> Lesson:
    state = TaskState.PROCESSING if reading.state is None or reading.state.is_final else reading.state
    confirmed = next((push for push, said in pending if said.state == state and said.says_the_same_as(reading)), None)
    passed = {push.id: PushOutcome.STALE for push, said in pending if _rank(said.state) <= _rank(state)}
    if confirmed is not None:
        passed[confirmed.id] = PushOutcome.SETTLED
    waiting = [(push, said) for push, said in pending if push.id not in passed]
    news = _rank(state) > _rank(task.heard) and task.state is not TaskState.EXPIRED and not _is_hollow(reading)
    if news:
        task = _advance(task, replace(reading, state=state), now=now, poll=poll)
    return Lesson(
        task=ask_later(task, waiting, now=now, poll=poll),
        outcome=PushOutcome.SETTLED if news and confirmed is None else PushOutcome.DUPLICATE,
        announce=news,
        settles=passed,
        confirmed=confirmed if news else None,
    )


def _hear_nothing_new(task: Task, said: TaskState, *, trusted: bool, now: datetime) -> Ruling:
    if said == task.heard:
        return Ruling(task=task, outcome=PushOutcome.DUPLICATE)
    if task.state.is_final and said.is_final:
        if can_ask(task):
            return Ruling(task=ask_soon(task, now=now), outcome=PushOutcome.PENDING)
        return Ruling(task=task, outcome=PushOutcome.STALE, contradicts=trusted)
    return Ruling(task=task, outcome=PushOutcome.STALE)


def _made_after_all(task: Task, reading: Reading, *, now: datetime) -> Task:
    """Hold on to a sign that Kling has made a task whose submit is not answered yet.

    The id it names serves until the answer comes. One that was about to be sent again is looked up instead.
    """
    if task.state not in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    task = replace(task, kling_id=task.kling_id or reading.kling_id)
    return task if task.state is TaskState.SUBMITTING else replace(task, state=TaskState.SUBMITTING, due_at=now)


def _advance(task: Task, reading: Reading, *, now: datetime, poll: PollSettings) -> Task:
    """Take the state that *reading* tells of, and what else it knows."""
    state, due_at, expires_at = reading.state or task.state, task.due_at, task.expires_at
    if state.is_final:
        due_at, expires_at = None, sooner(expires_at, now + GRACE)
    elif task.state is TaskState.SUBMITTING:
        state = task.state  # the create's answer binds it first
    else:
        due_at = next_look(task, interval(task, poll), now=now, poll=poll)
    return replace(
        task,
        state=state,
        heard=reading.state,
        message=reading.message,
        updated_at=now,
        due_at=due_at,
        expires_at=expires_at,
    )


def _bind_minted(task: Task, reading: Reading, *, now: datetime) -> Task:
    if not is_unbound(task):
        return task
    return replace(
        task,
        kling_id=reading.kling_id,
        external_task_id=task.external_task_id or reading.external_task_id,
        state=TaskState.SUBMITTED if task.state is TaskState.AWAITING else task.state,
        asks=0,
        started_at=task.started_at or now,
    )


def _belongs(task: Task, reading: Reading) -> bool:
    """Compare the ids a body carries with the task's. Ours goes first: through some gateways Kling's differ."""
    if reading.external_task_id and task.external_task_id:
        return reading.external_task_id == task.external_task_id
    if reading.kling_id and task.kling_id:
        return reading.kling_id == task.kling_id
    return True


def _is_about(task: Task, reading: Reading) -> bool:
    """Tell whether an answer is about the task. Kling's id is what was asked by, and a gateway may show another."""
    if reading.external_task_id and task.external_task_id:
        return reading.external_task_id == task.external_task_id
    return True


def _is_trusted(state: TaskState, verified: Verified, verify: Verify) -> bool:
    if verified is not Verified.NONE or verify is Verify.NEVER:
        return True
    return verify is Verify.TERMINAL and not state.is_final


def _is_doubtful(task: Task, reading: Reading, verified: Verified, verify: Verify) -> bool:
    """Tell whether a body is not to be taken as it is though its state is: no result, or of a task that was refused."""
    is_revived = task.state is TaskState.REJECTED and verified is Verified.NONE
    return verify is not Verify.NEVER and (is_revived or _is_hollow(reading))


def _is_hollow(reading: Reading) -> bool:
    return reading.state is TaskState.SUCCEED and not any(reading.result.values())


def _rank(state: TaskState | None) -> int:
    return 0 if state is None else _RANK.get(state, 0)
