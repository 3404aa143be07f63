"""Decide what happens to a delivery and its route after an attempt. Pure: no clock, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from msgspec.structs import replace

from receiver.domain.model import Accepted, DeliveryStatus, Failed, HeldBy, Outcome, Refused, RouteState, Verdict
from receiver.net.retry_after import MAX_RETRY_AFTER

JITTER = 0.2
HOLD_AFTER = 5
"""Consecutive failures after which a route is held."""
HOLD_DELIVERIES = 3
"""The number of deliveries that these failures must come from: one event that always fails holds no route."""
ALERT_AFTER_REJECTED = 5
"""The number of deliveries rejected in a row after which an alert is raised: the route's secret or URL may be wrong."""
PROBE_INTERVAL = timedelta(minutes=1)
SUSPECT_AFTER = 3
"""Deaths of the process during attempts at a delivery after which it is attempted alone, to find the cause.

Deaths with several deliveries in flight count only up to here. So no delivery is set aside for the fault of another.
"""
MAX_UNFINISHED_CLAIMS = 10
"""Deaths of the process during attempts at a delivery after which it is set aside: it seems to be their cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait after each failed attempt, and when to stop."""

    schedule: Sequence[timedelta]
    give_up_after: timedelta

    def decide(
        self, outcome: Outcome, *, attempt: int, age: timedelta, held: bool, now: datetime, rng: Random
    ) -> Verdict:
        """Decide what follows attempt number *attempt*, counted from one without probes, of a delivery of that *age*.

        In a held route a delivery dies only of its age or if it is refused itself: the route is failing, not the event.
        """
        match outcome:
            case Accepted():
                return Verdict(status=DeliveryStatus.DELIVERED, due_at=now, finished_at=now)
            case Failed() | Refused(hold=True) if held and age < self.give_up_after:
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + PROBE_INTERVAL, probe=True)
            case Refused():
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed() if age >= self.give_up_after:
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed(retry_after=retry_after):
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + self._delay(attempt, retry_after, rng))

    def _delay(self, attempt: int, retry_after: timedelta | None, rng: Random) -> timedelta:
        planned = self.schedule[min(attempt, len(self.schedule)) - 1]
        planned *= 1 + rng.uniform(-JITTER, JITTER)
        if retry_after is None:
            return planned
        return max(planned, min(retry_after, MAX_RETRY_AFTER))


def effective_age(created_at: datetime, route: RouteState, outcome: Outcome, *, now: datetime) -> timedelta:
    """Return how long a delivery could be attempted: since its creation or its route's last release.

    An event that its destination rejects gets no further time by a release.
    """
    if isinstance(outcome, Failed) and outcome.is_about_event:
        return now - created_at
    return now - max(created_at, route.released_at or created_at)


def next_route_state(
    route: RouteState, outcome: Outcome, *, delivery_id: str, started_at: datetime, now: datetime
) -> RouteState:
    """Return a route's state after an attempt: consecutive failures, and whether it is held.

    A refused delivery or a rejected event does not count against the route, unless the destination is gone.
    Only an operator releases a route that an operator holds.
    """
    match outcome:
        case Accepted() if route.held_by is HeldBy.FAILURES:
            return release(route, now=now)
        case Accepted():
            return replace(route, failures=0, failing=frozenset(), rejected=frozenset())
        case Refused(hold=False):
            return _schedule_probe(route, None, started_at=started_at, now=now)
        case Refused(reason=reason):
            route = _hold_for_failures(replace(route, failures=route.failures + 1), reason, now=now)
            return _schedule_probe(route, None, started_at=started_at, now=now)
        case Failed(is_about_event=True):
            route = replace(route, rejected=_with(route.rejected, delivery_id, limit=ALERT_AFTER_REJECTED))
            return _schedule_probe(route, None, started_at=started_at, now=now)
        case Failed(reason=reason, retry_after=retry_after):
            failing = _with(route.failing, delivery_id, limit=HOLD_DELIVERIES)
            route = replace(route, failures=route.failures + 1, failing=failing)
            if route.failures >= HOLD_AFTER and len(failing) >= HOLD_DELIVERIES:
                route = _hold_for_failures(route, reason, now=now)
            return _schedule_probe(route, retry_after, started_at=started_at, now=now)


def _with(ids: frozenset[str], delivery_id: str, *, limit: int) -> frozenset[str]:
    return ids | {delivery_id} if len(ids) < limit else ids


def hold(route: RouteState, why: str, *, now: datetime) -> RouteState:
    """Return the state of a route held by an operator, even if failures hold it already."""
    return replace(route, held_at=route.held_at or now, held_by=HeldBy.OPERATOR, held_why=why, probe_at=None)


def release(route: RouteState, *, now: datetime) -> RouteState:
    """Return the state of a released route."""
    return RouteState(name=route.name, released_at=now)


def _hold_for_failures(route: RouteState, why: str, *, now: datetime) -> RouteState:
    if route.is_held:
        return route
    return replace(route, held_at=now, held_by=HeldBy.FAILURES, held_why=why)


def _schedule_probe(
    route: RouteState, retry_after: timedelta | None, *, started_at: datetime, now: datetime
) -> RouteState:
    """Plan the next probe of a route held by failures: a minute after the last attempt, or after its Retry-After."""
    if route.held_by is not HeldBy.FAILURES:
        return route
    planned = [started_at + PROBE_INTERVAL]
    if retry_after is not None:
        planned.append(now + min(retry_after, MAX_RETRY_AFTER))
    if route.probe_at is not None:
        planned.append(route.probe_at)
    return replace(route, probe_at=max(planned))
