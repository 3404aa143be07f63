"""Hold and release routes: one change at a time per route, each with its alert.

Memory mirrors the store. A change is stored in one transaction with its cause (an attempt or an operator's request)
and its alert, so each alert is raised exactly once even if the process crashes.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog

from receiver.delivery.retry import hold, next_route_state, release
from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock
from receiver.domain.model import Attempt, Outcome, RouteState, Verdict
from receiver.domain.notifier import Notifiers
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import DeliveryQueue

log = structlog.get_logger()

Decide = Callable[[RouteState, datetime], Verdict]
"""Return the verdict on a delivery after an attempt, given its route's state before the attempt."""


class RouteAlerts(Protocol):
    """Makes the alerts about held and released routes."""

    def route_held(self, state: RouteState) -> RoutedEvent:
        """Return the alert for a route that is now held."""
        ...

    def route_recovered(self, before: RouteState, after: RouteState) -> RoutedEvent:
        """Return the alert for a route that is no longer held."""
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
        self._load_lock = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self) -> None:
        """Load the stored states once: an operator may change a route before the dispatcher starts."""
        async with self._load_lock:
            if not self._is_loaded:
                self._states = dict(await self._queue.route_states())
                self._is_loaded = True

    def get(self, route: str) -> RouteState:
        """Return a route's state."""
        return self._states.get(route) or RouteState(name=route)

    def probe_now(self) -> None:
        """Make all probes due: after the clock was set back, the planned times are too far ahead."""
        for name, state in self._states.items():
            self._states[name] = replace(state, probe_at=None)

    async def record_attempt(
        self, route: str, attempt: Attempt, outcome: Outcome, *, claim: str, decide: Decide
    ) -> tuple[Verdict, bool]:
        """Record an attempt with its verdict and route state. Return the verdict, and False if the claim was lost."""
        now, before = self._clock.now(), self.get(route)
        if next_route_state(before, outcome, started_at=attempt.started_at, now=now) == before:
            verdict = decide(before, now)
            return verdict, await self._queue.record_attempt(attempt, verdict, claim=claim)
        async with self._locks[route]:
            before = self.get(route)
            after = next_route_state(before, outcome, started_at=attempt.started_at, now=now)
            verdict, alert = decide(before, now), self._alert(before, after)
            recorded = await self._queue.record_attempt(attempt, verdict, claim=claim, route=after, alert=alert)
            if recorded:
                await self._publish(before, after)
            return verdict, recorded

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
        await self._queue.save_route(after, alert=self._alert(before, after), action=action)
        await self._publish(before, after)
        return after

    def _alert(self, before: RouteState, after: RouteState) -> RoutedEvent | None:
        if before.is_held == after.is_held:
            return None
        return self._alerts.route_held(after) if after.is_held else self._alerts.route_recovered(before, after)

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
        self._notifiers.events.notify()
        self._notifiers.deliveries.notify()
