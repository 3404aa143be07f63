"""Tracked alerts. The store keeps them up to date by itself, in the transaction of each alert event."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from receiver.domain.audit import AuditEntry
from receiver.domain.tracked_alerts import Acknowledgement, AlertState, TrackedAlert
from receiver.store.interfaces.catalog import Page


class AlertStore(Protocol):
    """Tracked alerts, open and closed.

    The first report opens an alert, later ones count, a recovery closes it. While an alert is acknowledged, a report
    that is nothing new is stored without deliveries. Any other report removes the acknowledgement.
    """

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
        """List alerts, newest first. *since* and *until* limit the time of the first report; *until* is excluded."""
        ...

    async def find(self, alert_id: str) -> TrackedAlert | None:
        """Find an alert."""
        ...

    async def acknowledge(self, alert_id: str, acknowledgement: Acknowledgement, *, action: AuditEntry) -> bool:
        """Acknowledge an open alert. Return False, and write nothing, if it is not open.

        It closes the alert if nothing about it can recover.
        """
        ...

    async def close_ended(self, *, now: datetime) -> Sequence[str]:
        """Close open alerts whose cause has ended without an event of its own; return their ids."""
        ...
