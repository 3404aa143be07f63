"""Records the result of a create: bound to Kling's id, requeued, rejected, to be looked up, or unknown.

It also records that an operator cancelled a queued task.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec.structs import replace

from receiver.domain.audit import AuditEntry
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, iso
from receiver.domain.model import EndReason, Json, Origin, Push, Source, StatusReport, Task, TaskState, Verification
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.kling import protocol
from receiver.kling.raw_json import truncate_strings
from receiver.store.interfaces import ById, Change, TaskStore
from receiver.submission.outcome import wait_for_outcome
from receiver.tasks import lifecycle, submit_lifecycle
from receiver.tasks.expected_ends import ExpectedEnds

log = structlog.get_logger()

_CREATE_PENDING = (TaskState.QUEUED, TaskState.SUBMITTING)
_MAX_REMEMBERED = 10_000
_MAX_ABSENT = _MAX_FOUND = 1000
_EMPTY_REPORT = StatusReport(state=None)
_UNNAMED = "Kling's answer contains no task id, so the task cannot be polled. A later callback is still accepted."


class WatchedTask(msgspec.Struct, eq=False):
    """A task that a caller waits for: as it was recorded last, or None."""

    latest: Task | None = None
    recorded: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class CreateRecorder:
    """Updates tasks whose create has ended. A task that a callback has already updated keeps its state.

    ``in_flight`` are the tasks whose create this process is making. Their answers are still to come, even if their
    leases have ended because the clock was set. ``begun_at`` says when the last create of a task began, on the
    monotonic clock. ``absent`` are tasks with a lost answer that Kling does not know. They are looked up again for a
    while, but hold no slot: Kling refuses a create too many, while an idle slot would wait for the last lookup.
    ``found`` are tasks that a lookup has bound, until the executor counts them.
    """

    def __init__(
        self,
        task_store: TaskStore,
        event_factory: EventFactory,
        *,
        ends: ExpectedEnds,
        notifiers: Notifiers,
        clock: Clock,
    ) -> None:
        self._task_store = task_store
        self._event_factory = event_factory
        self._ends = ends
        self._notifiers = notifiers
        self._clock = clock
        self.in_flight: set[str] = set()
        self.begun_at: BoundedDict[str, float] = BoundedDict(_MAX_REMEMBERED)
        self.absent: BoundedDict[str, None] = BoundedDict(_MAX_ABSENT)
        self.found: BoundedDict[str, Task] = BoundedDict(_MAX_FOUND)
        self._watched: dict[str, WatchedTask] = {}

    def forget_creates(self) -> None:
        """Forget when creates began, except those in flight: another process may have begun newer ones."""
        kept = {task_id: begun_at for task_id, begun_at in self.begun_at.items() if task_id in self.in_flight}
        self.absent.clear()
        self.begun_at.clear()
        self.begun_at.update(kept)

    @contextmanager
    def watched(self, task_id: str) -> Iterator[WatchedTask]:
        """Watch what is recorded about a task."""
        self._watched[task_id] = WatchedTask()
        try:
            yield self._watched[task_id]
        finally:
            del self._watched[task_id]

    async def outcome(self, task: Task, *, limit: timedelta) -> Task:
        """Return a task that another process submits when Kling has answered, when it has to wait, or after *limit*."""
        self._notifiers.tasks.notify()
        notifier, clock = self._notifiers.tasks, self._clock
        return await wait_for_outcome(self._task_store, task, notifier=notifier, clock=clock, limit=limit)

    async def bind(self, task: Task, report: StatusReport, *, intent: bytes, poll_now: bool = False) -> Task:
        """Bind Kling's id. With *poll_now* the task is polled at once, because its state may have changed.

        The long strings of *intent* are truncated, because from now on only people read it.
        """
        now, slim = self._clock.now(), _shortened(intent)

        def decide(held: Task, pending: Sequence[Push]) -> Change:
            bound = submit_lifecycle.bind(
                held, report, poll_now=poll_now or bool(pending), now=now, poll=self._ends.policy(held)
            )
            return Change(task=bound, intent=slim)

        kept = await self._apply(task, decide, with_pending=True)
        if poll_now:
            self.found[task.id] = kept
        self._notifiers.tasks.notify()
        if kept.due_at is not None:
            self._notifiers.polls.notify_due(kept.due_at, now=now)
        log.info("task.submitted", task=task.id, kling_id=report.kling_id, endpoint=task.endpoint)
        return kept

    async def requeue(self, task: Task, message: str, *, until: datetime) -> Task:
        """Return a task to the queue, to be sent not before *until*; *message* is the reason for people."""
        now = self._clock.now()
        self.absent.pop(task.id, None)
        return await self._apply_if_create_pending(
            task, lambda held: Change(task=submit_lifecycle.requeue(held, message, now=now, due_at=until))
        )

    async def schedule_lookup(self, task: Task, message: str, *, wait: timedelta, is_absent: bool = False) -> Task:
        """Schedule a lookup of a task that Kling may have created, even if it *is_absent* now."""
        now = self._clock.now()
        until = now + wait
        self.absent.pop(task.id, None)
        if is_absent:
            self.absent[task.id] = None
        kept = await self._apply_if_create_pending(
            task, lambda held: Change(task=submit_lifecycle.schedule_lookup(held, message, now=now, lookup_at=until))
        )
        self._notifiers.tasks.notify()
        self._notifiers.lookups.notify_due(until, now=now)
        return kept

    async def reject(self, task: Task, message: str, body: bytes = b"") -> Task:
        """Reject a task that Kling did not create; *body* is Kling's answer."""
        now = self._clock.now()
        log.warning("task.rejected", task=task.id, reason=message)
        kept = await self._apply_if_create_pending(task, lambda held: self._rejection(held, message, body, now))
        self._notifiers.notify_all()
        return kept

    async def withdraw(self, task: Task, message: str) -> bool:
        """Reject a queued task whose client no longer waits. Return whether it is rejected, now or already."""
        now = self._clock.now()

        def decide(held: Task, _: Sequence[Push]) -> Change:
            return self._rejection(held, message, b"", now) if held.state is TaskState.QUEUED else Change(task=held)

        change = await self._task_store.apply(ById(id=task.id), decide)
        if change is not None and change.events:
            log.info("create.withdrawn", task=task.id, reason=message)
            self._notifiers.notify_all()
        return change is None or (change.task is not None and change.task.state is TaskState.REJECTED)

    async def cancel(self, task_id: str, action: AuditEntry) -> Task | None:
        """Cancel a queued task for an operator. Return the task after that, or None if it does not exist.

        A task that is no longer queued is not changed, because Kling may have it.
        """
        message = f"cancelled by {action.actor}{f': {action.reason}' if action.reason else '.'}"

        def decide(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.QUEUED:
                return Change(task=held)
            ended = self._rejection(
                held,
                message,
                b"",
                action.at,
                source=Source.RECEIVER,
                verified=Verification.NONE,
                end_reason=EndReason.CANCELLED,
            )
            return replace(ended, action=action)

        change = await self._task_store.apply(ById(id=task_id), decide)
        if change is None:
            return None
        if change.action is not None:
            log.warning("task.cancelled", task=task_id, actor=action.actor, why=action.reason)
            self._notifiers.notify_all()
        return change.task

    def _rejection(
        self,
        current: Task,
        message: str,
        body: bytes,
        now: datetime,
        *,
        source: Source = Source.SUBMIT,
        verified: Verification = Verification.API,
        end_reason: EndReason = EndReason.REFUSED,
    ) -> Change:
        rejected = submit_lifecycle.reject(current, message, now=now, end_reason=end_reason)
        said = self._event_factory.task_event(
            rejected,
            _EMPTY_REPORT,
            body if protocol.is_object(body) else b"",
            source=source,
            verified=verified,
            at=now,
        )
        return Change(task=said.task, events=(said.event,), deliveries=said.deliveries)

    async def record_unnamed(self, task: Task, body: bytes, *, intent: bytes) -> Task:
        """Record that Kling accepted a create on an unlisted endpoint, and that its answer, *body*, has no task id.

        Kling has probably created no task. A gateway client has the answer. A task of the API or of a batch is
        rejected, so that an event is sent.
        """
        now, slim = self._clock.now(), _shortened(intent)
        log.info("task.unnamed", task=task.id, endpoint=task.endpoint)

        def change(held: Task) -> Change:
            if held.kling_id is not None:  # a callback that arrived first had the id
                bound = submit_lifecycle.bind(held, _EMPTY_REPORT, poll_now=True, now=now, poll=self._ends.policy(held))
                return Change(task=bound, intent=slim)
            if held.origin is Origin.API or held.batch is not None:
                return self._rejection(held, _UNNAMED, body, now)
            return Change(task=submit_lifecycle.await_first_callback(held, _UNNAMED, now=now), intent=slim)

        kept = await self._apply_if_create_pending(task, change)
        self._notifiers.notify_all()
        return kept

    async def record_unknown(self, task: Task, reason: str) -> Task:
        """Expire a task for which it cannot be determined whether Kling created it, and raise an alert.

        The task may have been billed, and a repeated create might be billed again, so an operator must decide. A later
        callback is still accepted.
        """
        now = self._clock.now()
        log.error("task.unknown", task=task.id, reason=reason)

        def change(held: Task) -> Change:
            message = f"unknown: Kling may have created this task or not. {reason}"
            lost = lifecycle.expire(held, now=now, message=message, end_reason=EndReason.UNKNOWN)
            said = self._event_factory.task_event(
                lost, _EMPTY_REPORT, b"", source=Source.RECEIVER, verified=Verification.NONE, at=now
            )
            alert = self._event_factory.alert("submit_unknown", _unknown_alert(lost, reason), at=now, task=lost)
            return Change(
                task=said.task, events=(said.event, alert.event), deliveries=(*said.deliveries, *alert.deliveries)
            )

        kept = await self._apply_if_create_pending(task, change)
        self._notifiers.notify_all()
        return kept

    async def _apply_if_create_pending(self, task: Task, change: Callable[[Task], Change]) -> Task:
        def decide(held: Task, _: Sequence[Push]) -> Change:
            # A process that lost its duty may record late, when another one makes the next attempt at the create.
            is_same = held.queueing.attempts == task.queueing.attempts
            return change(held) if held.state in _CREATE_PENDING and is_same else Change(task=held)

        return await self._apply(task, decide)

    async def _apply(
        self, task: Task, decide: Callable[[Task, Sequence[Push]], Change], *, with_pending: bool = False
    ) -> Task:
        change = await self._task_store.apply(ById(id=task.id), decide, with_pending=with_pending)
        kept = task if change is None or change.task is None else change.task
        if watched := self._watched.get(task.id):
            watched.latest = kept
            watched.recorded.set()
        return kept


def _shortened(intent: bytes) -> bytes | None:
    """Return what is kept of a body that Kling has, or None if that is all of it."""
    slim = truncate_strings(intent)
    return None if slim == intent else slim


def _unknown_alert(task: Task, reason: str) -> Json:
    sent_at = iso(task.started_at or task.created_at)
    return {
        "message": f"Task {task.id} was sent at {sent_at}. It is unknown whether Kling created it. {reason}",
        "remedy": (
            f"Look in Kling's or your gateway's console for a task on {task.endpoint} created at about {sent_at}. "
            "If there is none, submit it again, with another idempotency key if it has one. "
            "If there is one, its callback is still accepted here."
        ),
        "sent_at": sent_at,
    }
