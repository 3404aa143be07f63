"""An alert as work: open from its first report until it recovers, quiet while acknowledged and unchanged."""

from datetime import datetime
from enum import StrEnum

import msgspec


class AlertState(StrEnum):
    """The state of a tracked alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"  # an operator knows it: quiet until it changes
    CLOSED = "closed"


class ClosedBy(StrEnum):
    """What closed an alert."""

    RECOVERY = "recovery"
    ACKNOWLEDGEMENT = "acknowledgement"  # nothing about it can recover


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """An operator knows the alert: who, when, and a note for the others."""

    at: datetime
    actor: str
    note: str = ""


class AlertReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one alert event says about a tracked alert.

    ``topic`` and ``subject`` identify the tracked alert: at most one is open for both. ``closes`` reports its end.
    ``cause`` is compared, so it has no number that changes by itself. A higher ``level`` is worse.
    """

    topic: str
    subject: str
    closes: bool
    message: str
    remedy: str
    cause: str
    level: int = 0


class TrackedAlert(msgspec.Struct, frozen=True, kw_only=True):
    """All reports of one alert, from the first to its end.

    ``type``, ``message``, ``remedy`` and ``cause`` are those of the last report, whose event is ``event_id``.
    ``times`` counts the reports.
    """

    id: str
    topic: str
    subject: str
    type: str
    message: str
    remedy: str
    cause: str
    level: int
    event_id: str
    opened_at: datetime
    last_seen_at: datetime
    times: int = 1
    acknowledged: Acknowledgement | None = None
    closed_at: datetime | None = None
    closed_by: ClosedBy | None = None

    @property
    def state(self) -> AlertState:
        """The state that lists show and filter by."""
        if self.closed_at is not None:
            return AlertState.CLOSED
        return AlertState.OPEN if self.acknowledged is None else AlertState.ACKNOWLEDGED

    def is_silent_on(self, report: AlertReport) -> bool:
        """Return whether *report* is nothing new: the alert is acknowledged, for the same cause, and not worse."""
        return self.acknowledged is not None and report.cause == self.cause and report.level <= self.level
