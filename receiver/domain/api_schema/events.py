"""Events, exactly as destinations receive them, by type.

``events/payload`` writes their bytes without these classes, for speed. Tests compare both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, RootModel

from receiver.domain.api_schema.json_object import JsonObject, SparseObject, Timestamp
from receiver.domain.api_schema.reports import ReportEvent
from receiver.domain.api_schema.tasks import Assets, BatchSummary, Results
from receiver.domain.model import HeldBy, Json, Source, TaskState, Verification


@dataclass(frozen=True, kw_only=True)
class TaskSummary(JsonObject):
    """The task that an event is about."""

    id: str
    kling_id: str | None
    external_task_id: str | None
    endpoint: str | None
    label: str | None
    tags: Mapping[str, str]
    batch: str | None
    created_at: Timestamp


@dataclass(frozen=True, kw_only=True)
class TaskData(SparseObject):
    """What happened to a task."""

    event_id: str
    status: TaskState
    message: str
    source: Source
    verified: Verification
    task: TaskSummary
    result: Results
    """Entries by kind, such as images. Kling defines their members."""
    assets: Assets = ()
    """Archived files; missing without an archive."""
    kling: Json | None = None
    """Kling's own JSON as received. Missing if the receiver ended the task, and after `[retention] bodies`."""


@dataclass(frozen=True, kw_only=True)
class FinishedTask(TaskSummary):
    """A finished task of a batch, with its results."""

    state: TaskState
    message: str
    result: Results
    assets: Assets


@dataclass(frozen=True, kw_only=True)
class BatchData(JsonObject):
    """How the tasks of a batch ended."""

    event_id: str
    status: Literal["finished"]
    message: str
    batch: BatchSummary
    tasks: Sequence[FinishedTask]
    left_out: int
    """Number of tasks that are not in `tasks`, so that the event stays small."""
    rest: str | None
    """Path of the API that lists the events of all tasks; null if none is left out."""


@dataclass(frozen=True, kw_only=True)
class AlertData(SparseObject):
    """What every alert says."""

    event_id: str
    message: str
    remedy: str = ""
    """What to do; missing if the message says it."""


@dataclass(frozen=True, kw_only=True)
class RouteAlertData(AlertData):
    """Why a route is or was held."""

    route: str
    failures: int
    """Number of consecutive failures."""
    reason: str
    held_by: HeldBy | None
    held_at: Timestamp | None


@dataclass(frozen=True, kw_only=True)
class RejectionAlertData(AlertData):
    """Which route's destination rejects events."""

    route: str
    reason: str
    """The answer to the last event."""


@dataclass(frozen=True, kw_only=True)
class DeadDeliveryAlertData(AlertData):
    """Which delivery was given up, and why."""

    route: str
    delivery: str
    """ID of the delivery."""
    event: str
    """ID of the event."""
    attempts: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class AccountScope(JsonObject):
    """The part of the account that an issue concerns."""

    reach: Literal["account", "pack", "resource"]
    name: str
    """Name of the pack or the resource; empty for the account."""


@dataclass(frozen=True, kw_only=True)
class AccountAlertData(AlertData):
    """What Kling refuses."""

    kling_code: int | str | None
    request_id: str
    stops_submits: bool
    concerns: AccountScope


@dataclass(frozen=True, kw_only=True)
class AccountRecoveredData(AlertData):
    """What Kling accepts again."""

    concerns: AccountScope


@dataclass(frozen=True, kw_only=True)
class CallbackAlertData(AlertData):
    """How many callbacks did not arrive."""

    missed: int
    of: int
    """Number of tasks that ended last and were counted."""


@dataclass(frozen=True, kw_only=True)
class SubmitAlertData(AlertData):
    """A create whose answer was lost."""

    sent_at: Timestamp
    task: TaskSummary


@dataclass(frozen=True, kw_only=True)
class StuckAlertData(AlertData):
    """A task that has not ended in time."""

    state: TaskState
    reason: str
    """Kling's last message about the task."""
    asks: int
    """Number of polls."""
    since: Timestamp
    task: TaskSummary


@dataclass(frozen=True, kw_only=True)
class ContradictionAlertData(AlertData):
    """A task of which Kling reports another end than the stored one."""

    state: TaskState
    """The stored state, which is kept."""
    task: TaskSummary


@dataclass(frozen=True, kw_only=True)
class MissingResult(SparseObject):
    """A result that is or was not archived."""

    number: int
    """Position among the results of the event, from 0."""
    url: str
    reason: str
    still_tried: bool
    path: str | None = None
    """The file, once it is archived."""


@dataclass(frozen=True, kw_only=True)
class AssetAlertData(AlertData):
    """Results that are or were not archived."""

    event: str
    """ID of the event with the results."""
    results: Sequence[MissingResult]
    task: TaskSummary | None = None
    """Missing if the task is deleted."""


