"""The queue of deliveries, and the states of their routes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NotRequired, Protocol, TypedDict, Unpack

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.model import Attempt, Delivery, Event, RouteState, Verdict
from receiver.events.factory import RoutedEvent


class ClaimedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery under our claim, with everything its sender needs. ``reply_to`` is the task's own callback URL.

    ``due_since`` is when it was due before the claim; None if that is not known.
    """

    delivery: Delivery
    event: Event
    reply_to: str | None = None
    due_since: datetime | None = None


class ClaimOptions(TypedDict):
    """What to claim, and how: up to ``limit`` deliveries due at ``now``, with the lease ``claim`` until ``until``.

    ``early`` also claims deliveries that wait for a retry. ``only`` is the id of the only delivery to claim, ``skip``
    are the ids of those not to claim.
    """

    now: datetime
    until: datetime
    limit: int
    claim: str
    early: NotRequired[bool]
    only: NotRequired[str | None]
    skip: NotRequired[Collection[str]]


class RouteClaim(msgspec.Struct, frozen=True, kw_only=True):
    """What to claim of one route: up to ``limit`` due deliveries, with the lease ``claim`` until ``until``."""

    route: str
    until: datetime
    limit: int
    claim: str


class ClaimedRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """The claimed deliveries of each route, and when each route's next delivery is due after that."""

    claimed: Mapping[str, Sequence[ClaimedDelivery]]
    due_routes: Mapping[str, datetime]


class RecoveredClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What was left in flight when a process died: the number of released claims, and the suspects.

    ``suspects`` maps the id of each suspect to its route, the least suspected first.
    """

    released: int
    suspects: Mapping[str, str]


class DeliveryQueue(Protocol):
    """Pending deliveries. A claim is a lease: the delivery is due again when the lease ends."""

    async def due_routes(self) -> Mapping[str, datetime]:
        """Return when the next delivery is due, for each route with pending deliveries."""
        ...

    async def claim(self, route: str, **options: Unpack[ClaimOptions]) -> Sequence[ClaimedDelivery]:
        """Claim due deliveries of *route*, longest due first."""
        ...

    async def claim_routes(
        self, wanted: Sequence[RouteClaim], *, now: datetime, skip: Collection[str] = ()
    ) -> ClaimedRoutes:
        """Claim due deliveries of several routes at once, apart from those in *skip*."""
        ...

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alerts: Sequence[RoutedEvent] = (),
    ) -> bool:
        """Store an attempt and its verdict; if given, also the route's new state and alerts.

        Return False and write nothing if the claim has changed. Sets ``attempts`` to the attempt's number and
        ``unfinished_claims`` to 0.
        """
        ...

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Release a claimed delivery without an attempt: it is due *now*."""
        ...

    async def release_all(self, *, now: datetime, suspect_after: int) -> RecoveredClaims:
        """Make every claimed delivery due *now*, and return the suspects: ``unfinished_claims`` >= *suspect_after*.

        A claim that is left means that its process died. Adds one to ``unfinished_claims`` of a delivery that was alone
        in flight. If several were, adds one to each, but not beyond *suspect_after*. Call it only at startup, when no
        other process is at work.
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
