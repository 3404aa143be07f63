"""Tracked alerts in a PostgreSQL store, kept up to date in the transaction of each alert event."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import micros
from receiver.domain.model import Delivery, Event
from receiver.domain.tracked_alerts import Acknowledgement, AlertState, TrackedAlert
from receiver.events.alert_reports import CLOSED_BY_ACKNOWLEDGEMENT, read_report
from receiver.store import rows
from receiver.store.alert_rows import alert_row, read_alert, reported, silenced
from receiver.store.calls import AcknowledgeCall, CloseAlertsCall
from receiver.store.cursors import decode_cursor
from receiver.store.interfaces import Page
from receiver.store.list_filters import time_bounds
from receiver.store.postgres import catalog
from receiver.store.postgres.catalog import list_or_none
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, change_audited, fetch, fetch_row
from receiver.store.postgres.writer import WriteOp, Writer

_MAX_CLOSED = 500  # alerts per call of close_ended


class PostgresAlertStore:
    """Tracked alerts."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def list(
        self,
        *,
        states: Sequence[AlertState] = (),
        types: Sequence[str] = (),
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[TrackedAlert]:
        """List alerts, newest first."""
        filters = {
            "states": list_or_none(states),
            "types": list_or_none(types),
            "subject": subject,
            **time_bounds("alr", since, until),
            "cursor": decode_cursor(cursor, prefix="alr"),
        }
        return await self._lists.read(catalog.page, "list_alerts", filters, limit=limit, read=read_alert)

    async def find(self, alert_id: str) -> TrackedAlert | None:
        """Find an alert."""
        found = await self._lists.read(catalog.page, "list_alerts", {"id": alert_id}, limit=1, read=read_alert)
        return found.items[0] if found.items else None

    async def acknowledge(self, alert_id: str, acknowledgement: Acknowledgement, *, action: AuditEntry) -> bool:
        """Acknowledge an open alert; return False if it is not open."""
        call = AcknowledgeCall(alert_id=alert_id, acknowledgement=acknowledgement, action=action)
        return await self._writer.execute(_ACKNOWLEDGE, call)

    async def close_ended(self, *, now: datetime) -> Sequence[str]:
        """Close open alerts whose cause has ended; return their ids."""
        ended = await self._lists.read(_ended)
        return await self._writer.execute(_CLOSE, CloseAlertsCall(ids=ended, now=now)) if ended else ()


async def track_alerts(
    connection: Connection, events: Iterable[Event], deliveries: Iterable[Delivery]
) -> tuple[Sequence[Event], Sequence[Delivery]]:
    """Update the tracked alerts by those of *events* that are alerts; return what is to be stored.

    An alert that is nothing new to the operator who acknowledged it is stored without deliveries. The caller holds the
    lock of the events' order, so two nodes never open one alert twice.
    """
    kept = [await _track(connection, event) for event in events]
    silent = {event.id for event, is_silent in kept if is_silent}
    return [event for event, _ in kept], [delivery for delivery in deliveries if delivery.event_id not in silent]


async def _track(connection: Connection, event: Event) -> tuple[Event, bool]:
    """Update the tracked alert of one event; return the event to store, and whether it gets no deliveries."""
    if not event.is_alert:
        return event, False
    report = read_report(event)
    row = await fetch_row(connection, "open_alert", {"topic": report.topic, "subject": report.subject})
    tracked = None if row is None else read_alert(row)
    if report.closes:
        if tracked is not None:
            await _close(connection, [tracked.id], at=event.created_at)
        return event, False
    is_silent = tracked is not None and tracked.is_silent_on(report)
    saved = reported(tracked, report, event, keeps_acknowledgement=is_silent)
    await change(connection, "save_alert", alert_row(saved))
    return (silenced(event, tracked.acknowledged), True) if tracked is not None and is_silent else (event, False)


async def _acknowledge(connection: Connection, group: Sequence[AcknowledgeCall]) -> Sequence[bool]:
    return [
        await change_audited(
            connection,
            "acknowledge_alert",
            {
                "id": call.alert_id,
                "now": micros(call.acknowledgement.at),
                "actor": call.acknowledgement.actor,
                "note": call.acknowledgement.note,
                "closing": sorted(CLOSED_BY_ACKNOWLEDGEMENT),
            },
            action=rows.action_row(call.action),
        )
        for call in group
    ]


async def _close_ended(connection: Connection, group: Sequence[CloseAlertsCall]) -> Sequence[Sequence[str]]:
    await fetch(connection, "lock_event_order")  # under it, alerts are locked in any order
    return [await _close(connection, call.ids, at=call.now) for call in group]


async def _close(connection: Connection, ids: Sequence[str], *, at: datetime) -> Sequence[str]:
    return [row["id"] for row in await fetch(connection, "close_alerts", {"ids": ids, "now": micros(at)})]


async def _ended(connection: Connection) -> Sequence[str]:
    return [row["id"] for row in await fetch(connection, "ended_alerts", {"limit": _MAX_CLOSED})]


_ACKNOWLEDGE: WriteOp[AcknowledgeCall, bool] = WriteOp(write=_acknowledge)
_CLOSE: WriteOp[CloseAlertsCall, Sequence[str]] = WriteOp(write=_close_ended)
