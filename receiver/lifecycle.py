"""What a piece of news changes about a task: the state machine, in one place. Pure: no clock, no I/O.

Kling's word comes by two ways. A *callback* is a hint that anybody who knows its URL can give: it is believed
as far as ``[callbacks] verify`` and its signature allow, else it only makes us ask. An *answer* of Kling's API
is the truth. States rise submitted → processing → succeed | failed and never fall; ``queued``, ``submitting``
and ``awaiting`` come before them, ``rejected`` and ``expired`` are our own endings, which Kling's word undoes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from receiver.model import Origin, Push, PushOutcome, Reading, Task, TaskState, Verified
from receiver.settings import PollSettings, Verify

ASK_APART = timedelta(seconds=5)
"""The least time between two questions about one task, so that a flood of forged pushes costs next to nothing."""

FRESH = timedelta(minutes=1)
"""How long a push that waits for confirmation keeps the questions close together: the API may lag behind."""

HOLLOW_ASKS = 5
"""How often a succeed without any result is asked about again before it is taken as it is."""

_RANK = {TaskState.SUBMITTED: 1, TaskState.PROCESSING: 2, TaskState.SUCCEED: 3, TaskState.FAILED: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What a callback changes. ``announce`` asks for an event; ``trusted`` says that verify's demand is met."""

    task: Task
    outcome: PushOutcome
    announce: bool = False
    trusted: bool = True


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
    task: Task, reading: Reading, *, verified: Verified, verify: Verify, now: datetime, poll: PollSettings
) -> Ruling:
    """Rule on a callback for the *task* whose token it came by."""
    task = replace(task, updated_at=now)
    if not _belongs(task, reading):
        return Ruling(task=_ask_soon(task, now), outcome=PushOutcome.MISMATCH)
    task = _bind_minted(task, reading)
    if reading.state is None or reading.ambiguous:
        return Ruling(task=_ask_soon(task, now), outcome=PushOutcome.UNREADABLE)

    trusted = _is_trusted(reading.state, verified, verify)
    if task.state.is_final or _rank(reading.state) <= _rank(task.heard):
        return _hear_nothing_new(task, reading.state, trusted=trusted, now=now)
    if task.state is TaskState.EXPIRED and not reading.state.is_final:
        return Ruling(task=task, outcome=PushOutcome.STALE)
    if not trusted and can_ask(task):
        return Ruling(task=_ask_soon(task, now), outcome=PushOutcome.PENDING)
    return Ruling(
        task=_advance(task, reading, now=now, poll=poll), outcome=PushOutcome.SETTLED, announce=True, trusted=trusted
    )


def suspect(task: Task, *, now: datetime) -> Ruling:
    """Rule on a callback whose signature is wrong: it changes nothing, but Kling is asked, should it be our secret
    that is wrong."""
    return Ruling(task=_ask_soon(task, now), outcome=PushOutcome.FORGED)


def learn(
    task: Task, reading: Reading, pending: Sequence[tuple[Push, Reading]], *, now: datetime, poll: PollSettings
) -> Lesson:
    """Take in what the API answered about *task*; *pending* are its pushes that wait for confirmation."""
    task = replace(task, updated_at=now, asked_at=now, asks=task.asks + 1)
    state = reading.state
    if state is None:
        return Lesson(task=_later(task, pending, now=now, poll=poll), outcome=PushOutcome.UNREADABLE)
    if task.state.is_final:
        agrees = state == task.state
        fate = PushOutcome.FORGED if agrees else PushOutcome.MISMATCH
        return Lesson(
            task=replace(task, due_at=None),
            outcome=PushOutcome.DUPLICATE if agrees else PushOutcome.MISMATCH,
            settles={push.id: fate for push, _ in pending},
            contradicts=not agrees,
        )
    if state.is_final and not (_is_hollow(reading) and task.asks < HOLLOW_ASKS):
        return _learn_the_end(task, reading, pending, now=now, poll=poll)
    return _learn_on_the_way(task, reading, pending, now=now, poll=poll)


