"""The data of alerts: what happened, what it is about, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Literal

from receiver.domain.api_schema.json_object import Amount, Day, JsonObject, SparseObject, Timestamp, Url, definition
from receiver.domain.api_schema.tasks import TaskSummary
from receiver.domain.model import HeldBy, TaskState


@definition
class AlertData(SparseObject):
    """What every alert says."""

    event_id: str
    message: str
    remedy: str = ""
    """What to do; missing if the message says it."""
    test: bool = False
    """True for a test event; otherwise missing."""


@definition
class RouteAlertData(AlertData):
    """Why a route is or was held."""

    route: str
    failures: int
    """Number of consecutive failures."""
    reason: str
    held_by: HeldBy | None
    held_at: Timestamp | None


@definition
class RejectionAlertData(AlertData):
    """Which route's destination rejects events."""

    route: str
    reason: str
    """The answer to the last event."""


@definition
class DeadDeliveryAlertData(AlertData):
    """Which delivery was given up, and why."""

    route: str
    delivery: str
    """ID of the delivery."""
    event: str
    """ID of the event."""
    attempts: int
    reason: str


@definition
class AccountScope(JsonObject):
    """The part of the account that an issue concerns."""

    reach: Literal["account", "pack", "resource"]
    name: str
    """Name of the pack or the resource; empty for the account."""


@definition
class AccountAlertData(AlertData):
    """What Kling refuses."""

    kling_code: int | str | None
    request_id: str
    stops_submits: bool
    concerns: AccountScope


@definition
class AccountRecoveredData(AlertData):
    """What Kling accepts again."""

    concerns: AccountScope


@definition
class CallbackAlertData(AlertData):
    """How many callbacks did not arrive."""

    missed: int
    of: int
    """Number of tasks that ended last and were counted."""


@definition
class SubmitAlertData(AlertData):
    """A create whose answer was lost."""

    sent_at: Timestamp
    task: TaskSummary


@definition
class StuckAlertData(AlertData):
    """A task that has not ended in time."""

    state: TaskState
    reason: str
    """Kling's last message about the task."""
    asks: int
    """Number of polls."""
    since: Timestamp
    task: TaskSummary


@definition
class ContradictionAlertData(AlertData):
    """A task of which Kling reports another end than the stored one."""

    state: TaskState
    """The stored state, which is kept."""
    task: TaskSummary


@definition
class MissingResult(SparseObject):
    """A result that is or was not archived."""

    number: int
    """Position among the results of the event, from 0."""
    url: Url
    reason: str
    still_tried: bool
    path: str | None = None
    """The file, once it is archived."""


@definition
class AssetAlertData(AlertData):
    """Results that are or were not archived."""

    event: str
    """ID of the event with the results."""
    results: Sequence[MissingResult]
    task: TaskSummary | None = None
    """Missing if the task is deleted."""


@definition
class BillAlertData(AlertData):
    """What differs between Kling's ledgers and the stored costs, for whole days in UTC."""

    from_: Day
    to: Day
    unknown: int
    """Number of billed tasks that are not in the store."""
    unbilled: int
    """Number of tasks that succeeded and were not billed."""
    different: int
    """Number of tasks whose amounts differ."""
    examples: Mapping[str, Sequence[str]]


@definition
class AlertPack(JsonObject):
    """A prepaid pack of the account, with exact amounts."""

    id: str
    name: str
    total: Amount
    left: Amount
    expires_at: Timestamp | None


@definition
class PackAlertData(AlertData):
    """A pack that is nearly used up, or not any more."""

    pack: AlertPack


@definition
class DiskAlertData(AlertData):
    """The free space of the store's disk."""

    folder: str
    free: int
    """Free bytes."""
    needed: int
    """Bytes below which nothing new is stored."""
