"""A task's whole story over HTTP."""

import json

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import Clock, iso
from receiver.domain.model import Event, Json
from receiver.domain.replays import Action
from receiver.tasks.explain import MEANINGS, Arrival, Errand, Explainer, Story
from receiver.web import serializers
from receiver.web.params import Query

_EXCERPT = 16 * 1024


class ExplainApi:
    """Answers ``/api/tasks/{ref}/explain``."""

    def __init__(self, explainer: Explainer, *, clock: Clock) -> None:
        self._explainer = explainer
        self._clock = clock

    async def show(self, request: Request) -> Response:
        """Tell all that is kept about a task, oldest first, and what comes next."""
        Query(request, paged=False)
        return serializers.answer(self._tell(await self._explainer.explain(request.path_params["ref"])))

    def _tell(self, story: Story) -> Json:
        return {
            "task": serializers.task(story.task),
            "intent": story.intent,
            "pushes": [_arrival(arrival) for arrival in story.arrivals],
            "events": [
                _event(event)
                | {"deliveries": [self._errand(e) for e in story.errands if e.delivery.event_id == event.id]}
                for event in story.events
            ],
            "actions": [_action(action) for action in story.actions],
            "next": story.outlook,
        }

    def _errand(self, errand: Errand) -> Json:
        delivery = serializers.delivery(errand.view, now=self._clock.now())
        return {**delivery, "attempts_made": [serializers.attempt(attempt) for attempt in errand.attempts]}


def _arrival(arrival: Arrival) -> Json:
    push, reading = arrival.push, arrival.reading
    body = push.body or b""
    return {
        "id": push.id,
        "source": push.source.value,
        "received_at": iso(push.received_at),
        "outcome": push.outcome.value,
        "meaning": MEANINGS[push.outcome],
        "status": None if reading is None else reading.word,
        "message": "" if reading is None else reading.message,
        "body": body[:_EXCERPT].decode("utf-8", "replace") if body else None,
        "bytes": len(body),
    }


def _event(event: Event) -> Json:
    data = json.loads(event.envelope)["data"]
    return {
        "id": event.id,
        "type": event.type,
        "created_at": iso(event.created_at),
        "source": data.get("source"),
        "verified": event.verified.value,
        "message": data.get("message", ""),
        "push_id": event.push_id,
        "decisions": [
            {"route": decision.route, "wanted": decision.wanted, "reason": decision.reason}
            for decision in event.decisions
        ],
    }


def _action(action: Action) -> Json:
    return {
        "at": iso(action.at),
        "actor": action.actor,
        "verb": action.verb,
        "subject": action.subject,
        "why": action.note,
    }