def begin(task: Task, token_hash: bytes | None, *, now: datetime, until: datetime) -> Task:
    """Send a task to Kling; should nothing more be heard of the attempt, it is looked up *until* then."""
    return replace(
        task,
        state=TaskState.SUBMITTING,
        token_hash=token_hash,
        attempts=task.attempts + 1,
        updated_at=now,
        due_at=until,
        message="",
    )


def bind(task: Task, reading: Reading, *, awaited: bool, now: datetime, poll: PollSettings) -> Task:
    """Bind Kling's id, from its answer to the create or from looking the task up.

    Callbacks may have come before; what they said stands. *awaited* says that one of them waits for confirmation.
    """
    task = replace(
        task,
        kling_id=reading.kling_id or task.kling_id,
        external_task_id=task.external_task_id or reading.external_task_id,
        updated_at=now,
    )
    if task.state.is_final:
        return task
    state = TaskState.PROCESSING if task.heard is TaskState.PROCESSING else TaskState.SUBMITTED
    return replace(task, state=state, message="", due_at=now if awaited else now + _interval(task, poll))


def reject(task: Task, message: str, *, now: datetime) -> Task:
    """End a task that Kling refused to create."""
    return replace(task, state=TaskState.REJECTED, message=message, updated_at=now, due_at=None)


def queue_again(task: Task, message: str, *, now: datetime, until: datetime) -> Task:
    """Put a task back that Kling could not take just now; *message* tells people why it waits."""
    return replace(task, state=TaskState.QUEUED, message=message, updated_at=now, due_at=until)


def expire(task: Task, *, now: datetime) -> Task:
    """Give a task up that Kling says nothing final about."""
    return replace(task, state=TaskState.EXPIRED, updated_at=now, due_at=None)


def ask_again(task: Task, *, now: datetime, poll: PollSettings) -> Task:
    """Plan the next question after one that got no answer about the task."""
    task = replace(task, asked_at=now, asks=task.asks + 1)
    return replace(task, due_at=now + _interval(task, poll))


def is_given_up(task: Task, *, now: datetime, poll: PollSettings) -> bool:
    """Tell whether a task has been silent for so long that it is given up."""
    return not task.state.is_final and now - task.created_at >= poll.give_up_after


def can_ask(task: Task) -> bool:
    """Tell whether Kling's API can be asked about a task: its endpoint and one of its ids are known."""
    return task.endpoint is not None and bool(task.kling_id or task.external_task_id)


def _learn_the_end(
    task: Task, reading: Reading, pending: Sequence[tuple[Push, Reading]], *, now: datetime, poll: PollSettings
) -> Lesson:
    confirmed: Push | None = None
    settles: dict[str, PushOutcome] = {}
    for push, said in pending:
        if said.state is not None and _rank(said.state) < _rank(reading.state):
            settles[push.id] = PushOutcome.STALE
        elif not said.says_the_same_as(reading):
            settles[push.id] = PushOutcome.FORGED
        elif confirmed is None:
            confirmed = push
            settles[push.id] = PushOutcome.SETTLED
        else:
            settles[push.id] = PushOutcome.DUPLICATE
    return Lesson(
        task=_advance(task, reading, now=now, poll=poll),
        outcome=PushOutcome.SETTLED if confirmed is None else PushOutcome.DUPLICATE,
        announce=True,
        settles=settles,
        confirmed=confirmed,
    )


