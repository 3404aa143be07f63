"""Turns a change of a task into its event and the deliveries that routing says it wants."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from receiver.domain.clock import Ids
from receiver.domain.model import (
    ArchiveState,
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
from receiver.events.routing import REPLY_PREFIX, Candidate, RouteTable, reply_route

MAX_ARCHIVE_WAIT = timedelta(hours=1)
"""How long a route waits for files at the longest: then it is told of a success without those that are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedEvent:
    """An event and who is to hear of it."""

    event: Event
    deliveries: Sequence[Delivery]


class EventFactory:
    """Makes events and asks the routes about them.

    With *archive* the routes that want a success are to be told when its results have been brought home.
    """

    def __init__(self, route_table: RouteTable, ids: Ids, *, archive: bool = False) -> None:
        self._route_table = route_table
        self._ids = ids
        self._archive = archive

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
        """Announce the state *task* has come to. *body* is what Kling wrote, *reading* what it says."""
        event_id = self._ids.new("evt")
        state = task.state if report.state is None or task.state.is_final else report.state
        data = task_data(
            task,
            event_id=event_id,
            state=state,
            message=task.message,
            source=source,
            verified=verified,
            result=report.result,
        )
        type_ = f"task.{state}"
        decisions = self._decide(type_, body, task.endpoint, data, trusted=trusted)
        # What nobody vouches for is fetched only if somebody wants it all the same.
        worth_it = trusted or any(decision.wanted for decision in decisions)
        awaited = self._archive and state is TaskState.SUCCEED and worth_it and bool(result_urls(report.result))
        if task.reply_to is not None:
            decisions.append(_decide_reply(task.reply_to, source, trusted=trusted))
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
            archiving=ArchiveState.PENDING if awaited else None,
        )
        return self._with_deliveries(event)

    def alert(self, name: str, data: Json, *, at: datetime, task: Task | None = None) -> RoutedEvent:
        """Announce that something is wrong, or right again; *data* holds what a person needs to mend it.

        Which *task* it is about is told as every event tells it.
        """
        return self._internal_event(f"alert.{name}", data, at=at, task=task)

    def batch_finished(self, data: Json, *, at: datetime) -> RoutedEvent:
        """Announce that all tasks of a batch are over; *data* tells of them."""
        return self._internal_event("batch.finished", data, at=at)

    def _internal_event(self, type_: str, data: Json, *, at: datetime, task: Task | None = None) -> RoutedEvent:
        """Announce what nobody told us in one body: we found it ourselves."""
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
        def whole() -> Json:
            return {**data, "kling": json.loads(body)} if body else data

        return list(self._route_table.decide(Candidate(type=type_, endpoint=endpoint, trusted=trusted, data=whole)))

    def _with_deliveries(self, event: Event) -> RoutedEvent:
        """Promise the event to each route that wants it."""
        wanted = [decision.route for decision in event.decisions if decision.wanted]
        return RoutedEvent(event=event, deliveries=[self._delivery(event, route) for route in wanted])

    def _delivery(self, event: Event, route: str) -> Delivery:
        """Promise the event to a route: at once, or when its files are there. A client's own URL never waits."""
        waits = event.archiving is ArchiveState.PENDING and not route.startswith(REPLY_PREFIX)
        return Delivery(
            id=self._ids.new("dlv"),
            event_id=event.id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=event.created_at,
            due_at=event.created_at + MAX_ARCHIVE_WAIT if waits else event.created_at,
        )


def _decide_reply(url: str, source: Source, *, trusted: bool) -> RouteDecision:
    """Decide whether the client's own callback URL gets an event: what Kling said, as far as it is believed."""
    if source is Source.SUBMIT:
        reason = "the client had it as the answer to its own call"
    elif source is Source.RECEIVER:
        reason = "it is a finding of ours, and the client expects Kling's own words"
    elif not trusted:
        reason = "nobody can confirm the event"
    else:
        return RouteDecision(
            route=reply_route(url), wanted=True, reason="the client asked for it with its callback_url"
        )
    return RouteDecision(route=reply_route(url), wanted=False, reason=reason)
