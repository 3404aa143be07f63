"""Events, exactly as destinations receive them, by type.

``events/payload`` writes their bytes without these classes, for speed. Tests compare both.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, RootModel

from receiver.domain.api_schema.alert_data import (
    AccountAlertData,
    AccountRecoveredData,
    AssetAlertData,
    BillAlertData,
    CallbackAlertData,
    ContradictionAlertData,
    DeadDeliveryAlertData,
    DiskAlertData,
    PackAlertData,
    RejectionAlertData,
    RouteAlertData,
    StuckAlertData,
    SubmitAlertData,
)
from receiver.domain.api_schema.json_object import JsonObject, SparseObject, Timestamp, definition
from receiver.domain.api_schema.reports import ReportEvent
from receiver.domain.api_schema.tasks import Assets, BatchSummary, Results, TaskSummary
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Json, Source, TaskState, Verification


@definition
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
    test: bool = False
    """True for a test event; otherwise missing."""


@definition
class FinishedTask(TaskSummary):
    """A finished task of a batch, with its results."""

    state: ListedState
    message: str
    result: Results
    assets: Assets


@definition
class BatchData(SparseObject):
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
    test: bool = False
    """True for a test event; otherwise missing."""


@definition
class _Event(JsonObject):
    timestamp: Timestamp


@definition
class TaskEvent(_Event):
    """A new state of a task."""

    type: Literal["task.submitted", "task.processing", "task.succeed", "task.failed", "task.rejected", "task.expired"]
    data: TaskData


@definition
class BatchEvent(_Event):
    """All tasks of a batch are finished."""

    type: Literal["batch.finished"]
    data: BatchData


@definition
class RouteAlert(_Event):
    """A route is held, or delivers again."""

    type: Literal["alert.route_held", "alert.route_recovered"]
    data: RouteAlertData


@definition
class RejectionAlert(_Event):
    """A destination rejects several events in a row."""

    type: Literal["alert.events_rejected"]
    data: RejectionAlertData


@definition
class DeadDeliveryAlert(_Event):
    """A delivery was given up."""

    type: Literal["alert.delivery_dead"]
    data: DeadDeliveryAlertData


@definition
class AccountAlert(_Event):
    """Kling refuses calls of this account."""

    type: Literal["alert.account"]
    data: AccountAlertData


@definition
class AccountRecoveredAlert(_Event):
    """Kling accepts calls of this account again."""

    type: Literal["alert.account_recovered"]
    data: AccountRecoveredData


@definition
class CallbackAlert(_Event):
    """Kling's callbacks do not arrive, or arrive again."""

    type: Literal["alert.callbacks_missed", "alert.callbacks_recovered"]
    data: CallbackAlertData


@definition
class SubmitAlert(_Event):
    """It is unknown whether Kling created a task."""

    type: Literal["alert.submit_unknown"]
    data: SubmitAlertData


@definition
class StuckAlert(_Event):
    """A task is still running after `[poll] stuck_after`."""

    type: Literal["alert.task_stuck"]
    data: StuckAlertData


@definition
class ContradictionAlert(_Event):
    """Kling reports another end of a task than the stored one."""

    type: Literal["alert.task_contradicted"]
    data: ContradictionAlertData


@definition
class AssetAlert(_Event):
    """Results were not archived in time, or were archived late."""

    type: Literal["alert.asset_lost", "alert.asset_expiring", "alert.asset_recovered"]
    data: AssetAlertData


@definition
class DiskAlert(_Event):
    """The store's disk is full, or has space again."""

    type: Literal["alert.disk_full", "alert.disk_recovered"]
    data: DiskAlertData


@definition
class BillAlert(_Event):
    """Kling's ledgers differ from the stored costs."""

    type: Literal["alert.bill_differs"]
    data: BillAlertData


@definition
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


class AlertEvent(RootModel[Annotated[Alert, Field(discriminator="type")]]):
    """An alert, exactly as destinations receive it."""
