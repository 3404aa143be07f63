"""Decide when a route is held, probed and released, after an attempt or by an operator. Pure: no clock, no I/O."""

from datetime import datetime, timedelta

from msgspec.structs import replace

from receiver.domain.model import Accepted, Failed, HeldBy, Outcome, Refused, RouteState
from receiver.net.retry_after import MAX_RETRY_AFTER

HOLD_AFTER = 5
"""Consecutive failures after which a route is held."""
HOLD_DELIVERIES = 3
"""The number of deliveries that these failures must come from: one event that always fails holds no route."""
ALERT_AFTER_REJECTED = 5
"""The number of deliveries rejected in a row after which an alert is raised: the route's secret or URL may be wrong."""
PROBE_INTERVAL = timedelta(minutes=1)


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
            return _without_failures(route)
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


def _without_failures(route: RouteState) -> RouteState:
    if not (route.failures or route.failing or route.rejected):
        return route
    return replace(route, failures=0, failing=frozenset(), rejected=frozenset())


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
