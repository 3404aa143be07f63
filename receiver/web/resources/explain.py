"""A task's complete history over HTTP."""

import json
from collections.abc import Sequence
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema import resources
from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, iso
from receiver.domain.model import Event, Origin, Task
from receiver.kling.task_ids import created_at_hint, describe_id
from receiver.tasks.explain import OUTCOME_TEXT, DeliveryHistory, Explainer, ReceivedPush, TaskExplanation
from receiver.tasks.explain_steps import task_steps
from receiver.web import serializers
from receiver.web.api_requests import NoQuery
from receiver.web.params import read_query

_MAX_BODY = 16 * 1024


class ExplainApi:
    """Answers ``/api/tasks/{ref}/explain``."""

    def __init__(self, explainer: Explainer, *, clock: Clock) -> None:
        self._explainer = explainer
        self._clock = clock

    async def show(self, request: Request) -> Response:
        """Return everything stored about a task, oldest first, and the next step."""
        read_query(request, NoQuery)
        return serializers.json_response(
            self._explanation_json(await self._explainer.explain(request.path_params["ref"]))
        )

    def _explanation_json(self, explanation: TaskExplanation) -> resources.TaskExplanation:
        now, kling_id = self._clock.now(), explanation.task.kling_id or ""
        made_at = created_at_hint(kling_id, now=now)
        return resources.TaskExplanation(
            task=serializers.task_json(explanation.task),
            intent=explanation.intent,
            kling_created_at=None if made_at is None else iso(made_at),
            kling_id_hint=id_hint(explanation.task, now=now),
            steps=[
                resources.TaskStep(at=iso(step.at), kind=step.kind, state=step.state, text=step.text)
                for step in task_steps(explanation.task, explanation.events)
            ],
            pushes=[_push_json(received) for received in explanation.pushes],
            events=[self._event_json(event, explanation.deliveries) for event in explanation.events],
            actions=[_audit_json(action) for action in explanation.actions],
            next=explanation.next_step,
        )

    def _event_json(self, event: Event, deliveries: Sequence[DeliveryHistory]) -> resources.ExplainedEvent:
        data = json.loads(event.envelope)["data"]
        now = self._clock.now()
        return resources.ExplainedEvent(
            id=event.id,
            type=event.type,
            created_at=iso(event.created_at),
            source=data.get("source"),
            verified=event.verified,
            message=data.get("message", ""),
            push_id=event.push_id,
            decisions=[
                resources.RouteDecision(route=decision.route, wanted=decision.wanted, reason=decision.reason)
                for decision in event.decisions
            ],
            deliveries=[
                serializers.delivery_with_attempts_json(each.view, each.attempts, now=now)
                for each in deliveries
                if each.view.delivery.event_id == event.id
            ],
        )


def id_hint(task: Task, *, now: datetime) -> str:
    """Return what the form of Kling's id tells, such as when Kling made the task; empty if it tells nothing."""
    if not task.kling_id or task.origin is Origin.TEST:
        return ""
    return describe_id(task.kling_id, now=now)


def _push_json(received: ReceivedPush) -> resources.Push:
    push, report = received.push, received.report
    body = push.body or b""
    return resources.Push(
        id=push.id,
        source=push.source,
        received_at=iso(push.received_at),
        outcome=push.outcome,
        meaning=OUTCOME_TEXT[push.outcome],
        status=None if report is None else report.raw_status,
        message="" if report is None else report.message,
        body=body[:_MAX_BODY].decode("utf-8", "replace") if body else None,
        bytes=len(body),
    )


def _audit_json(entry: AuditEntry) -> resources.AuditEntry:
    return resources.AuditEntry(
        at=iso(entry.at), actor=entry.actor, verb=entry.verb, subject=entry.subject, why=entry.reason
    )
