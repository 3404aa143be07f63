"""Turns a change of a task into its event and the deliveries that routing says it wants."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from receiver.clock import Ids
from receiver.model import Delivery, DeliveryStatus, Event, Json, Reading, Source, Task, Verified
from receiver.payload import envelope, task_data
from receiver.routing import Candidate, Routing, reply_route


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An event and who is to hear of it."""

    event: Event
    deliveries: Sequence[Delivery]


class Announcer:
    """Makes events and asks the routes about them."""

    def __init__(self, routing: Routing, ids: Ids) -> None:
        self._routing = routing
        self._ids = ids

    def task_event(
        self,
        task: Task,
        reading: Reading,
        body: bytes,
        *,
        source: Source,
        verified: Verified,
        at: datetime,
        trusted: bool = True,
        push_id: str | None = None,
    ) -> Announcement:
        """Announce the state *task* has come to. *body* is what Kling wrote, *reading* what it says."""
        event_id = self._ids.new("evt")
        state = task.state if reading.state is None or task.state.is_final else reading.state
        data = task_data(
            task,
            event_id=event_id,
            state=state,
            message=task.message,
            source=source,
            verified=verified,
            result=reading.result,
        )
        event = Event(
            id=event_id,
            type=f"task.{state}",
            envelope=envelope(f"task.{state}", at, data),
            body=body,
            verified=verified,
            created_at=at,
            task_id=task.id,
            push_id=push_id,
        )
        routes = self._wanting(event, task.endpoint, data, trusted=trusted)
        if task.reply_to is not None and trusted and source in (Source.CALLBACK, Source.POLL):
            routes = [*routes, reply_route(task.reply_to)]
        return Announcement(event=event, deliveries=[self._delivery(event, route) for route in routes])

    def alert(self, what: str, data: Json, *, at: datetime, task: Task | None = None) -> Announcement:
        """Announce that something is wrong, or right again; *data* holds what a person needs to mend it."""
        event_id = self._ids.new("evt")
        data = {"event_id": event_id, **data}
        event = Event(
            id=event_id,
            type=f"alert.{what}",
            envelope=envelope(f"alert.{what}", at, data),
            body=b"",
            verified=Verified.NONE,
            created_at=at,
            task_id=None if task is None else task.id,
        )
        routes = self._wanting(event, None if task is None else task.endpoint, data, trusted=True)
        return Announcement(event=event, deliveries=[self._delivery(event, route) for route in routes])

    def _wanting(self, event: Event, endpoint: str | None, data: Json, *, trusted: bool) -> Sequence[str]:
        def whole() -> Json:
            return {**data, "kling": json.loads(event.body)} if event.body else data

        candidate = Candidate(type=event.type, endpoint=endpoint, trusted=trusted, data=whole)
        return [decision.route for decision in self._routing.decide(candidate) if decision.wanted]

    def _delivery(self, event: Event, route: str) -> Delivery:
        return Delivery(
            id=self._ids.new("dlv"),
            event_id=event.id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=event.created_at,
            due_at=event.created_at,
        )
