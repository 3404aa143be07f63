"""The queue of deliveries, and the states of their routes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from receiver.domain.audit import AuditEntry
from receiver.domain.model import Attempt, Delivery, Event, RouteState, Verdict
from receiver.events.factory import RoutedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """A delivery under our claim, with everything its sender needs. ``reply_to`` is the task's own callback URL."""

    delivery: Delivery
    event: Event
    reply_to: str | None = None


class DeliveryQueue(Protocol):
    """Pending deliveries. A claim is a lease: the delivery is due again when the lease ends."""

    async def due_routes(self) -> Mapping[str, datetime]:
        """Return when the next delivery is due, for each route with pending deliveries."""
        ...

    async def claim(
        self, route: str, *, now: datetime, until: datetime, limit: int, claim: str, early: bool = False
    ) -> Sequence[ClaimedDelivery]:
        """Claim up to *limit* due deliveries of *route*, longest due first, with the lease *claim* until *until*.

        Adds one to ``unfinished_claims`` of each. *early* also claims deliveries that wait for a retry.
        """
        ...

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alert: RoutedEvent | None = None,
    ) -> bool:
        """Store an attempt and its verdict; if given, also the route's new state and its alert.

        Return False and write nothing if the claim has changed. Sets ``attempts`` to the attempt's number and
        ``unfinished_claims`` to 0.
        """
        ...

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Release a claimed delivery without an attempt: it is due *now*, with one ``unfinished_claims`` less."""
        ...

    async def release_all(self, *, now: datetime) -> int:
        """Make every claimed delivery due *now*; return the count.

        Call it only at startup, when no other process is at work.
        """
        ...

    async def retry_now(self, route: str, *, now: datetime) -> int:
        """Make every attempted, pending, unclaimed delivery of *route* due, ordered by age; return the count."""
        ...

    async def bring_forward(self, route: str, *, now: datetime, archive_wait_until: datetime, limit: int) -> int:
        """After the clock was set back to *now*, make up to *limit* deliveries of *route* due.

        These are deliveries without an attempt and with a later due time. Those that wait for files become due
        at *archive_wait_until*. Return the count; 0 means that none is left.
        """
        ...

    async def route_states(self) -> Mapping[str, RouteState]:
        """Return the stored state of each route."""
        ...

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Store a route's state, its alert and the audit entry of the change."""
        ...
