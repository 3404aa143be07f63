"""Which routes are held, by what, and how that changes: for each route one change at a time, each with its alert.

The states are kept in memory as they stand in the store. A change is written in one transaction with what brought
it about, an attempt or a person's word, and with the alert that tells of it; so each alert is told once, whatever
ends the process.
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
"""Decides what follows an attempt for its delivery, given its route's state before it."""


class RouteAlerts(Protocol):
    """Puts into words that a route is held, or goes on."""

    def route_held(self, state: RouteState) -> RoutedEvent:
        """Tell that a route is held."""
        ...

    def route_recovered(self, before: RouteState, after: RouteState) -> RoutedEvent:
        """Tell that a route goes on."""
        ...


class RouteStates:
    """The states of all routes."""

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
        """Read what is remembered from former runs, once: a person may ask for a change before anything went out."""
        async with self._load_lock:
            if not self._is_loaded:
                self._states = dict(await self._queue.route_states())
                self._is_loaded = True

    def get(self, route: str) -> RouteState:
        """Give a route's state."""
        return self._states.get(route) or RouteState(name=route)

    def probe_now(self) -> None:
        """Let the routes that failures hold be probed at once: when the clock was set back, what it planned is far."""
        for name, state in self._states.items():
            self._states[name] = replace(state, probe_at=None)

    async def record_attempt(
        self, route: str, attempt: Attempt, outcome: Outcome, *, claim: str, decide: Decide
    ) -> tuple[Verdict, bool]:
        """Record an attempt with what follows for its delivery and its route; False where the claim was lost."""
        now, before = self._clock.now(), self.get(route)
        if next_route_state(before, outcome, started_at=attempt.started_at, now=now) == before:
            verdict = decide(before, now)
            return verdict, await self._queue.record_attempt(attempt, verdict, claim=claim)
        async with self._locks[route]:
            before = self.get(route)
            after = next_route_state(before, outcome, started_at=attempt.started_at, now=now)
            verdict, alert = decide(before, now), self._alert(before, after)
            ours = await self._queue.record_attempt(attempt, verdict, claim=claim, route=after, alert=alert)
            if ours:
                await self._publish(before, after)
            return verdict, ours

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until a person releases it."""
        await self.load()
        now = self._clock.now()
        async with self._locks[route]:
            return await self._save(hold(self.get(route), why, now=now), "route.held", why=why, actor=actor, now=now)

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Let a route go on, whatever held it; one that is not held stays as it is."""
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
        """Take over what was written. A route opens only when its backlog lies in the order of its age."""
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
