"""Builds the responses of the admin API. ``domain/api_schema`` defines their JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from starlette.responses import Response

from receiver.archive.deletion import Deletion
from receiver.delivery.replay import ReplayPreview
from receiver.domain.api_schema import alerts, costs, json_object, resources, tasks
from receiver.domain.api_schema.json_object import JsonObject
from receiver.domain.batches import BatchView
from receiver.domain.clock import iso
from receiver.domain.costs import Cost, CostTotal
from receiver.domain.model import (
    Accepted,
    Attempt,
    DeliveryStatus,
    Event,
    Failed,
    Json,
    Outcome,
    Refused,
    RouteState,
    Task,
)
from receiver.domain.replays import Replay
from receiver.domain.tracked_alerts import TrackedAlert
from receiver.events.payload import batch_summary, serialize
from receiver.events.replies import REPLY_PREFIX
from receiver.settings import Rate, RouteSettings
from receiver.store.interfaces import DeliveryView, Page, RouteBacklog

T = TypeVar("T")

JSON = "application/json"
"""The media type of a response that is not an error."""

_OUTCOME_NAMES = {Accepted: "accepted", Failed: "failed", Refused: "refused"}


def json_response(
    value: object,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = JSON,
) -> Response:
    """Return a response with *value* as JSON."""
    return raw_json_response(encode(value), status, headers, media_type=media_type)


def raw_json_response(
    content: bytes,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    *,
    media_type: str = JSON,
) -> Response:
    """Return a response with JSON that is already encoded."""
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(content, status, headers=headers, media_type=media_type)


def encode(value: object) -> bytes:
    """Encode a value as JSON. Only text that is not valid Unicode is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_members).encode()
    except UnicodeEncodeError:  # a lone surrogate, which Kling or a client sent as an escape
        return json.dumps(value, separators=(",", ":"), default=_members).encode()


def _members(value: object) -> Json:
    if isinstance(value, JsonObject):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} has no JSON form.")


def page_response(page: Page[T], to_json: Callable[[T], JsonObject]) -> Response:
    """Return a response with one page of a list."""
    return json_response(json_object.Page(items=[to_json(each) for each in page.items], next=page.next))


def event_page_response(page: Page[Event]) -> Response:
    """Return a response with one page of events, each in exactly the bytes that destinations receive."""
    items = b",".join(serialize(event) for event in page.items)
    return raw_json_response(b'{"items":[' + items + b'],"next":' + encode(page.next) + b"}")


def task_json(task: Task) -> tasks.Task:
    """Return a task as JSON."""
    return tasks.Task(
        id=task.id,
        state=task.listed_state.value,
        endpoint=task.endpoint,
        label=task.label,
        tags=dict(task.tags),
        batch=task.batch,
        priority=task.queueing.priority,
        kling_id=task.kling_id,
        external_task_id=task.external_task_id,
        message=task.message,
        origin=task.origin.value,
        created_at=iso(task.created_at),
        updated_at=iso(task.updated_at),
        expires_at=_optional_iso(task.expires_at),
    )


def deletion_json(deletion: Deletion, *, dry_run: bool) -> tasks.TaskDeletion:
    """Return a deleted task, or the preview of its deletion."""
    stored = deletion.stored
    return tasks.TaskDeletion(
        task=task_json(stored.task),
        dry_run=dry_run,
        pushes=stored.pushes,
        events=stored.events,
        deliveries=stored.deliveries,
        pending_deliveries=stored.pending_deliveries,
        removed=list(deletion.removed),
        left=list(deletion.left),
    )


def task_with_result_json(task: Task, end_event: Event | None, cost: Cost | None) -> tasks.TaskDetails:
    """Return a task as JSON with its cost and its final event's result, files and verification."""
    data: Json = json.loads(end_event.envelope)["data"] if end_event is not None else {}
    return tasks.TaskDetails(
        **vars(task_json(task)),
        verified=None if end_event is None else end_event.verified.value,
        result=data.get("result") or {},
        assets=data.get("assets") or [],
        archiving=None if end_event is None or end_event.archiving is None else end_event.archiving.value,
        cost=None if cost is None else tasks.TaskCost(charges=charges_json(cost.charges), said=json.loads(cost.raw)),
    )


def charges_json(charges: Mapping[str, Decimal]) -> Mapping[str, str]:
    """Return amounts by unit, as text: a float would round them."""
    return {unit: format(charges[unit], "f") for unit in sorted(charges)}


def cost_total_json(total: CostTotal) -> costs.CostTotal:
    """Return the costs of a group of tasks as JSON."""
    return costs.CostTotal(name=total.name, tasks=total.tasks, charges=charges_json(total.charges))


def batch_json(view: BatchView) -> tasks.Batch:
    """Return a batch as JSON."""
    return tasks.Batch(**batch_summary(view.batch, view.counts), event_id=view.batch.event_id)


def delivery_json(view: DeliveryView, *, now: datetime) -> resources.Delivery:
    """Return a delivery as JSON. It is in flight while a worker's claim on it lasts."""
    delivery = view.delivery
    return resources.Delivery(
        id=delivery.id,
        event_id=delivery.event_id,
        event_type=view.event_type,
        task_id=view.task_id,
        route=delivery.route,
        status=delivery.status,
        attempts=delivery.attempts,
        due_at=iso(delivery.due_at),
        created_at=iso(delivery.created_at),
        finished_at=_optional_iso(delivery.finished_at),
        replay_of=delivery.replay_of,
        in_flight=delivery.status is DeliveryStatus.PENDING and delivery.claim is not None and delivery.due_at > now,
    )