@dataclass(frozen=True, kw_only=True)
class BillAlertData(AlertData):
    """What differs between Kling's ledgers and the stored costs, for whole days in UTC."""

    from_: str
    to: str
    unknown: int
    """Number of billed tasks that are not in the store."""
    unbilled: int
    """Number of tasks that succeeded and were not billed."""
    different: int
    """Number of tasks whose amounts differ."""
    examples: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class AlertPack(JsonObject):
    """A prepaid pack of the account, with exact amounts."""

    id: str
    name: str
    total: str
    left: str
    expires_at: Timestamp | None


@dataclass(frozen=True, kw_only=True)
class PackAlertData(AlertData):
    """A pack that is nearly used up, or not any more."""

    pack: AlertPack


@dataclass(frozen=True, kw_only=True)
class DiskAlertData(AlertData):
    """The free space of the store's disk."""

    folder: str
    free: int
    """Free bytes."""
    needed: int
    """Bytes below which nothing new is stored."""


@dataclass(frozen=True, kw_only=True)
class _Event(JsonObject):
    timestamp: Timestamp


@dataclass(frozen=True, kw_only=True)
class TaskEvent(_Event):
    """A new state of a task."""

    type: Literal["task.submitted", "task.processing", "task.succeed", "task.failed", "task.rejected", "task.expired"]
    data: TaskData


@dataclass(frozen=True, kw_only=True)
class BatchEvent(_Event):
    """All tasks of a batch are finished."""

    type: Literal["batch.finished"]
    data: BatchData


@dataclass(frozen=True, kw_only=True)
class RouteAlert(_Event):
    """A route is held, or delivers again."""

    type: Literal["alert.route_held", "alert.route_recovered"]
    data: RouteAlertData


@dataclass(frozen=True, kw_only=True)
class RejectionAlert(_Event):
    """A destination rejects several events in a row."""

    type: Literal["alert.events_rejected"]
    data: RejectionAlertData


@dataclass(frozen=True, kw_only=True)
class DeadDeliveryAlert(_Event):
    """A delivery was given up."""

    type: Literal["alert.delivery_dead"]
    data: DeadDeliveryAlertData


@dataclass(frozen=True, kw_only=True)
class AccountAlert(_Event):
    """Kling refuses calls of this account."""

    type: Literal["alert.account"]
    data: AccountAlertData


@dataclass(frozen=True, kw_only=True)
class AccountRecoveredAlert(_Event):
    """Kling accepts calls of this account again."""

    type: Literal["alert.account_recovered"]
    data: AccountRecoveredData


@dataclass(frozen=True, kw_only=True)
class CallbackAlert(_Event):
    """Kling's callbacks do not arrive, or arrive again."""

    type: Literal["alert.callbacks_missed", "alert.callbacks_recovered"]
    data: CallbackAlertData


@dataclass(frozen=True, kw_only=True)
class SubmitAlert(_Event):
    """It is unknown whether Kling created a task."""

    type: Literal["alert.submit_unknown"]
    data: SubmitAlertData


@dataclass(frozen=True, kw_only=True)
class StuckAlert(_Event):
    """A task is still running after `[poll] stuck_after`."""

    type: Literal["alert.task_stuck"]
    data: StuckAlertData


@dataclass(frozen=True, kw_only=True)
class ContradictionAlert(_Event):
    """Kling reports another end of a task than the stored one."""

    type: Literal["alert.task_contradicted"]
    data: ContradictionAlertData


@dataclass(frozen=True, kw_only=True)
class AssetAlert(_Event):
    """Results were not archived in time, or were archived late."""

    type: Literal["alert.asset_lost", "alert.asset_expiring", "alert.asset_recovered"]
    data: AssetAlertData


@dataclass(frozen=True, kw_only=True)
class DiskAlert(_Event):
    """The store's disk is full, or has space again."""

    type: Literal["alert.disk_full", "alert.disk_recovered"]
    data: DiskAlertData


@dataclass(frozen=True, kw_only=True)
class BillAlert(_Event):
    """Kling's ledgers differ from the stored costs."""

    type: Literal["alert.bill_differs"]
    data: BillAlertData


@dataclass(frozen=True, kw_only=True)
class PackAlert(_Event):
    """A pack is nearly used up, or not any more."""

    type: Literal["alert.pack_low", "alert.pack_recovered"]
    data: PackAlertData


Alert = (
    RouteAlert
    | RejectionAlert
    | DeadDeliveryAlert
    | AccountAlert
    | AccountRecoveredAlert
    | CallbackAlert
    | SubmitAlert
    | StuckAlert
    | ContradictionAlert
    | AssetAlert
    | DiskAlert
    | BillAlert
    | PackAlert
)


class Event(RootModel[Annotated[TaskEvent | BatchEvent | ReportEvent | Alert, Field(discriminator="type")]]):
    """An event, exactly as destinations receive it."""
