"""A push becomes state, event and deliveries: the one road for callbacks and for what the API answers."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from receiver.domain import signing
from receiver.domain.clock import Clock, Ids
from receiver.domain.model import Push, PushOutcome, Reading, Source, Task, Verified
from receiver.domain.notifier import Bells
from receiver.domain.signing import Signature
from receiver.events.factory import Announcement, Announcer
from receiver.kling import protocol
from receiver.settings import CallbackSettings, PollSettings
from receiver.store.interfaces import ById, ByToken, Change, Intake, Judge
from receiver.tasks import lifecycle, poll_schedule
from receiver.tasks.callback_monitor import Attendance, Turn
from receiver.tracking import confirmations

log = structlog.get_logger()

KEPT_PUSHES = 50
"""How many of a task's pushes that changed nothing are kept, the newest; ``Task.surplus`` counts them all."""

_NOT_KEPT = frozenset({"authorization", "proxy-authorization", "cookie"})
_NOTHING_READ = Reading(state=None)
_TRIM_EVERY = 10
_CONTRADICTIONS = 1000


class Attention(Protocol):
    """Hears how callbacks attend."""

    async def attended(self, turn: Turn) -> None:
        """Take in that callbacks stay away, or come again."""
        ...

    async def are_missed(self) -> bool:
        """Tell whether it was told that callbacks stay away, and not yet that they come again."""
        ...


