"""What the admin API accepts: the query parameters and the JSON bodies of its operations.

These models validate requests, and ``/openapi.json`` is generated from them. ``domain/api_schema`` defines the
responses.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from receiver.domain.batches import BatchState
from receiver.domain.costs import CostGrouping
from receiver.domain.listed_state import ListedState
from receiver.domain.model import DeliveryStatus
from receiver.domain.tracked_alerts import AlertState
from receiver.events.samples import sample_names
from receiver.submission.request import MAX_PRIORITY
from receiver.web import request_types as types
from receiver.web.request_types import CommaSeparated, Pairs

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

MAX_BACKTEST = 1000
CALLBACK_CHOICES = ("all", "final")

_MAX_BATCH_SIZE = 1_000_000
_CONFIG = ConfigDict(
    extra="forbid",
    frozen=True,
    defer_build=True,  # until its first request: building all of them takes a fifth of the service's start
)


class Query(BaseModel):
    """Query parameters. Validation takes the list of each parameter's values."""

    model_config = _CONFIG

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, values: dict[str, list[str]]) -> dict[str, object]:
        """Check the names, and that only parameters that are lists are repeated."""
        _check_names(values, _names(cls), "query parameter")
        lists = _list_names(cls)
        for name, given in values.items():
            if name not in lists and len(given) > 1:
                raise types.sentence(f"{name!r} must be given only once.")
        return {name: given if name in lists else given[0] for name, given in values.items()}


class Body(BaseModel):
    """A JSON body."""

    model_config = _CONFIG

    @model_validator(mode="before")
    @classmethod
    def _check(cls, values: object) -> object:
        if isinstance(values, dict):
            _check_names(values, _names(cls), "member")
        return values


def _check_names(given: Mapping[str, object], known: AbstractSet[str], noun: str) -> None:
    """Refuse the first unknown name, so that no filter is ignored, and a body of many unknown names costs little."""
    if given.keys() <= known:
        return
    unknown = next(name for name in given if name not in known)
    expected = ", ".join(sorted(known)) or "nothing"
    raise types.sentence(f"Unknown {noun} {types.shorten(unknown)}. Expected: {expected}.")


