"""Tracked alerts as rows, and what another report makes of one."""

from collections.abc import Mapping

from msgspec.structs import replace

from receiver.domain.clock import from_micros, micros
from receiver.domain.model import Event, RouteDecision
from receiver.domain.tracked_alerts import Acknowledgement, AlertReport, ClosedBy, TrackedAlert
from receiver.store import rows


def reported(
    tracked: TrackedAlert | None, report: AlertReport, event: Event, *, keeps_acknowledgement: bool
) -> TrackedAlert:
    """Return the tracked alert after another report."""
    return TrackedAlert(
        id=f"alr_{event.id.partition('_')[2]}" if tracked is None else tracked.id,
        topic=report.topic,
        subject=report.subject,
        type=event.type,
        message=report.message,
        remedy=report.remedy,
        cause=report.cause,
        level=report.level if tracked is None else max(report.level, tracked.level),
        event_id=event.id,
        opened_at=event.created_at if tracked is None else tracked.opened_at,
        last_seen_at=event.created_at,
        times=1 if tracked is None else tracked.times + 1,
        acknowledged=tracked.acknowledged if tracked is not None and keeps_acknowledgement else None,
    )


def silenced(event: Event, acknowledged: Acknowledgement | None) -> Event:
    """Return the event with decisions that explain why no route receives it."""
    who = "" if acknowledged is None else f" by {acknowledged.actor}"
    reason = f"the alert is acknowledged{who} and has not changed"
    decisions = [
        RouteDecision(route=each.route, wanted=False, reason=reason if each.wanted else each.reason)
        for each in event.decisions
    ]
    return replace(event, decisions=tuple(decisions))


def alert_row(alert: TrackedAlert) -> Mapping[str, object]:
    """Return the arguments of an alert for ``save_alert``."""
    acknowledged = alert.acknowledged
    return {
        "id": alert.id,
        "topic": alert.topic,
        "subject": rows.storable_text(alert.subject),
        "type": alert.type,
        "message": rows.storable_text(alert.message),
        "remedy": rows.storable_text(alert.remedy),
        "cause": rows.storable_text(alert.cause),
        "level": alert.level,
        "event_id": alert.event_id,
        "opened_at": micros(alert.opened_at),
        "last_seen_at": micros(alert.last_seen_at),
        "times": alert.times,
        "acknowledged_at": None if acknowledged is None else micros(acknowledged.at),
        "acknowledged_by": None if acknowledged is None else acknowledged.actor,
        "note": "" if acknowledged is None else acknowledged.note,
    }


def read_alert(row: rows.Row) -> TrackedAlert:
    """Read a tracked alert from its row."""
    acknowledged = None
    if row["acknowledged_at"] is not None:
        acknowledged = Acknowledgement(
            at=from_micros(row["acknowledged_at"]), actor=row["acknowledged_by"], note=row["note"]
        )
    return TrackedAlert(
        id=row["id"],
        topic=row["topic"],
        subject=row["subject"],
        type=row["type"],
        message=row["message"],
        remedy=row["remedy"],
        cause=row["cause"],
        level=row["level"],
        event_id=row["event_id"],
        opened_at=from_micros(row["opened_at"]),
        last_seen_at=from_micros(row["last_seen_at"]),
        times=row["times"],
        acknowledged=acknowledged,
        closed_at=rows.datetime_or_none(row["closed_at"]),
        closed_by=None if row["closed_by"] is None else ClosedBy(row["closed_by"]),
    )
