"""Reads for lists and single items."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Attempt, Delivery, DeliveryStatus, Event, Push, Task, TaskState

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list, newest first. ``next`` is the cursor of the page after it."""

    items: Sequence[T]
    next: str | None = None


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery with its event's type and task id, as lists show it."""

    delivery: Delivery
    event_type: str
    task_id: str | None


class RouteBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """The pending deliveries of one route: their number and the creation time of the oldest."""

    route: str
    pending: int
    oldest: datetime


class Catalog(Protocol):
    """Reads of everything stored. A read never waits for a writer."""

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, then by Kling's, then by the external one."""
        ...

    async def tasks(
        self,
        *,
        states: Sequence[TaskState | ListedState] = (),
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first. *since* and *until* limit the time of creation; *until* is excluded."""
        ...

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by listed state."""
        ...

    async def pushes(self, task_id: str) -> Sequence[Push]:
        """Return the pushes of a task, oldest first."""
        ...

    async def event(self, event_id: str) -> Event | None:
        """Find an event."""
        ...

    async def events(
        self,
        *,
        types: Sequence[str] = (),
        task_id: str | None = None,
        batch: str | None = None,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """List events, newest first. With *after*, an event id, list those committed after it, in that order.

        *batch* limits the list to events of the batch's tasks, *since* and *until* as for tasks.
        """
        ...

    async def delivery(self, delivery_id: str) -> DeliveryView | None:
        """Find a delivery."""
        ...

    async def deliveries(
        self,
        *,
        statuses: Sequence[DeliveryStatus] = (),
        route: str | None = None,
        task_id: str | None = None,
        event_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[DeliveryView]:
        """List deliveries, newest first. *since* and *until* as for tasks."""
        ...

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """Return the attempts of a delivery, oldest first."""
        ...

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Return the backlog of each route with pending deliveries."""
        ...

    async def actions(self, *, subjects: Sequence[str] = (), limit: int = 50) -> Sequence[AuditEntry]:
        """Return the audit log, newest first; *subjects* limits it to these subjects."""
        ...
