"""Sends a test task through every step: stored, routed and delivered, marked as a test, never billed.

No callback and no poll can touch it: it has no token, it is never due, and Kling does not know its id.
"""

from collections.abc import Mapping
from datetime import datetime

from msgspec.structs import replace

from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import InvalidRequest
from receiver.domain.model import EndReason, Event, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.events.samples import DEFAULT_ENDPOINT, a_task, task_event
from receiver.store.interfaces import ById, Change, TaskStore

_WAY: Mapping[TaskState, tuple[TaskState, ...]] = {
    TaskState.SUBMITTED: (TaskState.SUBMITTED,),
    TaskState.PROCESSING: (TaskState.SUBMITTED, TaskState.PROCESSING),
    TaskState.SUCCEED: (TaskState.SUBMITTED, TaskState.PROCESSING, TaskState.SUCCEED),
    TaskState.FAILED: (TaskState.SUBMITTED, TaskState.PROCESSING, TaskState.FAILED),
    TaskState.EXPIRED: (TaskState.SUBMITTED, TaskState.PROCESSING, TaskState.EXPIRED),
    TaskState.REJECTED: (TaskState.REJECTED,),
}
"""The states that a task goes through on its way to a state, each with an event."""


class TriggerService:
    """Makes test tasks."""

    def __init__(
        self, store: TaskStore, event_factory: EventFactory, *, notifiers: Notifiers, clock: Clock, ids: Ids
    ) -> None:
        self._store = store
        self._event_factory = event_factory
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids

    async def trigger(
        self,
        state: TaskState,
        *,
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Task:
        """Send a test task through all states up to *state*, and return it. Raises InvalidRequest."""
        if state not in _WAY:
            raise InvalidRequest(
                f"A test task cannot reach the state {state.value!r}.", remedy=f"Use one of: {', '.join(_WAY)}."
            )
        now = self._clock.now()
        task = a_task(state, ids=self._ids, at=now, endpoint=endpoint or DEFAULT_ENDPOINT)
        task = replace(task, label=label or task.label, tags={**(tags or {}), **task.tags})
        routed = [self._event_factory.sample(self._event(task, each, now), task) for each in _WAY[state]]
        # A task that only reaches a running state would run for ever, so it is stored as expired, without an event.
        is_final = state not in (TaskState.SUBMITTED, TaskState.PROCESSING)
        stored = task if is_final else replace(task, state=TaskState.EXPIRED, end_reason=EndReason.TIMED_OUT)
        await self._store.add(stored, b"")
        change = Change(
            events=[each.event for each in routed],
            deliveries=[delivery for each in routed for delivery in each.deliveries],
        )
        await self._store.apply(ById(id=task.id), lambda *_: change)
        self._notifiers.events.notify()
        self._notifiers.deliveries.notify()
        return stored

    def _event(self, task: Task, state: TaskState, at: datetime) -> Event:
        return task_event(replace(task, state=state, updated_at=at), ids=self._ids)
