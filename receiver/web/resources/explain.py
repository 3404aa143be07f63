"""A task's complete history over HTTP."""

import json

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, iso
from receiver.domain.model import Event, Json
from receiver.tasks.explain import OUTCOME_TEXT, DeliveryHistory, Explainer, ReceivedPush, TaskExplanation
from receiver.web import serializers
from receiver.web.params import QueryParams

_MAX_BODY = 16 * 1024


class ExplainApi:
    """Answers ``/api/tasks/{ref}/explain``."""

    def __init__(self, explainer: Explainer, *, clock: Clock) -> None:
        self._explainer = explainer
        self._clock = clock

    async def show(self, request: Request) -> Response:
        """Return everything stored about a task, oldest first, and the next step."""
        QueryParams(request, paged=False)
        return serializers.json_response(
            self._explanation_json(await self._explainer.explain(request.path_params["ref"]))
        )

    def _explanation_json(self, explanation: TaskExplanation) -> Json:
        return {
            "task": serializers.task_json(explanation.task),
            "intent": explanation.intent,
            "pushes": [_push_json(received) for received in explanation.pushes],
            "events": [
                _event_json(event)
                | {
                    "deliveries": [
                        self._delivery_json(e) for e in explanation.deliveries if e.delivery.event_id == event.id
                    ]
                }
                for event in explanation.events
            ],
            "actions": [_audit_json(action) for action in explanation.actions],
            "next": explanation.next_step,
        }

    def _delivery_json(self, history: DeliveryHistory) -> Json:
        delivery = serializers.delivery_json(history.view, now=self._clock.now())
        return {**delivery, "attempts_made": [serializers.attempt_json(attempt) for attempt in history.attempts]}


def _push_json(received: ReceivedPush) -> Json:
    push, report = received.push, received.report
    body = push.body or b""
    return {
        "id": push.id,
        "source": push.source.value,
        "received_at": iso(push.received_at),
        "outcome": push.outcome.value,
        "meaning": OUTCOME_TEXT[push.outcome],
        "status": None if report is None else report.raw_status,
        "message": "" if report is None else report.message,
        "body": body[:_MAX_BODY].decode("utf-8", "replace") if body else None,
        "bytes": len(body),
    }


def _event_json(event: Event) -> Json:
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


def _audit_json(entry: AuditEntry) -> Json:
    return {
        "at": iso(entry.at),
        "actor": entry.actor,
        "verb": entry.verb,
        "subject": entry.subject,
        "why": entry.reason,
    }
