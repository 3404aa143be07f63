"""Turns each push, a callback or a poll's answer, into task state, an event and deliveries."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog
from msgspec.structs import replace

from receiver.domain.clock import Clock, Ids, token_hash
from receiver.domain.log_batch import log_together
from receiver.domain.metrics import Metrics
from receiver.domain.model import Push, PushOutcome, Source, StatusReport, Task, TaskState, Verification
from receiver.domain.notifier import Notifiers
from receiver.domain.redaction import Redactor
from receiver.domain.request_id import continue_request, current_request
from receiver.domain.signing import SignatureStatus
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.kling import parser_thread, protocol
from receiver.settings import CallbackSettings, Settings
from receiver.store.interfaces import ApplyCall, ById, ByToken, Change, Decide, TaskStore
from receiver.tasks import lifecycle, poll_schedule
from receiver.tasks.expected_ends import ExpectedEnds
from receiver.tasks.poll_schedule import PendingPushes
from receiver.tracking import measurements, pending_pushes
from receiver.tracking.callback_health import CallbackHealth
from receiver.tracking.callback_reader import CallbackReader
from receiver.tracking.notifications import notify_workers
from receiver.tracking.parsed_push import Callback, Incoming
from receiver.tracking.pending_reports import PendingReports, without_result
from receiver.tracking.push_limiter import PushKind, PushLimiter
from receiver.tracking.redundant_push_limit import count_redundant

log = structlog.get_logger()

_EMPTY_REPORT = StatusReport(state=None)


class Inbox:
    """Stores each push durably, and decides in the same transaction what follows."""

    def __init__(
        self,
        task_store: TaskStore,
        event_factory: EventFactory,
        *,
        callbacks: CallbackSettings,
        ends: ExpectedEnds,
        health: CallbackHealth,
        notifiers: Notifiers,
        clock: Clock,
        ids: Ids,
        redactor: Redactor | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """*redactor* knows the secrets to hide."""
        self._task_store = task_store
        self._event_factory = event_factory
        self._ends = ends
        self._health = health
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids
        self._metrics = metrics or Metrics()
        self._id_rotation = pending_pushes.IdRotation()
        self._pending_reports = PendingReports()
        self._push_limiter = PushLimiter()
        self._reader = CallbackReader(callbacks, self._push_limiter, redactor=redactor, clock=clock)

    def apply(self, settings: Settings) -> None:
        """Use *settings* for later pushes."""
        self._reader.settings = settings.callbacks

    @property
    def missed_callbacks(self) -> int:
        """How many tasks have ended without their callback."""
        return self._health.missed

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Store a callback. Return True after the commit, or False if *token* is unknown.

        Raises MalformedBody if the body is not a JSON object, StoreUnavailable if the callback could not be stored, and
        its subclass TooManyPending if too many pushes of the task are unconfirmed or had no effect.
        """
        hashed, request = token_hash(token), current_request()
        callback = Callback(token=token, token_hash=hashed, headers=headers, body=body, request=request)
        (outcome,) = await self.accept_callbacks([callback])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        """Store callbacks in one transaction. Return for each what ``accept_callback`` returns or raises."""
        outcomes: list[bool | BaseException] = [False] * len(callbacks)
        received: dict[int, Incoming] = {}
        try:
            for index, callback in enumerate(callbacks):
                try:
                    received[index] = await self._reader.read(callback)
                except Exception as exc:  # noqa: BLE001 -- an error of one callback concerns only that one
                    outcomes[index] = exc
            changes = await self._apply_callbacks(list(received.values())) if received else ()
        finally:
            for incoming in received.values():
                self._reader.end(incoming)
        with log_together():
            for (index, incoming), change in zip(received.items(), changes, strict=True):
                continue_request(callbacks[index].request)
                outcomes[index] = change if isinstance(change, BaseException) else self._conclude(incoming, change)
        return outcomes

    async def _apply_callbacks(self, received: Sequence[Incoming]) -> Sequence[Change | BaseException | None]:
        """Apply callbacks together; return the change or the error of each."""
        changes = list(await self._task_store.apply_all([self._call(incoming) for incoming in received]))
        for index, change in enumerate(changes):
            if isinstance(change, _BoundOtherwiseError):
                changes[index] = await self._apply_bound_otherwise(received[index], change)
        return changes

    async def _apply_bound_otherwise(
        self, incoming: Incoming, bound: "_BoundOtherwiseError"
    ) -> Change | BaseException | None:
        """Apply a signed push that names another task: what an unsigned push has bound, it may bind anew."""
        try:
            is_doubtful = not await self._task_store.has_verified_event(bound.task_id)
            call = self._call(incoming, old_id=bound.kling_id, rebinds=is_doubtful)
            return (await self._task_store.apply_all([call]))[0]
        except Exception as exc:  # noqa: BLE001 -- the others of its group are already stored
            return exc

    def _conclude(self, incoming: Incoming, change: Change | None) -> bool:
        """Record and log a stored callback. Return False if its token was unknown."""
        if change is None or change.push is None:
            return False
        if incoming.is_final:
            self._record_end(change.push, change.task, incoming)
        has_effect = change.push.outcome is PushOutcome.APPLIED
        may_bind = change.task is not None and poll_schedule.is_unbound(change.task)
        if change.task is not None and not has_effect and not (may_bind and incoming.kind is not PushKind.UNNAMED):
            # a push that may name an unknown task does not count
            self._push_limiter.record(incoming.token_hash, incoming.kind, now=incoming.at)
        self._log("callback.accepted", change, incoming)
        return True

    def _record_end(self, push: Push, task: Task | None, incoming: Incoming) -> None:
        """Record that a callback reported an end, and how long the task took if it succeeded."""
        self._health.record_callback(push.task_id)
        if push.outcome is PushOutcome.APPLIED and task is not None and task.state is TaskState.SUCCEED:
            self._ends.record_end(task, ended_at=incoming.report.updated_at, seen_at=incoming.at)

    def _call(self, incoming: Incoming, *, old_id: str | None = None, rebinds: bool | None = None) -> ApplyCall:
        """Return how a callback is applied.

        *rebinds* says whether a signed one replaces *old_id*, None that this is not known yet.
        """

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            if incoming.signature is SignatureStatus.GOOD and lifecycle.differs_from_binding(task, incoming.report):
                if rebinds is None:
                    raise _BoundOtherwiseError(task.id, task.kling_id)
                if rebinds and task.kling_id == old_id:
                    task = lifecycle.release_binding(task)
            return self._decide_callback(incoming, task, pending)

        # the callback may become pending itself, or make the poll for pending pushes unnecessary
        is_signed_end = incoming.signature is SignatureStatus.GOOD and incoming.is_final
        with_pending = incoming.signature is SignatureStatus.ABSENT or is_signed_end
        return ApplyCall(ref=ByToken(token_hash=incoming.token_hash), decide=decide, with_pending=with_pending)

    async def has_token(self, token: str) -> bool:
        """Return whether *token* belongs to a live task. This does not use the store's writer."""
        return await self._task_store.has_live_token(token_hash(token), now=self._clock.now())

    async def next_poll_id(self, task: Task) -> str | None:
        """Return the id to poll *task* by: Kling's id, or one from its pending pushes if that is unknown."""
        if task.kling_id is not None:
            return task.kling_id
        chosen: list[str | None] = [None]

        def choose_id(held: Task, pending: Sequence[Push]) -> Change:
            chosen[0] = self._id_rotation.next(held, self._pending_reports.of(pending))
            return Change()

        await self._task_store.apply(ById(id=task.id), choose_id, with_pending=True)
        return chosen[0]

    async def apply_answer(self, task_id: str, report: StatusReport, answer: bytes) -> None:
        """Apply an answer of the API about a task; *answer* is the raw body of *report*."""
        if not self._ends.knows_kind(task_id):  # it was submitted before a restart
            self._ends.remember_kind(task_id, await self._task_store.intent(task_id))
        size, name = len(answer), report.kling_id
        incoming = Incoming(
            source=Source.POLL,
            report=report,
            body=answer,
            task_body=await parser_thread.run(size, protocol.unwrap_task, answer, task_id=name),
            at=self._clock.now(),
        )
        before: list[Task] = []

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            before[:] = [task]
            if task.state.is_running and not incoming.is_final:
                self._ends.record_running(task, now=incoming.at)
            return self._decide_answer(incoming, task, pending)

        change = await self._task_store.apply(ById(id=task_id), decide, with_pending=True)
        if change is None or change.task is None:
            return
        self._log("answer.accepted", change, incoming)
        if change.task.state.is_final and not before[0].state.is_final:
            if change.task.state is TaskState.SUCCEED:
                self._ends.record_polled_end(before[0], ended_at=report.updated_at, seen_at=incoming.at)
                await self._replan_running(before[0])
            if pending_pushes.has_confirmed(change):
                self._health.record_callback(task_id)  # which another node may have received
            await self._health.record_end(before[0])

    async def _replan_running(self, ended: Task) -> None:
        """Plan the polls of running tasks again, because one of their kind has ended."""
        now = self._clock.now()

        def decide(task: Task, _: Sequence[Push]) -> Change:
            planned = poll_schedule.replan(task, self._ends.policy(task), now=now)
            return Change() if planned is task else Change(task=planned)

        await asyncio.gather(*(self._apply(task_id, decide) for task_id in self._ends.running_like(ended)))

    async def record_no_answer(self, task_id: str, *, denied: str | None = None) -> None:
        """Record a poll without an answer about the task. *denied* is an id that Kling does not know.

        Pushes with an id that Kling does not know are forged. A task without an answer for too long expires.
        """
        now = self._clock.now()

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            decision = lifecycle.on_no_answer(
                task, self._pending_reports.of(pending), denied_id=denied, now=now, poll=self._ends.policy(task)
            )
            return self._enforce_deadlines(Change(task=decision.task, resolved=decision.resolved))

        await self._apply(task_id, decide)

    async def postpone_poll(self, task_id: str, until: datetime) -> None:
        """Postpone a poll because Kling cannot be polled now. A task without an answer for too long expires."""
        await self._apply(
            task_id, lambda task, _: self._enforce_deadlines(Change(task=poll_schedule.postpone(task, until=until)))
        )

    async def _apply(self, task_id: str, decide: Decide) -> None:
        change = await self._task_store.apply(ById(id=task_id), decide, with_pending=True)
        if change is not None:
            self._notify(change)

    def _decide_callback(self, incoming: Incoming, task: Task, pending: Sequence[Push]) -> Change:
        now = incoming.at
        if task.expires_at is not None and task.expires_at <= now:
            return Change()
        parsed = self._pending_reports.of(pending)
        verified = Verification.SIGNATURE if incoming.signature is SignatureStatus.GOOD else Verification.NONE
        if incoming.signature is SignatureStatus.BAD:
            decision = lifecycle.on_bad_signature(task, now=now)
        else:
            decision = lifecycle.on_callback(
                task,
                incoming.report,
                parsed,
                verified=verified,
                verify=self._reader.settings.verify,
                now=now,
                poll=self._ends.policy(task),
            )
        push = self._new_push(incoming, task, decision.outcome)
        if push.outcome is PushOutcome.PENDING:
            resolved = self._admit_pending(task, parsed, push, incoming.report)
            return count_redundant(Change(task=decision.task, push=push, resolved=resolved))
        if not decision.announce:
            change = count_redundant(Change(task=decision.task, push=push))
            return self._add_contradiction_alert(change, contradicts=decision.contradicts)
        routed = self._event_factory.task_event(
            decision.task,
            incoming.report,
            incoming.body,
            source=Source.CALLBACK,
            verified=verified,
            trusted=decision.trusted,
            push_id=push.id,
            at=now,
        )
        cost = incoming.report.cost if decision.trusted and decision.task.state.is_final else None
        return _add_event(Change(task=decision.task, push=push, resolved=decision.resolved, cost=cost), routed)

    def _admit_pending(
        self, task: Task, pending: PendingPushes, push: Push, report: StatusReport
    ) -> Mapping[str, PushOutcome]:
        """Let a push wait for its confirmation. Return the outcomes of those that it replaces."""
        remembered = without_result(report)
        resolved = pending_pushes.admit_pending(task, pending, remembered, push.body)
        self._pending_reports.remember(push, remembered)
        return resolved

    def _decide_answer(self, incoming: Incoming, task: Task, pending: Sequence[Push]) -> Change:
        report, now = incoming.report, incoming.at
        decision = lifecycle.on_poll_answer(
            task, report, self._pending_reports.of(pending), now=now, poll=self._ends.policy(task)
        )
        push = self._new_push(incoming, task, decision.outcome)
        agrees = decision.outcome is not PushOutcome.MISMATCH and report.state == decision.task.state
        cost = report.cost if agrees and decision.task.state.is_final else None
        change = count_redundant(Change(task=decision.task, push=push, resolved=decision.resolved, cost=cost))
        if not decision.announce:
            return self._add_contradiction_alert(self._enforce_deadlines(change), contradicts=decision.contradicts)
        confirmed = decision.confirmed
        routed = self._event_factory.task_event(
            decision.task,
            report,
            incoming.task_body if confirmed is None else confirmed.body,
            source=Source.POLL if confirmed is None else Source.CALLBACK,
            verified=Verification.API,
            push_id=push.id if confirmed is None else confirmed.id,
            at=now,
        )
        return self._enforce_deadlines(_add_event(change, routed))

    def _add_contradiction_alert(self, change: Change, *, contradicts: bool) -> Change:
        """Add an alert if a final state was contradicted. The task says whether it was before, also on another node."""
        task = change.task
        if not contradicts or task is None:
            return change
        data = {
            "message": f"Kling now reports a final state other than {task.state}, which is kept. See its pushes.",
            "state": task.state.value,
        }
        return _add_event(change, self._event_factory.alert("task_contradicted", data, at=self._clock.now(), task=task))

    def _new_push(self, incoming: Incoming, task: Task, outcome: PushOutcome) -> Push:
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
        """Expire the task after `give_up_after`, or add one alert after `stuck_after`."""
        task, now = change.task, self._clock.now()
        if task is None:
            return change
        if poll_schedule.has_timed_out(task, now=now, poll=self._ends.policy(task)):
            task = lifecycle.expire(task, now=now)
            routed = self._event_factory.task_event(
                task, _EMPTY_REPORT, b"", source=Source.RECEIVER, verified=Verification.NONE, at=now
            )
        elif poll_schedule.is_stuck(task, now=now, poll=self._ends.policy(task)):
            task = poll_schedule.mark_stuck(task, now=now, poll=self._ends.policy(task))
            routed = self._event_factory.alert(
                "task_stuck", poll_schedule.stuck_alert(task, poll=self._ends.policy(task)), at=now, task=task
            )
        else:
            return change
        return _add_event(replace(change, task=task), routed)

    def _log(self, log_event: str, change: Change, incoming: Incoming) -> None:
        self._notify(change)
        measurements.record_callback(self._metrics, change, incoming)
        for event in change.events:
            if event.type == "alert.task_contradicted" and event.task_id is not None:
                log.warning("task.contradicted", task=event.task_id, status=incoming.report.raw_status)
        if (push := change.push) is not None:
            said = {"status": incoming.report.raw_status, "outcome": push.outcome.value}
            log.info(log_event, task=push.task_id, push=push.id, **said, signature=incoming.signature.value)

    def _notify(self, change: Change) -> None:
        if change.task is not None and change.task.state.is_final:
            self._ends.forget_running(change.task)
        measurements.record_ends(self._metrics, change)
        notify_workers(self._notifiers, change, now=self._clock.now())


class _BoundOtherwiseError(Exception):
    """A signed push names another task than the one that is bound; nothing was stored."""

    def __init__(self, task_id: str, kling_id: str | None) -> None:
        super().__init__(task_id)
        self.task_id = task_id
        self.kling_id = kling_id


def _add_event(change: Change, routed: RoutedEvent) -> Change:
    events, deliveries = (*change.events, routed.event), (*change.deliveries, *routed.deliveries)
    return replace(change, task=routed.task or change.task, events=events, deliveries=deliveries)