def delivery_with_attempts_json(
    view: DeliveryView, attempts: Sequence[Attempt], *, now: datetime
) -> resources.DeliveryDetails:
    """Return a delivery and its attempts as JSON."""
    return resources.DeliveryDetails(
        **vars(delivery_json(view, now=now)), attempts_made=[attempt_json(attempt) for attempt in attempts]
    )


def attempt_json(attempt: Attempt) -> resources.Attempt:
    """Return an attempt as JSON."""
    return resources.Attempt(
        number=attempt.number,
        started_at=iso(attempt.started_at),
        duration_ms=_milliseconds(attempt.duration),
        outcome=attempt.outcome,
        code=attempt.code,
        reason=attempt.reason,
        excerpt=_decode(attempt.excerpt),
    )


def outcome_json(outcome: Outcome, *, duration: timedelta) -> resources.RouteTestOutcome:
    """Return the outcome of an attempt that is not stored, as JSON."""
    return resources.RouteTestOutcome(
        outcome=_OUTCOME_NAMES[type(outcome)],
        code=outcome.code,
        reason="" if isinstance(outcome, Accepted) else outcome.reason,
        excerpt=_decode(outcome.excerpt),
        duration_ms=_milliseconds(duration),
    )


def route_json(route: RouteSettings, state: RouteState | None, backlog: RouteBacklog | None) -> resources.Route:
    """Return a configured route as JSON: its rule without secrets, and its state."""
    return resources.Route(
        name=route.name,
        kind=_kind(route),
        destination=_destination(route),
        on=sorted(route.on),
        endpoints=list(route.endpoints),
        where=route.where,
        concurrency=route.concurrency,
        **_health(state or RouteState(name=route.name), backlog),
    )


def unconfigured_route_json(name: str, state: RouteState | None, backlog: RouteBacklog | None) -> resources.Route:
    """Return a route that is not in the configuration: a client's own callback host, or a removed route."""
    is_reply = name.startswith(REPLY_PREFIX)
    return resources.Route(
        name=name,
        kind="reply" if is_reply else "gone",
        destination=name.removeprefix(REPLY_PREFIX) if is_reply else "",
        on=[],
        endpoints=[],
        where=None,
        concurrency=0,
        **_health(state or RouteState(name=name), backlog),
    )


def _health(state: RouteState, backlog: RouteBacklog | None) -> Json:
    return {
        "held_at": _optional_iso(state.held_at),
        "held_by": state.held_by,
        "held_why": state.held_why,
        "probe_at": _optional_iso(state.probe_at),
        "failures": state.failures,
        "pending": backlog.pending if backlog is not None else 0,
        "oldest_pending_at": iso(backlog.oldest) if backlog is not None else None,
    }


def alert_json(alert: TrackedAlert) -> alerts.TrackedAlert:
    """Return a tracked alert as JSON."""
    acknowledged = alert.acknowledged
    return alerts.TrackedAlert(
        id=alert.id,
        type=alert.type,
        state=alert.state,
        subject=alert.subject,
        message=alert.message,
        remedy=alert.remedy,
        cause=alert.cause,
        since=iso(alert.opened_at),
        last_seen_at=iso(alert.last_seen_at),
        times=alert.times,
        event_id=alert.event_id,
        acknowledged=None
        if acknowledged is None
        else alerts.Acknowledgement(at=iso(acknowledged.at), by=acknowledged.actor, note=acknowledged.note),
        closed_at=_optional_iso(alert.closed_at),
        closed_by=alert.closed_by,
    )


def replay_preview_json(preview: ReplayPreview) -> resources.ReplayPreview:
    """Return what a replay would deliver, as JSON."""
    return resources.ReplayPreview(
        dry_run=True,
        total=preview.total,
        by=[
            resources.ReplayCount(
                route=tally.route,
                status=tally.status,
                count=tally.count,
                oldest_at=iso(tally.oldest),
                newest_at=iso(tally.newest),
            )
            for tally in preview.counts
        ],
        sample=[
            resources.ReplaySample(
                event_id=item.event_id,
                event_type=item.event_type,
                task_id=item.task_id,
                route=item.route,
                replay_of=item.replay_of,
                created_at=iso(item.created_at),
            )
            for item in preview.sample
        ],
    )


def replay_json(replay: Replay) -> resources.Replay:
    """Return a replay and its progress as JSON."""
    selection = replay.selection
    return resources.Replay(
        id=replay.id,
        state=replay.state,
        total=replay.total,
        created=replay.created,
        selection=resources.ReplaySelection(
            deliveries=selection.deliveries,
            events=selection.events,
            task=selection.task_id,
            route=selection.route,
            status=selection.statuses,
            from_=_optional_iso(selection.since),
            to=_optional_iso(selection.until),
            to_route=selection.to_route,
        ),
        pace=None if replay.rate is None else str(Rate(*replay.rate)),
        actor=replay.actor,
        why=replay.why,
        created_at=iso(replay.created_at),
        finished_at=_optional_iso(replay.finished_at),
    )


def _kind(route: RouteSettings) -> Literal["webhook", "script", "notify"]:
    if route.notify is not None:
        return "notify"
    return "webhook" if route.webhook is not None else "script"


def _destination(route: RouteSettings) -> str:
    """Return a route's host, command or services. The rest of a URL and a script's arguments may contain secrets."""
    if route.notify is not None:
        return ", ".join(route.notify.services)
    if route.webhook is not None:
        parts = urlsplit(route.webhook.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return route.script.command[0] if route.script is not None else ""


def _optional_iso(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def _milliseconds(duration: timedelta) -> float:
    return round(duration / timedelta(milliseconds=1), 1)


def _decode(excerpt: bytes) -> str:
    return excerpt.decode("utf-8", "replace")