def _learn_on_the_way(
    task: Task, reading: Reading, pending: Sequence[tuple[Push, Reading]], *, now: datetime, poll: PollSettings
) -> Lesson:
    state = TaskState.PROCESSING if reading.state is None or reading.state.is_final else reading.state
    confirmed = next((push for push, said in pending if said.state == state), None)
    passed = {push.id: PushOutcome.STALE for push, said in pending if _rank(said.state) <= _rank(state)}
    if confirmed is not None:
        passed[confirmed.id] = PushOutcome.SETTLED
    waiting = [(push, said) for push, said in pending if push.id not in passed]
    news = _rank(state) > _rank(task.heard) and task.state is not TaskState.EXPIRED and not _is_hollow(reading)
    task = _later(_advance(task, replace(reading, state=state), now=now, poll=poll) if news else task, waiting,
                  now=now, poll=poll)  # fmt: skip
    return Lesson(
        task=task,
        outcome=PushOutcome.SETTLED if news and confirmed is None else PushOutcome.DUPLICATE,
        announce=news,
        settles=passed,
        confirmed=confirmed if news else None,
    )


def _hear_nothing_new(task: Task, said: TaskState, *, trusted: bool, now: datetime) -> Ruling:
    if said == task.heard:
        return Ruling(task=task, outcome=PushOutcome.DUPLICATE)
    if task.state.is_final and said.is_final and not trusted and can_ask(task):
        return Ruling(task=_ask_soon(task, now), outcome=PushOutcome.PENDING)
    return Ruling(task=task, outcome=PushOutcome.STALE)


def _advance(task: Task, reading: Reading, *, now: datetime, poll: PollSettings) -> Task:
    """Take the state that *reading* tells of, and what else it knows."""
    state = reading.state or task.state
    due_at = None if state.is_final or not can_ask(task) else now + _interval(task, poll)
    if task.state is TaskState.SUBMITTING and not state.is_final:
        state, due_at = task.state, task.due_at  # the create's answer binds it first
    return replace(task, state=state, heard=reading.state, message=reading.message, updated_at=now, due_at=due_at)


def _later(task: Task, pending: Sequence[tuple[Push, Reading]], *, now: datetime, poll: PollSettings) -> Task:
    """Plan the next question: soon while a fresh push waits for it, else after a growing interval."""
    fresh = any(now - push.received_at < FRESH for push, _ in pending)
    return replace(task, due_at=now + (ASK_APART if fresh else _interval(task, poll)))


def _ask_soon(task: Task, now: datetime) -> Task:
    """Have the API asked now, or as soon as the last question is long enough ago."""
    if not can_ask(task) or task.state in (TaskState.SUBMITTING, TaskState.QUEUED):
        return task
    soon = now if task.asked_at is None else max(now, task.asked_at + ASK_APART)
    return replace(task, due_at=soon if task.due_at is None else min(soon, task.due_at))


def _interval(task: Task, poll: PollSettings) -> timedelta:
    grown: timedelta = poll.after * 2 ** min(task.asks, 20)
    return min(grown, poll.every)


def _bind_minted(task: Task, reading: Reading) -> Task:
    if task.origin is not Origin.MINTED or task.kling_id is not None:
        return task
    return replace(
        task,
        kling_id=reading.kling_id,
        external_task_id=task.external_task_id or reading.external_task_id,
        state=TaskState.SUBMITTED if task.state is TaskState.AWAITING else task.state,
    )


def _belongs(task: Task, reading: Reading) -> bool:
    """Compare the ids a body carries with the task's. Ours goes first: through some gateways Kling's differ."""
    if reading.external_task_id and task.external_task_id:
        return reading.external_task_id == task.external_task_id
    if reading.kling_id and task.kling_id:
        return reading.kling_id == task.kling_id
    return True


def _is_trusted(state: TaskState, verified: Verified, verify: Verify) -> bool:
    if verified is not Verified.NONE or verify is Verify.NEVER:
        return True
    return verify is Verify.TERMINAL and not state.is_final


def _is_hollow(reading: Reading) -> bool:
    return reading.state is TaskState.SUCCEED and not any(reading.result.values())


def _rank(state: TaskState | None) -> int:
    return 0 if state is None else _RANK.get(state, 0)
