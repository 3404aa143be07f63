"""Tracked alerts in the admin API."""

from receiver.domain.api_schema.json_object import JsonObject, Timestamp, definition
from receiver.domain.tracked_alerts import AlertState, ClosedBy


@definition
class Acknowledgement(JsonObject):
    """Who acknowledged an alert."""

    at: Timestamp
    by: str
    note: str


@definition
class TrackedAlert(JsonObject):
    """An alert from its first report to its end."""

    id: str
    type: str
    """Type of the last report, such as alert.route_held."""
    state: AlertState
    subject: str
    """The route, task, event, folder or part of the account that it is about."""
    message: str
    remedy: str
    """What to do; empty if the message says it."""
    cause: str
    since: Timestamp
    last_seen_at: Timestamp
    times: int
    """Number of reports."""
    event_id: str
    """ID of the event of the last report."""
    acknowledged: Acknowledgement | None
    closed_at: Timestamp | None
    closed_by: ClosedBy | None
