"""Writes down what came of a create: bound to Kling's id, queued again, rejected, to be looked up, or unknown.

And where a person would rather that there be none, that it was cancelled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, iso
from receiver.domain.model import EndReason, Json, Origin, Push, Source, StatusReport, Task, TaskState, Verification
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.kling import protocol
from receiver.kling.raw_json import truncate_strings
from receiver.settings import PollSettings
from receiver.store.interfaces import ById, Change, TaskStore
from receiver.tasks import lifecycle, submit_lifecycle

log = structlog.get_logger()

_CREATE_PENDING = (TaskState.QUEUED, TaskState.SUBMITTING)
_EMPTY_REPORT = StatusReport(state=None)
_UNNAMED = "Kling's answer names no task, so there is none to follow; should it call back all the same, that counts."


class CreateRecorder:
    """Changes tasks whose create has ended. One that callbacks have moved on in the meantime is left where it is.

    ``awaited`` are those whose create this process is making: whatever the clock says, its answer is yet to come.
    """

    def __init__(
        self,
        task_store: TaskStore,
        event_factory: EventFactory,
        *,
        poll: PollSettings,
        notifiers: Notifiers,
        clock: Clock,
    ) -> None:
        self._task_store = task_store
        self._event_factory = event_factory
        self._poll = poll
        self._notifiers = notifiers
        self._clock = clock
        self.in_flight: set[str] = set()

    async def bind(self, task: Task, report: StatusReport, *, intent: bytes, poll_now: bool = False) -> Task:
        """Bind Kling's id; *news* says that there may be more to hear, so that it is asked for at once.

        Of the *intent* no more is kept than people want to see.
        """
        now = self._clock.now()
        slim = truncate_strings(intent)

        def decide(held: Task, pending: Sequence[Push]) -> Change:
            bound = submit_lifecycle.bind(held, report, poll_now=poll_now or bool(pending), now=now, poll=self._poll)
            return Change(task=bound, intent=slim)

        kept = await self._apply(task, decide, with_pending=True)
        self._notifiers.tasks.notify()
        log.info("task.submitted", task=task.id, kling_id=report.kling_id, endpoint=task.endpoint)
        return kept

    async def requeue(self, task: Task, message: str, *, until: datetime) -> Task:
        """Put a task back, to be sent *until* then at the earliest; *message* tells people why it waits."""
        now = self._clock.now()
        return await self._apply_if_create_pending(
            task, lambda held: Change(task=submit_lifecycle.requeue(held, message, now=now, due_at=until))
        )

    async def schedule_lookup(self, task: Task, message: str, *, wait: timedelta) -> Task:
        """Have a task looked up (again) that Kling may have made."""
        now = self._clock.now()
        until = now + wait
        kept = await self._apply_if_create_pending(
            task, lambda held: Change(task=submit_lifecycle.schedule_lookup(held, message, now=now, lookup_at=until))
        )
        self._notifiers.tasks.notify()
        return kept

    async def reject(self, task: Task, message: str, body: bytes = b"") -> Task:
        """End a task that Kling did not make; *body* is what it answered."""
        now = self._clock.now()
        log.warning("task.rejected", task=task.id, reason=message)
        kept = await self._apply_if_create_pending(task, lambda held: self._rejection(held, message, body, now))
        self._notifiers.notify_all()
        return kept

    async def cancel(self, task_id: str, action: AuditEntry) -> Task | None:
        """End a task that waits to be sent, on a person's word; give it as it is then, None where there is none.

        One that waits no more is left as it is: Kling may have it.
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
        return Change(task=rejected, events=(said.event,), deliveries=said.deliveries)

    async def record_unnamed(self, task: Task, body: bytes, *, intent: bytes) -> Task:
        """Take in that Kling took a call at an endpoint we do not know, and that its answer, *body*, names no task.

        It has probably made none. A client of the gateway has its answer; whoever else waits for a result, or a batch
        does, is told.
        """
        now, slim = self._clock.now(), truncate_strings(intent)
        log.info("task.unnamed", task=task.id, endpoint=task.endpoint)

        def change(held: Task) -> Change:
            if held.kling_id is not None:  # named by a callback, which was quicker
                bound = submit_lifecycle.bind(held, _EMPTY_REPORT, poll_now=True, now=now, poll=self._poll)
                return Change(task=bound, intent=slim)
            if held.origin is Origin.API or held.batch is not None:
                return self._rejection(held, _UNNAMED, body, now)
            return Change(task=submit_lifecycle.await_first_callback(held, _UNNAMED, now=now), intent=slim)

        kept = await self._apply_if_create_pending(task, change)
        self._notifiers.notify_all()
        return kept

    async def record_unknown(self, task: Task, reason: str) -> Task:
        """Give up on a task that nobody can tell whether Kling made it, and raise the alarm: it may have been paid.

        Sent again it might be paid twice, so that is left to a person. Should a callback come yet, it counts.
        """
        now = self._clock.now()
        log.error("task.unknown", task=task.id, reason=reason)

        def change(held: Task) -> Change:
            message = f"unknown: Kling may have made this task or not. {reason}"
            lost = lifecycle.expire(held, now=now, message=message, end_reason=EndReason.UNKNOWN)
            said = self._event_factory.task_event(
                lost, _EMPTY_REPORT, b"", source=Source.RECEIVER, verified=Verification.NONE, at=now
            )
            alert = self._event_factory.alert("submit_unknown", _unknown_alert(lost, reason), at=now, task=lost)
            return Change(task=lost, events=(said.event, alert.event), deliveries=(*said.deliveries, *alert.deliveries))

        kept = await self._apply_if_create_pending(task, change)
        self._notifiers.notify_all()
        return kept

    async def _apply_if_create_pending(self, task: Task, change: Callable[[Task], Change]) -> Task:
        def decide(held: Task, _: Sequence[Push]) -> Change:
            return change(held) if held.state in _CREATE_PENDING else Change(task=held)

        return await self._apply(task, decide)

    async def _apply(
        self, task: Task, decide: Callable[[Task, Sequence[Push]], Change], *, with_pending: bool = False
    ) -> Task:
        change = await self._task_store.apply(ById(id=task.id), decide, with_pending=with_pending)
        return task if change is None or change.task is None else change.task


def _unknown_alert(task: Task, reason: str) -> Json:
    sent_at = iso(task.started_at or task.created_at)
    return {
        "message": f"Task {task.id} was sent at {sent_at} and nobody can tell whether Kling made it. {reason}",
        "remedy": (
            f"Look at Kling's console, or your gateway's, for a task on {task.endpoint} made at about {sent_at}. "
            "If there is none, submit it again, under another idempotency key if it has one. "
            "If there is one, its result still counts here should its callback come."
        ),
        "sent_at": sent_at,
    }
