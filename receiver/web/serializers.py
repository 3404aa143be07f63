"""How tasks, events, deliveries and routes look as JSON to those who ask the admin listener."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

from starlette.responses import Response

from receiver.delivery.replay import Outline
from receiver.domain.clock import iso
from receiver.domain.model import (
    Accepted,
    Attempt,
    Cost,
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
from receiver.events.payload import joined
from receiver.events.routing import REPLY
from receiver.settings import Rate, RouteSettings
from receiver.store.interfaces import Backlog, DeliveryView, Page

T = TypeVar("T")

_WORDS = {Accepted: "accepted", Failed: "failed", Refused: "refused"}


def answer(value: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a value as JSON."""
    return raw_answer(encode(value), status, headers)


def raw_answer(
    content: bytes, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with JSON that is already written."""
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(content, status, headers=headers, media_type="application/json")


def encode(value: object) -> bytes:
    """Write a value as JSON, in readable letters as far as they are letters."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which Kling or a client has sent as an escape
        return json.dumps(value, separators=(",", ":")).encode()


def page(found: Page[T], show: Callable[[T], Json]) -> Response:
    """Answer with one page of a list."""
    return answer({"items": [show(each) for each in found.items], "next": found.next})


def event_page(found: Page[Event]) -> Response:
    """Answer with one page of events, each in the very bytes that destinations receive."""
    items = b",".join(joined(event) for event in found.items)
    return raw_answer(b'{"items":[' + items + b'],"next":' + encode(found.next) + b"}")


def task(shown: Task) -> Json:
    """Show a task."""
    return {
        "id": shown.id,
        "state": shown.state.value,
        "endpoint": shown.endpoint,
        "label": shown.label,
        "tags": dict(shown.tags),
        "batch": shown.batch,
        "priority": shown.priority,
        "kling_id": shown.kling_id,
        "external_task_id": shown.external_task_id,
        "message": shown.message,
        "origin": shown.origin.value,
        "created_at": iso(shown.created_at),
        "updated_at": iso(shown.updated_at),
        "expires_at": _moment(shown.expires_at),
    }


def task_with_end(shown: Task, end: Event | None, cost: Cost | None) -> Json:
    """Show a task with what came of it: its last event's result, files, how far it was verified, and what it cost."""
    data: Json = json.loads(end.envelope)["data"] if end is not None else {}
    return {
        **task(shown),
        "verified": None if end is None else end.verified.value,
        "result": data.get("result") or {},
        "assets": data.get("assets") or [],
        "archiving": None if end is None or end.archiving is None else end.archiving.value,
        "cost": None if cost is None else {"charges": charges(cost.charges), "said": json.loads(cost.said)},
    }


def charges(shown: Mapping[str, Decimal]) -> Json:
    """Show amounts by their units, as texts: a reader's float would round them."""
    return {unit: format(shown[unit], "f") for unit in sorted(shown)}


def delivery(view: DeliveryView, *, now: datetime) -> Json:
    """Show a delivery. It is in flight while somebody's claim on it lasts."""
    shown = view.delivery
    return {
        "id": shown.id,
        "event_id": shown.event_id,
        "event_type": view.event_type,
        "task_id": view.task_id,
        "route": shown.route,
        "status": shown.status.value,
        "attempts": shown.attempts,
        "due_at": iso(shown.due_at),
        "created_at": iso(shown.created_at),
        "finished_at": _moment(shown.finished_at),
        "replay_of": shown.replay_of,
        "in_flight": shown.status is DeliveryStatus.PENDING and shown.claim is not None and shown.due_at > now,
    }


def attempt(shown: Attempt) -> Json:
    """Show an attempt."""
    return {
        "number": shown.number,
        "started_at": iso(shown.started_at),
        "duration_ms": _milliseconds(shown.duration),
        "outcome": shown.outcome,
        "code": shown.code,
        "reason": shown.reason,
        "excerpt": _text(shown.excerpt),
    }


def outcome(shown: Outcome, *, duration: timedelta) -> Json:
    """Show what came of an attempt that is not kept."""
    return {
        "outcome": _WORDS[type(shown)],
        "code": shown.code,
        "reason": "" if isinstance(shown, Accepted) else shown.reason,
        "excerpt": _text(shown.excerpt),
        "duration_ms": _milliseconds(duration),
    }


def route(shown: RouteSettings, state: RouteState | None, waiting: Backlog | None) -> Json:
    """Show a route: its rule, without secrets, and how it fares."""
    return {
        "name": shown.name,
        "kind": "webhook" if shown.webhook is not None else "script",
        "destination": _destination(shown),
        "on": sorted(shown.on),
        "endpoints": list(shown.endpoints),
        "where": shown.where,
        "concurrency": shown.concurrency,
        **_fares(state or RouteState(name=shown.name), waiting),
    }


def lane(name: str, state: RouteState | None, waiting: Backlog | None) -> Json:
    """Show where events wait beside the configured routes: for a client's own host, or for a route that is gone."""
    is_reply = name.startswith(REPLY)
    return {
        "name": name,
        "kind": "reply" if is_reply else "gone",
        "destination": name.removeprefix(REPLY) if is_reply else "",
        "on": [],
        "endpoints": [],
        "where": None,
        "concurrency": 0,
        **_fares(state or RouteState(name=name), waiting),
    }


def _fares(state: RouteState, waiting: Backlog | None) -> Json:
    return {
        "held_at": _moment(state.held_at),
        "held_by": None if state.held_by is None else state.held_by.value,
        "held_why": state.held_why,
        "probe_at": _moment(state.probe_at),
        "failures": state.failures,
        "pending": waiting.pending if waiting is not None else 0,
        "oldest_pending_at": iso(waiting.oldest) if waiting is not None else None,
    }


def outline(shown: Outline) -> Json:
    """Show what a replay would bring out."""
    return {
        "dry_run": True,
        "total": shown.total,
        "by": [
            {
                "route": tally.route,
                "status": None if tally.status is None else tally.status.value,
                "count": tally.count,
                "oldest_at": iso(tally.oldest),
                "newest_at": iso(tally.newest),
            }
            for tally in shown.tallies
        ],
        "sample": [
            {
                "event_id": again.event_id,
                "event_type": again.event_type,
                "task_id": again.task_id,
                "route": again.route,
                "replay_of": again.replay_of,
                "created_at": iso(again.created_at),
            }
            for again in shown.sample
        ],
    }


def replay(shown: Replay) -> Json:
    """Show a replay and how far it has come."""
    chosen = shown.selection
    return {
        "id": shown.id,
        "state": shown.state.value,
        "total": shown.total,
        "created": shown.created,
        "selection": {
            "deliveries": list(chosen.deliveries),
            "events": list(chosen.events),
            "task": chosen.task_id,
            "route": chosen.route,
            "status": [status.value for status in chosen.statuses],
            "from": _moment(chosen.since),
            "to": _moment(chosen.until),
            "to_route": chosen.to_route,
        },
        "pace": None if shown.rate is None else str(Rate(*shown.rate)),
        "actor": shown.actor,
        "why": shown.why,
        "created_at": iso(shown.created_at),
        "finished_at": _moment(shown.finished_at),
    }


def routes(shown: Sequence[Json]) -> Response:
    """Answer with all routes; they are about as many as the configuration has."""
    return answer({"items": list(shown), "next": None})


def _destination(shown: RouteSettings) -> str:
    """Name where a route leads; the rest of a URL, and a script's arguments, may be secrets."""
    if shown.webhook is not None:
        parts = urlsplit(shown.webhook.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return shown.script.command[0] if shown.script is not None else ""


def _moment(at: datetime | None) -> str | None:
    return None if at is None else iso(at)


def _milliseconds(duration: timedelta) -> float:
    return round(duration / timedelta(milliseconds=1), 1)


def _text(excerpt: bytes) -> str:
    return excerpt.decode("utf-8", "replace")
