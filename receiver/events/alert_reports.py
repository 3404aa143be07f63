"""Reads from an alert event which tracked alert it belongs to, and whether it reports a fault or its end. Pure."""

import json
from collections.abc import Mapping

from receiver.domain.model import ALERT_PREFIX, Event, HeldBy, Json
from receiver.domain.tracked_alerts import AlertReport

CLOSED_BY_ACKNOWLEDGEMENT = frozenset({"submit_unknown", "task_contradicted", "bill_differs"})
"""Topics about something that happened once. Nothing can recover, so the acknowledgement closes the alert."""

_TOPICS: Mapping[str, str] = {
    "route_recovered": "route_held",
    "account_recovered": "account",
    "callbacks_recovered": "callbacks_missed",
    "disk_recovered": "disk_full",
    "pack_recovered": "pack_low",
    "asset_lost": "asset",
    "asset_expiring": "asset",
    "asset_recovered": "asset",
}
"""The topic of each alert that shares one with others. The topic of any other is its own name."""

_REMEDIES: Mapping[str, str] = {
    "route_held": "Fix the destination; `kling-receiver routes test {subject}` tries it. "
    "The first success releases the route, and its backlog drains oldest first.",
    "task_contradicted": "The first end stands. Compare the task's pushes: `kling-receiver explain {subject}`.",
    "asset_lost": "Download what is missing before its URL expires, or wait if the download continues.",
    "asset_expiring": "Download what is missing by hand before its URL expires.",
    "disk_full": "Free some space on the disk of {subject}. Until then callbacks are answered 503.",
}
"""What to do about alerts whose events do not say it."""

_HELD_BY_OPERATOR = "`kling-receiver routes release {subject}` releases it, once its destination may be called again."
_RECOVERY_SUFFIX = "_recovered"
_LEVELS: Mapping[str, int] = {"asset_expiring": 1}


def read_report(event: Event) -> AlertReport:
    """Return what an alert event says about its tracked alert."""
    name = event.type.removeprefix(ALERT_PREFIX)
    data: Json = json.loads(event.envelope).get("data", {})
    return AlertReport(
        topic=_TOPICS.get(name, name),
        subject=_subject(data),
        closes=name.endswith(_RECOVERY_SUFFIX),
        message=data.get("message", ""),
        remedy=data.get("remedy") or _remedy(name, data),
        cause=_cause(name, data),
        level=_LEVELS.get(name, 0),
    )


def _remedy(name: str, data: Json) -> str:
    is_operators_hold = name == "route_held" and data.get("held_by") == HeldBy.OPERATOR
    text = _HELD_BY_OPERATOR if is_operators_hold else _REMEDIES.get(name, "")
    return text.format(subject=_subject(data))


def _subject(data: Json) -> str:
    """Return what the alert is about: a part of the account, a pack, a route, an event, a folder, a day or a task."""
    concerns = data.get("concerns")
    if concerns is not None:
        return " ".join(filter(None, (concerns["reach"], concerns["name"])))
    if "pack" in data:
        return str(data["pack"]["id"])
    for member in ("route", "event", "folder", "from"):
        if member in data:
            return str(data[member])
    return data["task"]["id"] if "task" in data else ""


def _cause(name: str, data: Json) -> str:
    if "kling_code" in data:
        return f"{name} {data['kling_code']}"
    if "results" in data:
        return " ".join(sorted({str(result.get("reason", "")) for result in data["results"]}))
    return str(data.get("reason") or name)
