"""A push becomes state, event and deliveries: the one road for callbacks and for what the API answers."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from receiver.domain import signing
from receiver.domain.clock import Clock, Ids, token_hash
from receiver.domain.model import Push, PushOutcome, Source, StatusReport, Task, Verification
from receiver.domain.notifier import Notifiers
from receiver.domain.signing import SignatureStatus
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.kling import protocol
from receiver.settings import CallbackSettings, PollSettings
from receiver.store.interfaces import ById, ByToken, Change, Decide, TaskStore
from receiver.tasks import lifecycle, poll_schedule
from receiver.tasks.callback_monitor import CallbackHealthChange, CallbackMonitor
from receiver.tracking import confirmations

log = structlog.get_logger()

MAX_REDUNDANT_PUSHES = 50
"""How many of a task's pushes that changed nothing are kept, the newest; ``Task.surplus`` counts them all."""

_DROPPED_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
_EMPTY_REPORT = StatusReport(state=None)
_TRIM_EVERY = 10
_MAX_CONTRADICTIONS = 1000


class CallbackHealthObserver(Protocol):
    """Hears how callbacks attend."""

    async def on_callback_health(self, change: CallbackHealthChange) -> None:
        """Take in that callbacks stay away, or come again."""
        ...

    async def callbacks_missing(self) -> bool:
        """Tell whether it was told that callbacks stay away, and not yet that they come again."""
        ...


