"""Reads from an alert event which tracked alert it belongs to, and whether it reports a fault or its end. Pure."""

import json
from collections.abc import Mapping

from receiver.domain.model import ALERT_PREFIX, Event, Json
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
        remedy=data.get("remedy", ""),
        cause=_cause(name, data),
        level=_LEVELS.get(name, 0),
    )


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