class Inbox:
    """Takes pushes in, durably, and decides in the same transaction what follows."""

    def __init__(
        self,
        intake: Intake,
        announcer: Announcer,
        *,
        callbacks: CallbackSettings,
        poll: PollSettings,
        bells: Bells,
        clock: Clock,
        ids: Ids,
        attention: Attention | None = None,
    ) -> None:
        """*attention* is told when callbacks stay away; without it nobody expects any."""
        self._intake = intake
        self._announcer = announcer
        self._callbacks = callbacks
        self._poll = poll
        self._bells = bells
        self._clock = clock
        self._ids = ids
        self._since = clock.now()
        self._attendance = Attendance()
        self._attention = attention
        self._is_recalled = False
        self._turns = confirmations.Turns()
        self._contradicted: OrderedDict[str, None] = OrderedDict()

    @property
    def missed(self) -> int:
        """How many tasks have ended without the callback that was to say so."""
        return self._attendance.missed

    async def receive(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Take a callback in; True once it is committed, False when *token* is none of ours.

        Raises Unreadable for a body that is no JSON object, StoreUnavailable when it could not be kept, Crowded among
        these where too many others of its task wait for confirmation.
        """
        arrival = _Arrival(
            source=Source.CALLBACK,
            reading=protocol.read(body),
            body=body,
            headers=tuple((name, value) for name, value in headers if name not in _NOT_KEPT),
            signature=self._check(dict(headers), body),
            at=self._clock.now(),
        )
        is_unsigned, is_good = arrival.signature is Signature.ABSENT, arrival.signature is Signature.GOOD
        change = await self._intake.apply(
            ByToken(token_hash=token_hash(token)),
            lambda task, pending: self._judge_callback(arrival, task, pending),
            # it may have to wait with others, or spare them the question they wait for
            with_pending=is_unsigned or (is_good and arrival.is_final),
        )
        if change is None or change.push is None:
            return False
        if arrival.is_final:
            self._attendance.called(change.push.task_id)
        self._tell("callback.accepted", change, arrival)
        return True

    async def knows(self, token: str) -> bool:
        """Tell whether a live task has *token*, at no cost to those who write."""
        return await self._intake.knows(token_hash(token), now=self._clock.now())

    async def question(self, task: Task) -> str | None:
        """Give the id to ask Kling about *task* by; where its own is not known, one that its pushes name."""
        if task.kling_id is not None:
            return task.kling_id
        asked: list[str | None] = [None]

        def look(held: Task, pending: Sequence[Push]) -> Change:
            asked[0] = self._turns.next(held, _read(pending))
            return Change()

        await self._intake.apply(ById(id=task.id), look, with_pending=True)
        return asked[0]

    async def learn(self, task_id: str, reading: Reading, answer: bytes) -> None:
        """Take in what the API answered about a task; *answer* is the raw body, *reading* what it says."""
        arrival = _Arrival(source=Source.POLL, reading=reading, body=answer, at=self._clock.now())
        before: list[Task] = []

        def judge(task: Task, pending: Sequence[Push]) -> Change:
            before[:] = [task]
            return self._judge_answer(arrival, task, pending)

        change = await self._intake.apply(ById(id=task_id), judge, with_pending=True)
        if change is None or change.task is None:
            return
        self._tell("answer.accepted", change, arrival)
        if change.task.state.is_final and not before[0].state.is_final:
            await self._attend(before[0])

    async def learn_nothing(self, task_id: str, *, denied: str | None = None) -> None:
        """Note a question that got no answer about the task, or that Kling knows of none by the id *denied*.

        Pushes that Kling itself denies are forged. A task silent for too long is given up.
        """
        now = self._clock.now()

        def judge(task: Task, pending: Sequence[Push]) -> Change:
            lesson = lifecycle.learn_nothing(task, _read(pending), denied=denied, now=now, poll=self._poll)
            return self._in_time(Change(task=lesson.task, settles=lesson.settles))

        await self._change(task_id, judge)

    async def put_off(self, task_id: str, until: datetime) -> None:
        """Leave a question for later: Kling cannot be asked just now. A task silent for too long is given up."""
        await self._change(
            task_id, lambda task, _: self._in_time(Change(task=poll_schedule.put_off(task, until=until)))
        )

    async def _change(self, task_id: str, judge: Judge) -> None:
        change = await self._intake.apply(ById(id=task_id), judge, with_pending=True)
        if change is not None:
            self._ring(change)

    async def _attend(self, before: Task) -> None:
        """Note whether a task that has ended was called back about, if it was to be and we were there."""
        last_heard_of = before.asked_at or before.started_at or before.created_at
        if self._attention is None or before.token_hash is None or last_heard_of < self._since:
            return
        if not self._is_recalled:
            self._is_recalled = True
            if await self._attention.are_missed():
                self._attendance.recall()
        turn = self._attendance.ended(before.id)
        if turn is not None:
            await self._attention.attended(turn)

    def _judge_callback(self, arrival: "_Arrival", task: Task, pending: Sequence[Push]) -> Change:
        now = arrival.at
        if task.expires_at is not None and task.expires_at <= now:
            return Change()
        waiting = _read(pending)
        verified = Verified.SIGNATURE if arrival.signature is Signature.GOOD else Verified.NONE
        if arrival.signature is Signature.BAD:
            ruling = lifecycle.suspect(task, now=now)
        else:
            ruling = lifecycle.hear(
                task,
                arrival.reading,
                waiting,
                verified=verified,
                verify=self._callbacks.verify,
                now=now,
                poll=self._poll,
            )
        push = self._push(arrival, task, ruling.outcome)
        if push.outcome is PushOutcome.PENDING:
            return _kept(
                Change(
                    task=ruling.task,
                    push=push,
                    settles=confirmations.admit(task, waiting, arrival.reading, arrival.body),
                )
            )
        if not ruling.announce:
            return self._with_alert(_kept(Change(task=ruling.task, push=push)), contradicts=ruling.contradicts)
        said = self._announcer.task_event(
            ruling.task,
            arrival.reading,
            arrival.body,
            source=Source.CALLBACK,
            verified=verified,
            trusted=ruling.trusted,
            push_id=push.id,
            at=now,
        )
        cost = arrival.reading.cost if ruling.trusted and ruling.task.state.is_final else None
        return _with(Change(task=ruling.task, push=push, settles=ruling.settles, cost=cost), said)

    def _judge_answer(self, arrival: "_Arrival", task: Task, pending: Sequence[Push]) -> Change:
        reading, now = arrival.reading, arrival.at
        lesson = lifecycle.learn(task, reading, _read(pending), now=now, poll=self._poll)
        push = self._push(arrival, task, lesson.outcome)
        agrees = lesson.outcome is not PushOutcome.MISMATCH and reading.state == lesson.task.state
        cost = reading.cost if agrees and lesson.task.state.is_final else None
        change = _kept(Change(task=lesson.task, push=push, settles=lesson.settles, cost=cost))
        if not lesson.announce:
            return self._with_alert(self._in_time(change), contradicts=lesson.contradicts)
        confirmed = lesson.confirmed
        said = self._announcer.task_event(
            lesson.task,
            reading,
            protocol.bare(arrival.body, task_id=reading.kling_id) if confirmed is None else confirmed.body,
            source=Source.POLL if confirmed is None else Source.CALLBACK,
            verified=Verified.API,
            push_id=push.id if confirmed is None else confirmed.id,
            at=now,
        )
        return self._in_time(_with(change, said))

    def _with_alert(self, change: Change, *, contradicts: bool) -> Change:
        """Raise an alert, once, where a task's end was spoken against."""
        task = change.task
        if not contradicts or task is None or task.id in self._contradicted:
            return change
        data = {
            "message": f"Kling now tells of another end than {task.state}, which stands: look at the task's pushes.",
            "state": task.state.value,
        }
        return _with(change, self._announcer.alert("task_contradicted", data, at=self._clock.now(), task=task))

    def _push(self, arrival: "_Arrival", task: Task, outcome: PushOutcome) -> Push:
        return Push(
            id=self._ids.new("psh"),
            task_id=task.id,
            source=arrival.source,
            headers=arrival.headers,
            body=arrival.body,
            digest=hashlib.sha256(arrival.body).digest(),
            received_at=arrival.at,
            outcome=outcome,
        )

    def _in_time(self, change: Change) -> Change:
        """Give the task up instead of asking again where its time is over; tell, once, where it takes long."""
        task, now = change.task, self._clock.now()
        if task is None:
            return change
        if poll_schedule.is_given_up(task, now=now, poll=self._poll):
            task = lifecycle.expire(task, now=now)
            said = self._announcer.task_event(
                task, _NOTHING_READ, b"", source=Source.RECEIVER, verified=Verified.NONE, at=now
            )
        elif poll_schedule.is_stuck(task, now=now, poll=self._poll):
            task = poll_schedule.mark_stuck(task, now=now, poll=self._poll)
            said = self._announcer.alert(
                "task_stuck", poll_schedule.tell_stuck(task, poll=self._poll), at=now, task=task
            )
        else:
            return change
        return _with(replace(change, task=task), said)

    def _check(self, headers: Mapping[str, str], body: bytes) -> Signature:
        if not self._callbacks.signing_secrets:
            return Signature.ABSENT
        return signing.check(self._callbacks.signing_secrets, headers, body, now=self._clock.now())

    def _tell(self, what: str, change: Change, arrival: "_Arrival") -> None:
        self._ring(change)
        for event in change.events:
            if event.type == "alert.task_contradicted" and event.task_id is not None:
                log.warning("task.contradicted", task=event.task_id, status=arrival.reading.word)
                self._contradicted[event.task_id] = None
                if len(self._contradicted) > _CONTRADICTIONS:
                    self._contradicted.popitem(last=False)
        if change.push is not None:
            log.info(
                what,
                task=change.push.task_id,
                push=change.push.id,
                status=arrival.reading.word,
                outcome=change.push.outcome,
                signature=arrival.signature,
            )

    def _ring(self, change: Change) -> None:
        if change.deliveries:
            self._bells.deliveries.ring()
        if change.events:
            self._bells.events.ring()
        task = change.task
        if task is None:
            return
        is_over = poll_schedule.is_over(task)
        if is_over or task.due_at is not None:
            self._bells.tasks.ring()
        if is_over and task.batch is not None:
            self._bells.batches.ring()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """What came in, read but not yet judged."""

    source: Source
    reading: Reading
    body: bytes
    at: datetime
    headers: tuple[tuple[str, str], ...] = ()
    signature: Signature = Signature.ABSENT

    @property
    def is_final(self) -> bool:
        """Whether it tells of an end."""
        return self.reading.state is not None and self.reading.state.is_final


def _read(pending: Sequence[Push]) -> poll_schedule.Waiting:
    return [(push, protocol.read(push.body)) for push in pending]


def _with(change: Change, said: Announcement) -> Change:
    return replace(change, events=(*change.events, said.event), deliveries=(*change.deliveries, *said.deliveries))


def _kept(change: Change) -> Change:
    """Count a push that changed nothing, and now and then forget the oldest of its kind."""
    task, push = change.task, change.push
    if task is None or push is None or push.outcome is PushOutcome.SETTLED:
        return change
    surplus = task.surplus + 1
    trims = surplus > KEPT_PUSHES and surplus % _TRIM_EVERY == 0
    return replace(change, task=replace(task, surplus=surplus), keep=KEPT_PUSHES if trims else None)


def token_hash(token: str) -> bytes:
    """Give what is stored of a callback token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
