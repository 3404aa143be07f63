"""The query parameters of the console's lists. Forms send empty fields; they count as missing."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from receiver.domain.costs import CostGrouping
from receiver.domain.listed_state import ListedState
from receiver.domain.model import DeliveryStatus
from receiver.web import request_types as types
from receiver.web.api_requests import Query
from receiver.web.request_types import CommaSeparated, Pairs

PAGE_SIZE = 50


def _read_time(value: object) -> object:
    """Add UTC to a time of a form, which has no zone."""
    if not isinstance(value, str):
        return value
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return value
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


Time = Annotated[types.Timestamp | None, BeforeValidator(_read_time)]


class ListFilter(Query):
    """The filters of a list, and the cursor of its page."""

    cursor: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: dict[str, list[str]]) -> dict[str, list[str]]:
        kept = {name: [each for each in given if each.strip()] for name, given in values.items()}
        return {name: given for name, given in kept.items() if given}


class TaskFilter(ListFilter):
    """Which tasks to show."""

    q: Annotated[str, Field(max_length=200), types.expected("at most 200 characters")] = ""
    state: CommaSeparated[Annotated[ListedState, types.one_of(ListedState)]] = ()
    endpoint: str | None = None
    label: str | None = None
    tag: Pairs = Field(default_factory=dict)
    batch: str | None = None
    from_: Annotated[Time, Field(alias="from")] = None
    to: Time = None


class EventFilter(ListFilter):
    """Which events to show."""

    type: CommaSeparated[str] = ()
    task: str | None = None
    from_: Annotated[Time, Field(alias="from")] = None
    to: Time = None


class DeliveryFilter(ListFilter):
    """Which deliveries to show."""

    status: Annotated[DeliveryStatus | None, types.one_of(DeliveryStatus)] = None
    route: str | None = None


class AttemptFilter(ListFilter):
    """Which attempts to show."""

    route: str | None = None


class ReplayFilter(ListFilter):
    """What to deliver again."""

    delivery: Annotated[tuple[str, ...], Field(max_length=500)] = ()
    event: Annotated[tuple[str, ...], Field(max_length=500)] = ()
    task: str | None = None
    route: str | None = None
    status: CommaSeparated[Annotated[DeliveryStatus, types.one_of(DeliveryStatus)]] = ()
    from_: Annotated[Time, Field(alias="from")] = None
    to: Time = None
    to_route: str | None = None
    pace: str | None = None


class CostFilter(ListFilter):
    """Which costs to sum, and by what."""

    by: types.CostKey = (CostGrouping.DAY, None)
    from_: Annotated[Time, Field(alias="from")] = None
    to: Time = None


class TaskPageFilter(ListFilter):
    """The chosen bar of a task's story."""

    bar: str | None = None
