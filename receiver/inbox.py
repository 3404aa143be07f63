"""A push becomes state, event and deliveries: the one road for callbacks and for what the API answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from receiver import lifecycle, signing
from receiver.announce import Announcer
from receiver.bells import Bells
from receiver.clock import Clock, Ids
from receiver.kling import protocol
from receiver.model import Push, PushOutcome, Reading, Source, Task, TaskState, Verified
from receiver.settings import CallbackSettings, PollSettings
from receiver.signing import Signature
from receiver.store import ById, ByToken, Change, Intake

log = structlog.get_logger()

_NOT_KEPT = frozenset({"authorization", "proxy-authorization", "cookie"})
_NOTHING_READ = Reading(state=None)


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
    ) -> None:
        self._intake = intake
        self._announcer = announcer
        self._callbacks = callbacks
        self._poll = poll
        self._bells = bells
        self._clock = clock
        self._ids = ids

    async def receive(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Take a callback in; True once it is committed, False when *token* is none of ours.

        Raises Unreadable for a body that is no JSON object, StoreUnavailable when it could not be kept.
        """
        arrival = _Arrival(
            source=Source.CALLBACK,
            reading=protocol.read(body),
            body=body,
            headers=tuple((name, value) for name, value in headers if name not in _NOT_KEPT),
            signature=self._check(dict(headers), body),
            at=self._clock.now(),
        )
        change = await self._intake.apply(
            ByToken(token_hash=token_hash(token)), lambda task, _: self._judge_callback(arrival, task)
        )
        if change is None or change.push is None:
            return False
        self._tell("callback.accepted", change, arrival)
        return True

    async def learn(self, task_id: str, reading: Reading, answer: bytes) -> None:
        """Take in what the API answered about a task; *answer* is the raw body, *reading* what it says."""
        arrival = _Arrival(source=Source.POLL, reading=reading, body=answer, at=self._clock.now())
        change = await self._intake.apply(
            ById(id=task_id), lambda task, pending: self._judge_answer(arrival, task, pending), with_pending=True
        )
        if change is not None:
            self._tell("answer.accepted", change, arrival)

    def _judge_callback(self, arrival: "_Arrival", task: Task) -> Change:
        now = arrival.at
        if task.expires_at is not None and task.expires_at <= now:
            return Change()
        verified = Verified.SIGNATURE if arrival.signature is Signature.GOOD else Verified.NONE
        if arrival.signature is Signature.BAD:
            ruling = lifecycle.suspect(task, now=now)
        else:
            ruling = lifecycle.hear(
                task, arrival.reading, verified=verified, verify=self._callbacks.verify, now=now, poll=self._poll
            )
        push = self._push(arrival, task, ruling.outcome)
        if not ruling.announce:
            return Change(task=ruling.task, push=push)
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
        return Change(task=ruling.task, push=push, events=(said.event,), deliveries=said.deliveries)

    def _judge_answer(self, arrival: "_Arrival", task: Task, pending: Sequence[Push]) -> Change:
        reading, now = arrival.reading, arrival.at
        read = [(push, protocol.read(push.body)) for push in pending]
        lesson = lifecycle.learn(task, reading, read, now=now, poll=self._poll)
        push = self._push(arrival, task, lesson.outcome)
        if lesson.contradicts:
            log.warning("task.contradicted", task=task.id, state=task.state, answered=reading.word)
        if not lesson.announce:
            return self._unless_given_up(Change(task=lesson.task, push=push, settles=lesson.settles))
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
        return self._unless_given_up(
            Change(
                task=lesson.task,
                push=push,
                events=(said.event,),
                deliveries=said.deliveries,
                settles=lesson.settles,
            )
        )

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

    async def learn_nothing(self, task_id: str, *, unknown_to_kling: bool) -> None:
        """Note a question that got no answer about the task, or the answer that Kling knows no such task.

        Pushes that Kling itself denies are forged. A task silent for too long is given up.
        """
        now = self._clock.now()

        def judge(task: Task, pending: Sequence[Push]) -> Change:
            asked = lifecycle.ask_again(task, now=now, poll=self._poll)
            settles = {push.id: PushOutcome.FORGED for push in pending} if unknown_to_kling else {}
            return self._unless_given_up(Change(task=asked, settles=settles))

        change = await self._intake.apply(ById(id=task_id), judge, with_pending=True)
        if change is not None:
            self._ring(change)

    def _unless_given_up(self, change: Change) -> Change:
        """Give the task up instead of planning another question, where its time is over."""
        task, now = change.task, self._clock.now()
        if task is None or task.state is TaskState.EXPIRED or not lifecycle.is_given_up(task, now=now, poll=self._poll):
            return change
        task = lifecycle.expire(task, now=now)
        said = self._announcer.task_event(
            task, _NOTHING_READ, b"", source=Source.RECEIVER, verified=Verified.NONE, at=now
        )
        return Change(
            task=task,
            push=change.push,
            events=(*change.events, said.event),
            deliveries=(*change.deliveries, *said.deliveries),
            settles=change.settles,
        )

    def _check(self, headers: Mapping[str, str], body: bytes) -> Signature:
        if not self._callbacks.signing_secrets:
            return Signature.ABSENT
        return signing.check(self._callbacks.signing_secrets, headers, body, now=self._clock.now())

    def _tell(self, what: str, change: Change, arrival: "_Arrival") -> None:
        self._ring(change)
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
        if change.task is not None and (change.task.due_at is not None or change.task.state.is_final):
            self._bells.tasks.ring()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """What came in, read but not yet judged."""

    source: Source
    reading: Reading
    body: bytes
    at: datetime
    headers: tuple[tuple[str, str], ...] = ()
    signature: Signature = Signature.ABSENT


def token_hash(token: str) -> bytes:
    """Give what is stored of a callback token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
