"""Reads for people: searches, and the latest of everything. Each costs about the same in a store of any size."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

import msgspec

from receiver.domain.listed_state import ListedState
from receiver.domain.model import Attempt, DeliveryStatus, Event, Task
from receiver.store.interfaces.catalog import DeliveryView

T = TypeVar("T")


class Found(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What a search found in one window of a list, newest first. ``next`` is the cursor of the rest.

    A search reads a limited number of rows. ``is_partial`` says that it ended there, perhaps before a match.
    """

    items: Sequence[T]
    next: str | None = None
    is_partial: bool = False


class TaskSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to find; every given condition must match. *text* is part of an id, the label or the prompt."""

    text: str = ""
    states: Sequence[ListedState] = ()
    endpoint: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    batch: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class EventSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to find; every given condition must match."""

    types: Sequence[str] = ()
    task_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class DeliverySearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which deliveries to find; every given condition must match. *attempted* are those with an attempt."""

    status: DeliveryStatus | None = None
    route: str | None = None
    attempted: bool = False


class BriefDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as a dot shows it."""

    id: str
    event_id: str
    route: str
    status: DeliveryStatus


class RecentAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as a chart shows it."""

    route: str
    started_at: datetime
    duration: timedelta
    outcome: str


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What waits and what is wrong. A count stops at ``COUNT_LIMIT``."""

    running: int
    queued: int
    dead: int


COUNT_LIMIT = 10_000


class Overview(Protocol):
    """Reads for the console. A read never waits for a writer."""

    async def find_tasks(self, search: TaskSearch, *, limit: int, cursor: str | None = None) -> Found[Task]:
        """Search the tasks, newest first."""
        ...

    async def find_events(self, search: EventSearch, *, limit: int, cursor: str | None = None) -> Found[Event]:
        """Search the events, newest first."""
        ...

    async def find_deliveries(
        self, search: DeliverySearch, *, limit: int, cursor: str | None = None
    ) -> Found[DeliveryView]:
        """Search the deliveries, newest first."""
        ...

    async def attempts_of(self, delivery_ids: Sequence[str]) -> Sequence[Attempt]:
        """Return the attempts of some deliveries, newest first."""
        ...

    async def deliveries_of(self, event_ids: Sequence[str]) -> Sequence[BriefDelivery]:
        """Return the deliveries of some events, oldest first. A delivery that was replayed is left out."""
        ...

    async def costs_of(self, task_ids: Sequence[str]) -> Mapping[str, Mapping[str, Decimal]]:
        """Return the charges of some tasks, by task and unit."""
        ...

    async def recent_attempts(self, *, since: datetime) -> Sequence[RecentAttempt]:
        """Return attempts since a time: those of the newest deliveries, and of deliveries that wait for a retry."""
        ...

    async def workload(self) -> Workload:
        """Count what waits and what is dead."""
        ...
