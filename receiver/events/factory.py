"""Makes an event from a task's change, and one delivery for each route that matches."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from receiver.domain.clock import Ids
from receiver.domain.model import (
    ALERT_PREFIX,
    ArchiveState,
    ClientCallbacks,
    Delivery,
    DeliveryStatus,
    Event,
    Json,
    RouteDecision,
    Source,
    StatusReport,
    Task,
    TaskState,
    Verification,
)
from receiver.events.payload import envelope, result_urls, task_data, task_summary
from receiver.events.replies import REPLY_PREFIX, decide_reply
from receiver.events.routing import Candidate, RouteTable

MAX_ARCHIVE_WAIT = timedelta(hours=1)
"""The longest time that a route waits for archived files. Then it receives the success without the missing ones."""


class RoutedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event and its deliveries. ``task`` is the task as it must be stored with them, None for other events."""

    event: Event
    deliveries: Sequence[Delivery]
    task: Task | None = None


class EventFactory:
    """Makes events and decides which routes receive them.

    With *archive* a success is delivered once its results are archived.
    """

    def __init__(self, route_table: RouteTable, ids: Ids, *, archive: bool = False) -> None:
        self._route_table = route_table
        self._ids = ids
        self._archive = archive

    def replace_routes(self, route_table: RouteTable) -> None:
        """Decide about later events by *route_table*."""
        self._route_table = route_table

    def task_event(
        self,
        task: Task,
        report: StatusReport,
        body: bytes,
        *,
        source: Source,
        verified: Verification,
        at: datetime,
        trusted: bool = True,
        push_id: str | None = None,
    ) -> RoutedEvent:
        """Return the event for the new state of *task*. *body* is Kling's own JSON, *report* is what it reports."""
        event_id = self._ids.new("evt")
        state = task.state if report.state is None or task.state.is_final else report.state
        data = task_data(task, event_id=event_id, state=state, source=source, verified=verified, result=report.result)
        type_ = f"task.{state}"
        decisions = self._decide(type_, body, task.endpoint, data, trusted=trusted)
        if task.reply_to is not None:
            reply = decide_reply(task, task.reply_to, state, source, trusted=trusted)
            decisions.append(reply)
            task = _with_reply(task, reply)
        event = Event(
            id=event_id,
            type=type_,
            envelope=envelope(type_, at, data),
            body=body,
            verified=verified,
            created_at=at,
            task_id=task.id,
            push_id=push_id,
            decisions=tuple(decisions),
            archiving=self._archive_state(state, report, is_wanted=trusted or _is_wanted(decisions)),
        )
        return RoutedEvent(event=event, deliveries=self._deliveries(event), task=task)

    def alert(self, name: str, data: Json, *, at: datetime, task: Task | None = None) -> RoutedEvent:
        """Return an alert. *data* is what the operator needs to fix it; *task* is summarized as in every event."""
        return self._internal_event(ALERT_PREFIX + name, data, at=at, task=task)

    def sample(self, event: Event, task: Task) -> RoutedEvent:
        """Return the event of a test task, routed like a real one that is trusted. Nothing is archived."""
        data: Json = json.loads(event.envelope)["data"]
        decisions = self._decide(event.type, event.body, task.endpoint, data, trusted=True)
        return self._with_deliveries(replace(event, decisions=tuple(decisions)))

    def batch_finished(self, data: Json, *, at: datetime) -> RoutedEvent:
        """Return the event that all tasks of a batch are finished."""
        return self._internal_event("batch.finished", data, at=at)

    def daily_report(self, data: Json, *, at: datetime) -> RoutedEvent:
        """Return the event with the daily report."""
        return self._internal_event("report.daily", data, at=at)

    def _internal_event(self, type_: str, data: Json, *, at: datetime, task: Task | None = None) -> RoutedEvent:
        """Return an event of the receiver itself, without a body from Kling."""
        event_id = self._ids.new("evt")
        data = {"event_id": event_id, **data} | ({} if task is None else {"task": task_summary(task)})
        endpoint = None if task is None else task.endpoint
        event = Event(
            id=event_id,
            type=type_,
            envelope=envelope(type_, at, data),
            body=b"",
            verified=Verification.NONE,
            created_at=at,
            task_id=None if task is None else task.id,
            decisions=tuple(self._decide(type_, b"", endpoint, data, trusted=True)),
        )
        return self._with_deliveries(event)

    def _decide(
        self, type_: str, body: bytes, endpoint: str | None, data: Json, *, trusted: bool
    ) -> list[RouteDecision]:
        def full_data() -> Json:
            return {**data, "kling": json.loads(body)} if body else data

        return list(self._route_table.decide(Candidate(type=type_, endpoint=endpoint, trusted=trusted, data=full_data)))

    def _archive_state(self, state: TaskState, report: StatusReport, *, is_wanted: bool) -> ArchiveState | None:
        """Return whether results are to be archived. Those of an untrusted report are, if a route accepts it anyway."""
        if not (self._archive and is_wanted and state is TaskState.SUCCEED):
            return None
        return ArchiveState.PENDING if result_urls(report.result) else None

    def _with_deliveries(self, event: Event) -> RoutedEvent:
        return RoutedEvent(event=event, deliveries=self._deliveries(event))

    def _deliveries(self, event: Event) -> Sequence[Delivery]:
        """Return a delivery for each matching route."""
        return [self._delivery(event, decision.route) for decision in event.decisions if decision.wanted]

    def _delivery(self, event: Event, route: str) -> Delivery:
        """Return a delivery that is due now, or once the files are archived. A client's own URL never waits."""
        waits = event.archiving is ArchiveState.PENDING and not route.startswith(REPLY_PREFIX)
        return Delivery(
            id=self._ids.new("dlv"),
            event_id=event.id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=event.created_at,
            due_at=event.created_at + MAX_ARCHIVE_WAIT if waits else event.created_at,
        )


def _with_reply(task: Task, reply: RouteDecision) -> Task:
    """Return the task after its client's URL receives an event: with ``final`` it receives no other."""
    is_end = reply.wanted and task.client_callbacks is ClientCallbacks.FINAL
    return replace(task, client_callbacks=ClientCallbacks.ENDED) if is_end else task


def _is_wanted(decisions: Sequence[RouteDecision]) -> bool:
    return any(decision.wanted for decision in decisions)
