"""The data of the daily report."""

from collections.abc import Mapping, Sequence
from typing import Literal

from receiver.domain.api_schema.json_object import Amount, JsonObject, SparseObject, Timestamp, definition
from receiver.domain.model import TaskState


@definition
class HeldRoute(JsonObject):
    """A route that is held."""

    route: str
    since: Timestamp | None
    why: str


@definition
class AlertCounts(JsonObject):
    """The number of alerts that are not closed."""

    open: int
    acknowledged: int


@definition
class DailyReportData(SparseObject):
    """What happened since the last report, and what is so now."""

    event_id: str
    message: str
    """The whole report in a few sentences."""
    day: str
    """The local day on which it was made."""
    since: Timestamp
    until: Timestamp
    ended: Mapping[TaskState, int]
    """Number of tasks that ended, by state."""
    spent: Mapping[str, Amount]
    """Exact amounts by unit."""
    dead: Mapping[str, int]
    """Number of deliveries by route that died and were not delivered again."""
    callbacks_missed: int
    held: Sequence[HeldRoute]
    pending: int
    """Number of pending deliveries."""
    alerts: AlertCounts
    test: bool = False
    """True for a test event; otherwise missing."""


@definition
class ReportEvent(JsonObject):
    """The daily report."""

    timestamp: Timestamp
    type: Literal["report.daily"]
    data: DailyReportData
