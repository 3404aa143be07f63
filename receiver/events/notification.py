"""The text that people receive about an event: a default for each kind of event, or a route's own templates. Pure."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Any

import msgspec

from receiver.domain.model import ALERT_PREFIX, Json
from receiver.domain.template import Expression, parse_template

MAX_TITLE = 250
MAX_BODY = 30_000
_MAX_LINKS = 10
_CUT = "…"


class Urgency(StrEnum):
    """How a notification is marked, in Apprise's words."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


class RenderError(Exception):
    """A template's expression cannot be evaluated for an event."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """The text for people."""

    title: str
    body: str
    urgency: Urgency


_ALERT_TITLES: Mapping[str, str] = {
    "route_held": "Route {route} is held",
    "route_recovered": "Route {route} delivers again",
    "events_rejected": "Route {route} rejects events",
    "delivery_dead": "A delivery to route {route} is dead",
    "account": "Kling refuses calls of this account",
    "account_recovered": "Kling accepts calls of this account again",
    "callbacks_missed": "Callbacks do not arrive",
    "callbacks_recovered": "Callbacks arrive again",
    "submit_unknown": "It is unknown whether Kling has a task",
    "task_stuck": "A task does not end",
    "task_contradicted": "Kling contradicts itself about a task",
    "asset_lost": "Results were not archived",
    "asset_expiring": "Results are about to expire",
    "asset_recovered": "Results were archived late",
    "pack_low": "A resource pack is almost used up",
    "pack_recovered": "A resource pack has units again",
    "bill_differs": "Kling's bill differs from the stored costs",
    "disk_full": "The disk is full",
    "disk_recovered": "The disk has space again",
}
_WARNINGS = frozenset({"callbacks_missed", "pack_low", "task_stuck", "task_contradicted", "events_rejected"})
_TASK_URGENCY: Mapping[str, Urgency] = {
    "succeed": Urgency.SUCCESS,
    "failed": Urgency.FAILURE,
    "rejected": Urgency.FAILURE,
    "expired": Urgency.FAILURE,
}
_TASK_VERBS: Mapping[str, str] = {
    "submitted": "was submitted",
    "processing": "is in progress",
    "succeed": "succeeded",
    "failed": "failed",
    "rejected": "was rejected",
    "expired": "expired",
}


class TextTemplate:
    """A route's own title or body, compiled."""

    def __init__(self, text: str) -> None:
        import jmespath  # noqa: PLC0415 -- a slow import that only templates and conditions need

        self._parts: Sequence[tuple[str, Any]] = [
            (part.text, jmespath.compile(part.text)) if isinstance(part, Expression) else (part, None)
            for part in parse_template(text)
        ]

    def render(self, values: Json) -> str:
        """Return the text for an event. Raises RenderError."""
        return "".join(
            text if compiled is None else _evaluate(text, compiled, values) for text, compiled in self._parts
        )


def _evaluate(text: str, compiled: Any, values: Json) -> str:  # noqa: ANN401 -- jmespath has no types
    try:
        found = compiled.search(values)
    except Exception as exc:
        raise RenderError(f"{{{text}}} could not be evaluated: {exc}") from exc
    if found is None:
        return ""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def template_values(event: Json, *, waiting: int | None) -> Json:
    """Return what a template may refer to: the event's ``data``, its ``type`` and ``timestamp``, and ``waiting``."""
    return {**event["data"], "type": event["type"], "timestamp": event["timestamp"], "waiting": waiting}


def write_notification(
    values: Json, *, title: TextTemplate | None, body: TextTemplate | None, zone: tzinfo | None = None
) -> Notification:
    """Return the text for an event, from the route's templates or the defaults. Raises RenderError."""
    default = _default(values, zone)
    return Notification(
        title=_limited(default.title if title is None else title.render(values), MAX_TITLE),
        body=_limited(default.body if body is None else body.render(values), MAX_BODY),
        urgency=default.urgency,
    )


def _default(values: Json, zone: tzinfo | None) -> Notification:
    family, _, name = values["type"].partition(".")
    match family:
        case "alert":
            return _alert(name, values, zone)
        case "task":
            return _task(name, values)
        case "report":
            title, urgency = f"Daily report of {values.get('day', '')}", Urgency.INFO
            return Notification(title=title, body=values.get("message", "").replace(". ", ".\n"), urgency=urgency)
        case _:
            batch = values.get("batch") or {}
            title = f"Batch {batch.get('name', '')} is finished"
            return Notification(title=title, body=values.get("message", ""), urgency=Urgency.INFO)


def _alert(name: str, values: Json, zone: tzinfo | None) -> Notification:
    title = _ALERT_TITLES.get(name, name.replace("_", " ").capitalize()).format(route=values.get("route", ""))
    message = _held_message(values, zone) if f"{ALERT_PREFIX}{name}" == "alert.route_held" else values["message"]
    remedy = f"\n\nWhat to do: {values['remedy']}" if values.get("remedy") else ""
    if name.endswith("_recovered"):
        urgency = Urgency.SUCCESS
    else:
        urgency = Urgency.WARNING if name in _WARNINGS else Urgency.FAILURE
    return Notification(title=title, body=message + remedy, urgency=urgency)


def _held_message(values: Json, zone: tzinfo | None) -> str:
    since = ""
    if values.get("held_at"):
        since = f" since {datetime.fromisoformat(values['held_at']).astimezone(zone):%H:%M}"
    by = " by an operator" if values.get("held_by") == "operator" else ""
    reason = f": {values['reason'].rstrip('.')}" if values.get("reason") else ""
    waiting = values.get("waiting")
    backlog = "" if waiting is None else f" {waiting} {'event waits' if waiting == 1 else 'events wait'}."
    return f"Route {values.get('route', '')} is held{by}{since}{reason}.{backlog}"


def _task(state: str, values: Json) -> Notification:
    task = values.get("task") or {}
    name = task.get("label") or task.get("external_task_id") or task.get("id") or ""
    lines = [f"{name} ({task.get('endpoint') or 'unknown endpoint'})"]
    if values.get("message"):
        lines.append(values["message"])
    links = [asset.get("path") or asset.get("storage") for asset in values.get("assets") or ()]
    links = links or [entry.get("url") for entries in (values.get("result") or {}).values() for entry in entries]
    lines += [str(link) for link in links if link][:_MAX_LINKS]
    return Notification(
        title=f"Task {_TASK_VERBS.get(state, state)}: {name}",
        body="\n".join(lines),
        urgency=_TASK_URGENCY.get(state, Urgency.INFO),
    )


def _limited(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT
