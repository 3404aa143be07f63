"""Writes down what came of a create: bound to Kling's id, queued again, rejected, to be looked up, or unknown.

And where a person would rather that there be none, that it was cancelled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from receiver.domain.clock import Clock, iso
from receiver.domain.model import Json, Origin, Push, Reading, Source, Task, TaskState, Verified
from receiver.domain.notifier import Bells
from receiver.domain.replays import Action
from receiver.events.factory import Announcer
from receiver.kling import protocol
from receiver.kling.shortened import shortened
from receiver.settings import PollSettings
from receiver.store.interfaces import ById, Change, Intake
from receiver.tasks import lifecycle

log = structlog.get_logger()

_UNDECIDED = (TaskState.QUEUED, TaskState.SUBMITTING)
_NOTHING_READ = Reading(state=None)
_NAMELESS = "Kling's answer names no task, so there is none to follow; should it call back all the same, that counts."


class Outcomes:
    """Changes tasks whose create has ended. One that callbacks have moved on in the meantime is left where it is.

    ``awaited`` are those whose create this process is making: whatever the clock says, its answer is yet to come.
    """

    def __init__(self, intake: Intake, announcer: Announcer, *, poll: PollSettings, bells: Bells, clock: Clock) -> None:
        self._intake = intake
        self._announcer = announcer
        self._poll = poll
        self._bells = bells
        self._clock = clock
        self.awaited: set[str] = set()

    async def bound(self, task: Task, reading: Reading, *, intent: bytes, news: bool = False) -> Task:
        """Bind Kling's id; *news* says that there may be more to hear, so that it is asked for at once.

        Of the *intent* no more is kept than people want to see.
        """
        now = self._clock.now()
        slim = shortened(intent)

        def judge(held: Task, pending: Sequence[Push]) -> Change:
            bound = lifecycle.bind(held, reading, awaited=news or bool(pending), now=now, poll=self._poll)
            return Change(task=bound, intent=slim)

        kept = await self._apply(task, judge, with_pending=True)
        self._bells.tasks.ring()
        log.info("task.submitted", task=task.id, kling_id=reading.kling_id, endpoint=task.endpoint)
        return kept

    async def queued(self, task: Task, message: str, *, until: datetime) -> Task:
        """Put a task back, to be sent *until* then at the earliest; *message* tells people why it waits."""
        now = self._clock.now()
        return await self._undecided(
            task, lambda held: Change(task=lifecycle.queue_again(held, message, now=now, until=until))
        )

    async def open(self, task: Task, message: str, *, wait: timedelta) -> Task:
        """Have a task looked up (again) that Kling may have made."""
        now = self._clock.now()
        until = now + wait
        kept = await self._undecided(
            task, lambda held: Change(task=lifecycle.look_again(held, message, now=now, until=until))
        )
        self._bells.tasks.ring()
        return kept

    async def rejected(self, task: Task, message: str, body: bytes = b"") -> Task:
        """End a task that Kling did not make; *body* is what it answered."""
        now = self._clock.now()
        log.warning("task.rejected", task=task.id, reason=message)
        kept = await self._undecided(task, lambda held: self._rejection(held, message, body, now))
        self._bells.ring()
        return kept

    async def cancelled(self, task_id: str, action: Action) -> Task | None:
        """End a task that waits to be sent, on a person's word; give it as it is then, None where there is none.

        One that waits no more is left as it is: Kling may have it.
        """
        message = f"{lifecycle.CANCELLED} by {action.actor}{f': {action.note}' if action.note else '.'}"

        def judge(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.QUEUED:
                return Change(task=held)
            ended = self._rejection(held, message, b"", action.at, source=Source.RECEIVER, verified=Verified.NONE)
            return replace(ended, action=action)

        change = await self._intake.apply(ById(id=task_id), judge)
        if change is None:
            return None
        if change.action is not None:
            log.warning("task.cancelled", task=task_id, actor=action.actor, why=action.note)
            self._bells.ring()
        return change.task

    def _rejection(
        self,
        held: Task,
        message: str,
        body: bytes,
        now: datetime,
        *,
        source: Source = Source.SUBMIT,
        verified: Verified = Verified.API,
    ) -> Change:
        rejected = lifecycle.reject(held, message, now=now)
        said = self._announcer.task_event(
            rejected,
            _NOTHING_READ,
            body if protocol.is_object(body) else b"",
            source=source,
            verified=verified,
            at=now,
        )
        return Change(task=rejected, events=(said.event,), deliveries=said.deliveries)

    async def nameless(self, task: Task, body: bytes, *, intent: bytes) -> Task:
        """Take in that Kling took a call at an endpoint we do not know, and that its answer, *body*, names no task.

        It has probably made none. A client of the gateway has its answer; whoever else waits for a result, or a batch
        does, is told.
        """
        now, slim = self._clock.now(), shortened(intent)
        log.info("task.unnamed", task=task.id, endpoint=task.endpoint)

        def change(held: Task) -> Change:
            if held.kling_id is not None:  # named by a callback, which was quicker
                bound = lifecycle.bind(held, _NOTHING_READ, awaited=True, now=now, poll=self._poll)
                return Change(task=bound, intent=slim)
            if held.origin is Origin.API or held.batch is not None:
                return self._rejection(held, _NAMELESS, body, now)
            return Change(task=lifecycle.leave_open(held, _NAMELESS, now=now), intent=slim)

        kept = await self._undecided(task, change)
        self._bells.ring()
        return kept

    async def unknown(self, task: Task, why: str) -> Task:
        """Give up on a task that nobody can tell whether Kling made it, and raise the alarm: it may have been paid.

        Sent again it might be paid twice, so that is left to a person. Should a callback come yet, it counts.
        """
        now = self._clock.now()
        log.error("task.unknown", task=task.id, reason=why)

        def change(held: Task) -> Change:
            message = f"{lifecycle.UNKNOWN}: Kling may have made this task or not. {why}"
            lost = lifecycle.expire(held, now=now, message=message)
            said = self._announcer.task_event(
                lost, _NOTHING_READ, b"", source=Source.RECEIVER, verified=Verified.NONE, at=now
            )
            alert = self._announcer.alert("submit_unknown", _doubts(lost, why), at=now, task=lost)
            return Change(task=lost, events=(said.event, alert.event), deliveries=(*said.deliveries, *alert.deliveries))

        kept = await self._undecided(task, change)
        self._bells.ring()
        return kept

    async def _undecided(self, task: Task, change: Callable[[Task], Change]) -> Task:
        def judge(held: Task, _: Sequence[Push]) -> Change:
            return change(held) if held.state in _UNDECIDED else Change(task=held)

        return await self._apply(task, judge)

    async def _apply(
        self, task: Task, judge: Callable[[Task, Sequence[Push]], Change], *, with_pending: bool = False
    ) -> Task:
        change = await self._intake.apply(ById(id=task.id), judge, with_pending=with_pending)
        return task if change is None or change.task is None else change.task


def _doubts(task: Task, why: str) -> Json:
    sent_at = iso(task.started_at or task.created_at)
    return {
        "message": f"Task {task.id} was sent at {sent_at} and nobody can tell whether Kling made it. {why}",
        "remedy": (
            f"Look at Kling's console, or your gateway's, for a task on {task.endpoint} made at about {sent_at}. "
            "If there is none, submit it again, under another idempotency key if it has one. "
            "If there is one, its result still counts here should its callback come."
        ),
        "sent_at": sent_at,
    }