class Inbox:
    """Takes pushes in, durably, and decides in the same transaction what follows."""

    def __init__(
        self,
        task_store: TaskStore,
        event_factory: EventFactory,
        *,
        callbacks: CallbackSettings,
        poll: PollSettings,
        notifiers: Notifiers,
        clock: Clock,
        ids: Ids,
        health_observer: CallbackHealthObserver | None = None,
    ) -> None:
        """*attention* is told when callbacks stay away; without it nobody expects any."""
        self._task_store = task_store
        self._event_factory = event_factory
        self._callbacks = callbacks
        self._poll = poll
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids
        self._started_at = clock.now()
        self._callback_monitor = CallbackMonitor()
        self._health_observer = health_observer
        self._is_restored = False
        self._id_rotation = confirmations.IdRotation()
        self._contradicted: OrderedDict[str, None] = OrderedDict()

    @property
    def missed_callbacks(self) -> int:
        """How many tasks have ended without the callback that was to say so."""
        return self._callback_monitor.missed

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Take a callback in; True once it is committed, False when *token* is none of ours.

        Raises Unreadable for a body that is no JSON object, StoreUnavailable when it could not be kept, Crowded among
        these where too many others of its task wait for confirmation.
        """
        arrival = _Incoming(
            source=Source.CALLBACK,
            report=protocol.parse_status(body),
            body=body,
            headers=tuple((name, value) for name, value in headers if name not in _DROPPED_HEADERS),
            signature=self._check_signature(dict(headers), body),
            at=self._clock.now(),
        )
        is_unsigned, is_good = arrival.signature is SignatureStatus.ABSENT, arrival.signature is SignatureStatus.GOOD
        change = await self._task_store.apply(
            ByToken(token_hash=token_hash(token)),
            lambda task, pending: self._decide_callback(arrival, task, pending),
            # it may have to wait with others, or spare them the question they wait for
            with_pending=is_unsigned or (is_good and arrival.is_final),
        )
        if change is None or change.push is None:
            return False
        if arrival.is_final:
            self._callback_monitor.record_callback(change.push.task_id)
        self._log("callback.accepted", change, arrival)
        return True

    async def has_token(self, token: str) -> bool:
        """Tell whether a live task has *token*, at no cost to those who write."""
        return await self._task_store.has_live_token(token_hash(token), now=self._clock.now())

    async def next_poll_id(self, task: Task) -> str | None:
        """Give the id to ask Kling about *task* by; where its own is not known, one that its pushes name."""
        if task.kling_id is not None:
            return task.kling_id
        asked: list[str | None] = [None]

        def choose_id(held: Task, pending: Sequence[Push]) -> Change:
            asked[0] = self._id_rotation.next(held, _parse_pending(pending))
            return Change()

        await self._task_store.apply(ById(id=task.id), choose_id, with_pending=True)
        return asked[0]

    async def apply_answer(self, task_id: str, report: StatusReport, answer: bytes) -> None:
        """Take in what the API answered about a task; *answer* is the raw body, *reading* what it says."""
        arrival = _Incoming(source=Source.POLL, report=report, body=answer, at=self._clock.now())
        before: list[Task] = []

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            before[:] = [task]
            return self._decide_answer(arrival, task, pending)

        change = await self._task_store.apply(ById(id=task_id), decide, with_pending=True)
        if change is None or change.task is None:
            return
        self._log("answer.accepted", change, arrival)
        if change.task.state.is_final and not before[0].state.is_final:
            await self._track_callback_health(before[0])

    async def record_no_answer(self, task_id: str, *, denied: str | None = None) -> None:
        """Note a question that got no answer about the task, or that Kling knows of none by the id *denied*.

        Pushes that Kling itself denies are forged. A task silent for too long is given up.
        """
        now = self._clock.now()

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            lesson = lifecycle.on_no_answer(task, _parse_pending(pending), denied_id=denied, now=now, poll=self._poll)
            return self._enforce_deadlines(Change(task=lesson.task, resolved=lesson.resolved))

        await self._apply(task_id, decide)

    async def postpone_poll(self, task_id: str, until: datetime) -> None:
        """Leave a question for later: Kling cannot be asked just now. A task silent for too long is given up."""
        await self._apply(
            task_id, lambda task, _: self._enforce_deadlines(Change(task=poll_schedule.postpone(task, until=until)))
        )

    async def _apply(self, task_id: str, decide: Decide) -> None:
        change = await self._task_store.apply(ById(id=task_id), decide, with_pending=True)
        if change is not None:
            self._notify(change)

    async def _track_callback_health(self, before: Task) -> None:
        """Note whether a task that has ended was called back about, if it was to be and we were there."""
        last_heard_of = before.polled_at or before.started_at or before.created_at
        if self._health_observer is None or before.token_hash is None or last_heard_of < self._started_at:
            return
        if not self._is_restored:
            self._is_restored = True
            if await self._health_observer.callbacks_missing():
                self._callback_monitor.restore()
        turn = self._callback_monitor.record_end(before.id)
        if turn is not None:
            await self._health_observer.on_callback_health(turn)

    def _decide_callback(self, incoming: "_Incoming", task: Task, pending: Sequence[Push]) -> Change:
        now = incoming.at
        if task.expires_at is not None and task.expires_at <= now:
            return Change()
        waiting = _parse_pending(pending)
        verified = Verification.SIGNATURE if incoming.signature is SignatureStatus.GOOD else Verification.NONE
        if incoming.signature is SignatureStatus.BAD:
            ruling = lifecycle.on_bad_signature(task, now=now)
        else:
            ruling = lifecycle.on_callback(
                task,
                incoming.report,
                waiting,
                verified=verified,
                verify=self._callbacks.verify,
                now=now,
                poll=self._poll,
            )
        push = self._new_push(incoming, task, ruling.outcome)
        if push.outcome is PushOutcome.PENDING:
            return _count_redundant(
                Change(
                    task=ruling.task,
                    push=push,
                    resolved=confirmations.admit_pending(task, waiting, incoming.report, incoming.body),
                )
            )
        if not ruling.announce:
            return self._add_contradiction_alert(
                _count_redundant(Change(task=ruling.task, push=push)), contradicts=ruling.contradicts
            )
        said = self._event_factory.task_event(
            ruling.task,
            incoming.report,
            incoming.body,
            source=Source.CALLBACK,
            verified=verified,
            trusted=ruling.trusted,
            push_id=push.id,
            at=now,
        )
        cost = incoming.report.cost if ruling.trusted and ruling.task.state.is_final else None
        return _add_event(Change(task=ruling.task, push=push, resolved=ruling.resolved, cost=cost), said)

    def _decide_answer(self, incoming: "_Incoming", task: Task, pending: Sequence[Push]) -> Change:
        reading, now = incoming.report, incoming.at
        lesson = lifecycle.on_poll_answer(task, reading, _parse_pending(pending), now=now, poll=self._poll)
        push = self._new_push(incoming, task, lesson.outcome)
        agrees = lesson.outcome is not PushOutcome.MISMATCH and reading.state == lesson.task.state
        cost = reading.cost if agrees and lesson.task.state.is_final else None
        change = _count_redundant(Change(task=lesson.task, push=push, resolved=lesson.resolved, cost=cost))
        if not lesson.announce:
            return self._add_contradiction_alert(self._enforce_deadlines(change), contradicts=lesson.contradicts)
        confirmed = lesson.confirmed
        said = self._event_factory.task_event(
            lesson.task,
            reading,
            protocol.unwrap_task(incoming.body, task_id=reading.kling_id) if confirmed is None else confirmed.body,
            source=Source.POLL if confirmed is None else Source.CALLBACK,
            verified=Verification.API,
            push_id=push.id if confirmed is None else confirmed.id,
            at=now,
        )
        return self._enforce_deadlines(_add_event(change, said))

    def _add_contradiction_alert(self, change: Change, *, contradicts: bool) -> Change:
        """Raise an alert, once, where a task's end was spoken against."""
        task = change.task
        if not contradicts or task is None or task.id in self._contradicted:
            return change
        data = {
            "message": f"Kling now tells of another end than {task.state}, which stands: look at the task's pushes.",
            "state": task.state.value,
        }
        return _add_event(change, self._event_factory.alert("task_contradicted", data, at=self._clock.now(), task=task))

    def _new_push(self, incoming: "_Incoming", task: Task, outcome: PushOutcome) -> Push:
        return Push(
            id=self._ids.new("psh"),
            task_id=task.id,
            source=incoming.source,
            headers=incoming.headers,
            body=incoming.body,
            digest=hashlib.sha256(incoming.body).digest(),
            received_at=incoming.at,
            outcome=outcome,
        )

    def _enforce_deadlines(self, change: Change) -> Change:
        """Give the task up instead of asking again where its time is over; tell, once, where it takes long."""
        task, now = change.task, self._clock.now()
        if task is None:
            return change
        if poll_schedule.has_timed_out(task, now=now, poll=self._poll):
            task = lifecycle.expire(task, now=now)
            said = self._event_factory.task_event(
                task, _EMPTY_REPORT, b"", source=Source.RECEIVER, verified=Verification.NONE, at=now
            )
        elif poll_schedule.is_stuck(task, now=now, poll=self._poll):
            task = poll_schedule.mark_stuck(task, now=now, poll=self._poll)
            said = self._event_factory.alert(
                "task_stuck", poll_schedule.stuck_alert(task, poll=self._poll), at=now, task=task
            )
        else:
            return change
        return _add_event(replace(change, task=task), said)

    def _check_signature(self, headers: Mapping[str, str], body: bytes) -> SignatureStatus:
        if not self._callbacks.signing_secrets:
            return SignatureStatus.ABSENT
        return signing.verify(self._callbacks.signing_secrets, headers, body, now=self._clock.now())

    def _log(self, log_event: str, change: Change, incoming: "_Incoming") -> None:
        self._notify(change)
        for event in change.events:
            if event.type == "alert.task_contradicted" and event.task_id is not None:
                log.warning("task.contradicted", task=event.task_id, status=incoming.report.raw_status)
                self._contradicted[event.task_id] = None
                if len(self._contradicted) > _MAX_CONTRADICTIONS:
                    self._contradicted.popitem(last=False)
        if change.push is not None:
            log.info(
                log_event,
                task=change.push.task_id,
                push=change.push.id,
                status=incoming.report.raw_status,
                outcome=change.push.outcome,
                signature=incoming.signature,
            )

    def _notify(self, change: Change) -> None:
        if change.deliveries:
            self._notifiers.deliveries.notify()
        if change.events:
            self._notifiers.events.notify()
        task = change.task
        if task is None:
            return
        is_over = poll_schedule.has_ended(task)
        if is_over or task.due_at is not None:
            self._notifiers.tasks.notify()
        if is_over and task.batch is not None:
            self._notifiers.batches.notify()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incoming:
    """What came in, read but not yet judged."""

    source: Source
    report: StatusReport
    body: bytes
    at: datetime
    headers: tuple[tuple[str, str], ...] = ()
    signature: SignatureStatus = SignatureStatus.ABSENT

    @property
    def is_final(self) -> bool:
        """Whether it tells of an end."""
        return self.report.state is not None and self.report.state.is_final


def _parse_pending(pending: Sequence[Push]) -> poll_schedule.PendingPushes:
    return [(push, protocol.parse_status(push.body)) for push in pending]


def _add_event(change: Change, routed: RoutedEvent) -> Change:
    return replace(change, events=(*change.events, routed.event), deliveries=(*change.deliveries, *routed.deliveries))


def _count_redundant(change: Change) -> Change:
    """Count a push that changed nothing, and now and then forget the oldest of its kind."""
    task, push = change.task, change.push
    if task is None or push is None or push.outcome is PushOutcome.APPLIED:
        return change
    surplus = task.redundant_push_count + 1
    trims = surplus > MAX_REDUNDANT_PUSHES and surplus % _TRIM_EVERY == 0
    return replace(
        change, task=replace(task, redundant_push_count=surplus), keep_redundant=MAX_REDUNDANT_PUSHES if trims else None
    )
