"""Hold and release routes: one change at a time per route, each with its alert.

Memory mirrors the store. A change is stored in one transaction with its cause (an attempt or an operator's request)
and its alert, so each alert is raised exactly once even if the process crashes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog
from msgspec.structs import replace

from receiver.delivery.route_hold import ALERT_AFTER_REJECTED, hold, next_route_state, release
from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock
from receiver.domain.model import (
    Accepted,
    Attempt,
    Delivery,
    DeliveryStatus,
    Failed,
    Outcome,
    Refused,
    RouteState,
    Verdict,
)
from receiver.domain.notifier import Notifiers
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ClaimedDelivery, DeliveryQueue

log = structlog.get_logger()

Decide = Callable[[RouteState, datetime], Verdict]
"""Return the verdict on a delivery after an attempt, given its route's state before the attempt."""


class RouteAlerts(Protocol):
    """Makes the alerts about routes and their deliveries."""

    def route_held(self, state: RouteState) -> RoutedEvent:
        """Return the alert for a route that is now held."""
        ...

    def route_recovered(self, before: RouteState, after: RouteState) -> RoutedEvent:
        """Return the alert for a route that is no longer held."""
        ...

    def events_rejected(self, state: RouteState, attempt: Attempt) -> RoutedEvent:
        """Return the alert for a destination that rejects one event after the other."""
        ...

    def delivery_dead(self, delivery: Delivery, attempt: Attempt) -> RoutedEvent:
        """Return the alert for a delivery that the receiver gave up after *attempt*."""
        ...


class RouteStates:
    """The states of all routes, in memory and in the store."""

    def __init__(self, queue: DeliveryQueue, alerts: RouteAlerts, *, notifiers: Notifiers, clock: Clock) -> None:
        self._queue = queue
        self._alerts = alerts
        self._notifiers = notifiers
        self._clock = clock
        self._states: dict[str, RouteState] = {}
        self._is_loaded = False
        self._reported_dead: set[str] = set()
        self._load_lock = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self, *, anew: bool = False) -> None:
        """Load the stored states once: an operator may change a route before the dispatcher starts.

        With *anew* load them again, because another process may have changed them.
        """
        async with self._load_lock:
            if anew or not self._is_loaded:
                self._states = dict(await self._queue.route_states())
                self._reported_dead.clear()
                self._is_loaded = True

    def get(self, route: str) -> RouteState:
        """Return a route's state."""
        return self._states.get(route) or RouteState(name=route)

    def probe_now(self) -> None:
        """Make all probes due: after the clock was set back, the planned times are too far ahead."""
        for name, state in self._states.items():
            self._states[name] = replace(state, probe_at=None)

    async def record_attempt(
        self, claimed: ClaimedDelivery, attempt: Attempt, outcome: Outcome, *, claim: str, decide: Decide
    ) -> tuple[Verdict, bool]:
        """Record an attempt with its verdict and route state. Return the verdict, and False if the claim was lost."""
        route, now = claimed.delivery.route, self._clock.now()
        next_state = partial(
            next_route_state, outcome=outcome, delivery_id=attempt.delivery_id, started_at=attempt.started_at, now=now
        )
        record = partial(self._record, claimed, attempt, outcome, claim=claim, decide=lambda state: decide(state, now))
        before = self.get(route)
        if next_state(before) == before:
            return await record(before, before)
        async with self._locks[route]:
            before = self.get(route)
            return await record(before, next_state(before))

    async def _record(
        self,
        claimed: ClaimedDelivery,
        attempt: Attempt,
        outcome: Outcome,
        before: RouteState,
        after: RouteState,
        *,
        claim: str,
        decide: Callable[[RouteState], Verdict],
    ) -> tuple[Verdict, bool]:
        verdict = decide(before)
        deaths = list(self._death_alerts(claimed, attempt, outcome, verdict))
        changed = None if after == before else after
        alerts = deaths if changed is None else [*self._route_alerts(before, after, attempt), *deaths]
        recorded = await self._queue.record_attempt(attempt, verdict, claim=claim, route=changed, alerts=alerts)
        if not recorded:
            return verdict, False
        if isinstance(outcome, Accepted):
            self._reported_dead.discard(before.name)
        elif deaths:
            self._reported_dead.add(before.name)
        if changed is not None:
            await self._publish(before, after)
        if alerts:
            self._notify()
        return verdict, True

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until an operator releases it."""
        await self.load()
        now = self._clock.now()
        async with self._locks[route]:
            return await self._save(hold(self.get(route), why, now=now), "route.held", why=why, actor=actor, now=now)

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Release a route, however it was held. A route that is not held does not change."""
        await self.load()
        now = self._clock.now()
        async with self._locks[route]:
            before = self.get(route)
            if not before.is_held:
                return before
            return await self._save(release(before, now=now), "route.released", why=why, actor=actor, now=now)

    async def _save(self, after: RouteState, verb: str, *, why: str, actor: str, now: datetime) -> RouteState:
        before = self.get(after.name)
        action = AuditEntry(at=now, actor=actor, verb=verb, subject=after.name, reason=why)
        await self._queue.save_route(after, alert=self._hold_alert(before, after), action=action)
        await self._publish(before, after)
        return after

    def _route_alerts(self, before: RouteState, after: RouteState, attempt: Attempt) -> Iterator[RoutedEvent]:
        if (alert := self._hold_alert(before, after)) is not None:
            yield alert
        if len(before.rejected) < ALERT_AFTER_REJECTED <= len(after.rejected):
            yield self._alerts.events_rejected(after, attempt)

    def _hold_alert(self, before: RouteState, after: RouteState) -> RoutedEvent | None:
        if before.is_held == after.is_held:
            return None
        return self._alerts.route_held(after) if after.is_held else self._alerts.route_recovered(before, after)

    def _death_alerts(
        self, claimed: ClaimedDelivery, attempt: Attempt, outcome: Outcome, verdict: Verdict
    ) -> Iterator[RoutedEvent]:
        """Make the alert for a delivery that the receiver gives up: one for each route until a delivery succeeds.

        A delivery that its destination refused raises none, nor does an alert: it would raise the next one.
        """
        if verdict.status is not DeliveryStatus.DEAD or claimed.event.is_alert:
            return
        is_set_aside = isinstance(outcome, Refused) and outcome.set_aside
        gave_up = isinstance(outcome, Failed) and claimed.delivery.route not in self._reported_dead
        if is_set_aside or gave_up:
            yield self._alerts.delivery_dead(claimed.delivery, attempt)

    async def _publish(self, before: RouteState, after: RouteState) -> None:
        """Update memory and notify. A released route resumes only after its backlog is due in order of age."""
        try:
            if before.is_held and not after.is_held:
                await self._queue.retry_now(after.name, now=self._clock.now())
        finally:
            self._states[after.name] = after
        if before.held_by is after.held_by:
            return
        if after.is_held:
            log.warning("route.held", route=after.name, by=after.held_by, failures=after.failures, why=after.held_why)
        else:
            log.warning("route.released", route=after.name, was_held_by=before.held_by)
        self._notify()

    def _notify(self) -> None:
        self._notifiers.events.notify()
        self._notifiers.deliveries.notify()
