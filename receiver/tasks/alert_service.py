"""Alerts as an operator's work: acknowledged on request, and closed once their cause has ended."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock
from receiver.domain.errors import Conflict, NotFound, StoreUnavailable
from receiver.domain.tracked_alerts import Acknowledgement, AlertState, TrackedAlert
from receiver.store.interfaces import AlertStore, Page

log = structlog.get_logger()

_INTERVAL = timedelta(minutes=1)


class AlertService:
    """Lists and acknowledges alerts, and closes those that have no event for their end."""

    def __init__(self, store: AlertStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Close ended alerts each minute, until *stop*."""
        while not stop.is_set():
            try:
                await self.close_ended()
            except StoreUnavailable as exc:  # the next round closes them
                log.warning("alerts.delayed", reason=exc.message)
            await self._clock.wait(stop, until=self._clock.now() + _INTERVAL)

    async def close_ended(self) -> None:
        """Close the alerts whose cause has ended without an event of its own."""
        for alert_id in await self._store.close_ended(now=self._clock.now()):
            log.info("alert.closed", alert=alert_id)

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
        return await self._store.list(
            states=states, types=types, subject=subject, since=since, until=until, limit=limit, cursor=cursor
        )

    async def find(self, alert_id: str) -> TrackedAlert:
        """Return an alert. Raises NotFound."""
        alert = await self._store.find(alert_id)
        if alert is None:
            raise NotFound(
                f"There is no alert {alert_id[:64]!r}.", remedy="To list them: `kling-receiver alerts list`."
            )
        return alert

    async def acknowledge(self, alert_id: str, *, note: str, actor: str) -> TrackedAlert:
        """Acknowledge an alert, so that it stays quiet until it changes. Idempotent. Raises NotFound or Conflict."""
        now = self._clock.now()
        action = AuditEntry(at=now, actor=actor, verb="alert.acknowledged", subject=alert_id, reason=note)
        acknowledgement = Acknowledgement(at=now, actor=actor, note=note)
        if await self._store.acknowledge(alert_id, acknowledgement, action=action):
            log.info("alert.acknowledged", alert=alert_id, actor=actor)
            return await self.find(alert_id)
        alert = await self.find(alert_id)
        if alert.acknowledged is None:
            raise Conflict(f"Alert {alert.id} is closed already: its cause has ended.")
        return alert
