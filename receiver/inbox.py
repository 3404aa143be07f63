"""A push becomes state, event and deliveries: the one road for callbacks and for what the API answers."""

import hashlib
from collections.abc import Mapping, Sequence

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
        reading = protocol.read(body)
        now = self._clock.now()
        signature = self._check(dict(headers), body)
        verified = Verified.SIGNATURE if signature is Signature.GOOD else Verified.NONE
        kept = tuple((name, value) for name, value in headers if name not in _NOT_KEPT)
        digest = hashlib.sha256(body).digest()

        def judge(task: Task, _: Sequence[Push]) -> Change:
            if task.expires_at is not None and task.expires_at <= now:
                return Change()
            if signature is Signature.BAD:
                ruling = lifecycle.suspect(task, now=now)
            else:
                ruling = lifecycle.hear(
                    task, reading, verified=verified, verify=self._callbacks.verify, now=now, poll=self._poll
                )
            push = Push(
                id=self._ids.new("psh"),
                task_id=task.id,
                source=Source.CALLBACK,
                headers=kept,
                body=body,
                digest=digest,
                received_at=now,
                outcome=ruling.outcome,
            )
            if not ruling.announce:
                return Change(task=ruling.task, push=push)
            said = self._announcer.task_event(
                ruling.task,
                reading,
                body,
                source=Source.CALLBACK,
                verified=verified,
                trusted=ruling.trusted,
                push_id=push.id,
                at=now,
            )
            return Change(task=ruling.task, push=push, events=(said.event,), deliveries=said.deliveries)

        change = await self._intake.apply(ByToken(token_hash=token_hash(token)), judge)
        if change is None or change.push is None or change.task is None:
            return False
        self._ring(change)
        log.info(
            "callback.accepted",
            task=change.task.id,
            push=change.push.id,
            status=reading.word,
            outcome=change.push.outcome,
            signature=signature,
        )
        return True

    async def learn(self, task_id: str, reading: Reading, answer: bytes) -> None:
        """Take in what the API answered about a task; *answer* is the raw body, *reading* what it says."""
        now = self._clock.now()
        bare = protocol.bare(answer, task_id=reading.kling_id)
        digest = hashlib.sha256(answer).digest()

        def judge(task: Task, pending: Sequence[Push]) -> Change:
            read = [(push, protocol.read(push.body)) for push in pending]
            lesson = lifecycle.learn(task, reading, read, now=now, poll=self._poll)
            push = Push(
                id=self._ids.new("psh"),
                task_id=task.id,
                source=Source.POLL,
                headers=(),
                body=answer,
                digest=digest,
                received_at=now,
                outcome=lesson.outcome,
            )
            if lesson.contradicts:
                log.warning("task.contradicted", task=task.id, state=task.state, answered=reading.word)
            if not lesson.announce:
                return self._unless_given_up(Change(task=lesson.task, push=push, settles=lesson.settles))
            confirmed = lesson.confirmed
            said = self._announcer.task_event(
                lesson.task,
                reading,
                bare if confirmed is None else confirmed.body,
                source=Source.POLL if confirmed is None else Source.CALLBACK,
                verified=Verified.API,
                push_id=push.id if confirmed is None else confirmed.id,
                at=now,
            )
            change = Change(
                task=lesson.task,
                push=push,
                events=(said.event,),
                deliveries=said.deliveries,
                settles=lesson.settles,
            )
            return self._unless_given_up(change)

        change = await self._intake.apply(ById(id=task_id), judge, with_pending=True)
        if change is None or change.task is None or change.push is None:
            return
        self._ring(change)
        log.info(
            "answer.accepted",
            task=change.task.id,
            push=change.push.id,
            status=reading.word,
            outcome=change.push.outcome,
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

    def _ring(self, change: Change) -> None:
        if change.deliveries:
            self._bells.deliveries.ring()
        if change.events:
            self._bells.events.ring()
        if change.task is not None and (change.task.due_at is not None or change.task.state.is_final):
            self._bells.tasks.ring()


def token_hash(token: str) -> bytes:
    """Give what is stored of a callback token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