@cache
def _names(model: type[BaseModel]) -> AbstractSet[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@cache
def _list_names(model: type[Query]) -> Collection[str]:
    schema = model.model_json_schema()["properties"] if model.model_fields else {}
    return [name for name, member in schema.items() if member.get("type") == "array"]


class NoQuery(Query):
    """No query parameters."""


class PageQuery(Query):
    """The parameters of a list."""

    limit: Annotated[int, *types.number_text(1, MAX_LIMIT)] = DEFAULT_LIMIT
    """Maximum number of items."""
    cursor: types.Cursor = None
    """The previous page's `next`."""


class TimeQuery(PageQuery):
    """The parameters of a list of what happened over time."""

    from_: Annotated[types.OptionalTimestamp, Field(alias="from")] = None
    """Created at or after this time."""
    to: types.OptionalTimestamp = None
    """Created before this time."""


class TaskCountQuery(Query):
    """Which tasks to count."""

    tag: Pairs = {}
    """Only tasks with this tag, written key:value."""
    batch: str | None = None
    """Only this batch."""


class TaskQuery(TaskCountQuery, TimeQuery):
    """Which tasks to list."""

    state: CommaSeparated[Annotated[ListedState, types.one_of(ListedState)]] = ()
    """Only these states."""
    endpoint: str | None = None
    """Only this endpoint."""
    label: str | None = None
    """Only this label."""


class DeletionQuery(Query):
    """How to delete a task."""

    results: Annotated[bool, types.expected("true or false")] = False
    """Remove its archived files and objects too."""
    dry_run: Annotated[bool, types.expected("true or false")] = False
    """Only preview the deletion."""
    why: types.Text = ""
    """Reason, for the audit log."""


class BatchQuery(PageQuery):
    """Which batches to list."""

    state: CommaSeparated[Annotated[BatchState, types.one_of(BatchState)]] = ()
    """Only these states."""


class CostQuery(Query):
    """Which costs to sum, and by what."""

    by: types.CostKey = (CostGrouping.ENDPOINT, None)
    """tag:NAME, endpoint, day, label or batch; default: endpoint."""
    from_: Annotated[types.Timestamp | None, Field(alias="from")] = None
    """Only tasks that ended at or after this time."""
    to: types.Timestamp | None = None
    """Only tasks that ended before this time."""


class StreamQuery(Query):
    """Which events to follow."""

    after: types.EventId | None = None
    """Start after the event with this ID; the Last-Event-ID header does the same."""
    type: CommaSeparated[str] = ()
    """Only these types."""
    task: str | None = None
    """Only this task, by any of its IDs."""


class EventQuery(TimeQuery):
    """Which events to list."""

    type: CommaSeparated[str] = ()
    """Only these types."""
    task: str | None = None
    """Only this task, by any of its IDs."""
    batch: str | None = None
    """Only tasks of this batch."""
    after: types.EventId | None = None
    """Only events newer than the one with this ID."""


class DeliveryQuery(TimeQuery):
    """Which deliveries to list."""

    status: CommaSeparated[Annotated[DeliveryStatus, types.one_of(DeliveryStatus)]] = ()
    """Only these statuses."""
    route: str | None = None
    """Only this route."""
    task: str | None = None
    """Only this task, by any of its IDs."""
    event: str | None = None
    """Only this event."""


class AlertQuery(TimeQuery):
    """Which alerts to list."""

    state: CommaSeparated[Annotated[AlertState, types.one_of(AlertState)]] = ()
    """Only these states."""
    type: CommaSeparated[str] = ()
    """Only these types, such as alert.route_held."""
    subject: str | None = None
    """Only alerts about this route, task, event or folder."""


class EmptyBody(Body):
    """No members."""


class ActionRequest(Body):
    """Why an operator acts."""

    why: types.Text = ""
    """Reason, for the audit log."""


class RouteTestRequest(Body):
    """Which sample event to send."""

    type: Annotated[types.RequiredLine, Field(json_schema_extra={"enum": [*sample_names()]})] = "succeed"
    """A task's state, `batch`, `report`, or an alert such as `alert.route_held`."""
    endpoint: types.OptionalLine = None
    """Endpoint of the test task; default: images/multi-image2image."""


class BacktestRequest(Body):
    """Which stored events to try a route with."""

    event: types.OptionalLine = None
    """Only the event with this ID."""
    last: Annotated[int, *types.whole_number(1, MAX_BACKTEST)] = 100
    """Number of events, newest first."""


class BillCheckRequest(Body):
    """Which period of Kling's ledgers to compare."""

    from_: Annotated[types.OptionalTimestamp, Field(alias="from")] = None
    """Compare charges at or after this time; default: 30 days before `to`."""
    to: types.OptionalTimestamp = None
    """Compare charges before this time; default: now."""


class EstimateRequest(Body):
    """The task whose cost to estimate. Nothing is submitted."""

    endpoint: Annotated[types.RequiredLine, Field(examples=["images/multi-image2image"])]
    """Path of one of Kling's endpoints."""
    body: types.KlingBody
    """Kling's JSON for this endpoint. Images may be left out."""


class BatchRequest(Body):
    """The batch of a new task, with the number of tasks it will have."""

    name: types.BatchName
    size: Annotated[int | None, *types.whole_number(1, _MAX_BATCH_SIZE)] = None


class AcknowledgeRequest(Body):
    """The note with which an operator acknowledges an alert."""

    note: types.Text = ""
    """Note for other operators, and for the audit log."""


def _name_alone(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class LabelRequest(Body):
    """How a client labels a task."""

    label: types.OptionalLine = None
    tags: types.Tags = {}


class TriggerRequest(LabelRequest):
    """Which test task to send through the routes."""

    state: types.ReachableState
    """The state that the task reaches."""
    endpoint: types.OptionalLine = None
    """Endpoint of the task; default: images/multi-image2image."""


class TaskLabelRequest(LabelRequest):
    """How a client labels a task that it submits."""

    batch: Annotated[
        BatchRequest | None,
        BeforeValidator(_name_alone, json_schema_input_type=str | BatchRequest | None),
        types.expected_container("a name, or an object with a name and a size"),
    ] = None
    """Name of the batch, or its name and size."""


class SubmitRequest(TaskLabelRequest):
    """A new task."""

    endpoint: Annotated[types.RequiredLine, Field(examples=["images/multi-image2image"])]
    """Path of one of Kling's endpoints."""
    body: types.KlingBody
    """Kling's JSON for this endpoint; it is sent unchanged. Its members are not listed: Kling often adds some."""
    priority: Annotated[int, *types.whole_number(-MAX_PRIORITY, MAX_PRIORITY), types.null_is(0)] = 0
    """Queued tasks of higher priority are sent first."""
    idempotency_key: types.OptionalLine = None
    """A repeated key returns the first task."""
    reply: Annotated[Literal["all", "final"] | None, types.expected("all or final", shown=True)] = None
    """What `callback_url` in the body receives: all of Kling's statuses, or only the end, once. Default: `[gateway]
    callbacks`."""
    reuse: types.Flag = False
    """A known idempotency key returns its task, even if that had another body. Without it the answer is 409."""


class JobLine(SubmitRequest):
    """A line of a file of jobs, which `kling-receiver submit` reads. The command may name the endpoint instead."""

    endpoint: types.Text = ""
    image: Any = None


class CallbackUrlRequest(LabelRequest):
    """A callback URL for a task that is submitted elsewhere."""

    endpoint: types.OptionalLine = None
    """The task's endpoint. Without it, the task cannot be polled or confirmed."""


class ReplayRequest(ActionRequest):
    """Which events to deliver again, and how."""

    deliveries: types.Lines = ()
    """IDs of deliveries."""
    events: types.Lines = ()
    """IDs of events."""
    task: types.OptionalLine = None
    """Only this task, by any of its IDs."""
    route: types.OptionalLine = None
    """Only deliveries to this route."""
    status: Annotated[tuple[Annotated[DeliveryStatus, types.one_of(DeliveryStatus)], ...], *types.SHORT_LIST] = ()
    """Only deliveries with these statuses."""
    from_: Annotated[types.OptionalTimestamp, Field(alias="from")] = None
    """Created at or after this time."""
    to: types.OptionalTimestamp = None
    """Created before this time."""
    to_route: types.OptionalLine = None
    """Deliver to this route instead."""
    pace: Annotated[types.OptionalLine, Field(examples=["5/s", "100/m"])] = None
    """Maximum rate."""
    dry_run: types.Flag = False
    """Only preview the replay."""

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise types.sentence("'from' must be before 'to'.")
        return self
