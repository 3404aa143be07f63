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

from receiver.delivery.retry import after_attempt, hold, release
from receiver.domain.clock import Clock
from receiver.domain.model import Attempt, Outcome, RouteState, Verdict
from receiver.domain.notifier import Bells
from receiver.domain.replays import Action
from receiver.events.factory import Announcement
from receiver.store.interfaces import Queue

log = structlog.get_logger()

Judge = Callable[[RouteState, datetime], Verdict]
"""Decides what follows an attempt for its delivery, given its route's state before it."""


class RouteAlerts(Protocol):
    """Puts into words that a route is held, or goes on."""

    def route_held(self, state: RouteState) -> Announcement:
        """Tell that a route is held."""
        ...

    def route_recovered(self, before: RouteState, after: RouteState) -> Announcement:
        """Tell that a route goes on."""
        ...


class Holds:
    """The states of all routes."""

    def __init__(self, queue: Queue, alerts: RouteAlerts, *, bells: Bells, clock: Clock) -> None:
        self._queue = queue
        self._alerts = alerts
        self._bells = bells
        self._clock = clock
        self._states: dict[str, RouteState] = {}
        self._is_loaded = False
        self._loading = asyncio.Lock()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self) -> None:
        """Read what is remembered from former runs, once: a person may ask for a change before anything went out."""
        async with self._loading:
            if not self._is_loaded:
                self._states = dict(await self._queue.route_states())
                self._is_loaded = True

    def of(self, route: str) -> RouteState:
        """Give a route's state."""
        return self._states.get(route) or RouteState(name=route)

    def hasten(self) -> None:
        """Let the routes that failures hold be probed at once: when the clock was set back, what it planned is far."""
        for name, state in self._states.items():
            self._states[name] = replace(state, probe_at=None)

    async def settle(
        self, route: str, attempt: Attempt, outcome: Outcome, *, claim: str, judge: Judge
    ) -> tuple[Verdict, bool]:
        """Record an attempt with what follows for its delivery and its route; False where the claim was lost."""
        now, before = self._clock.now(), self.of(route)
        if after_attempt(before, outcome, started_at=attempt.started_at, now=now) == before:
            verdict = judge(before, now)
            return verdict, await self._queue.finish(attempt, verdict, claim=claim)
        async with self._turns[route]:
            before = self.of(route)
            after = after_attempt(before, outcome, started_at=attempt.started_at, now=now)
            verdict, alert = judge(before, now), self._alert(before, after)
            ours = await self._queue.finish(attempt, verdict, claim=claim, route=after, alert=alert)
            if ours:
                await self._remember(before, after)
            return verdict, ours

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until a person releases it."""
        await self.load()
        now = self._clock.now()
        async with self._turns[route]:
            return await self._say(hold(self.of(route), why, now=now), "route.held", why=why, actor=actor, now=now)

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Let a route go on, whatever held it; one that is not held stays as it is."""
        await self.load()
        now = self._clock.now()
        async with self._turns[route]:
            before = self.of(route)
            if not before.is_held:
                return before
            return await self._say(release(before, now=now), "route.released", why=why, actor=actor, now=now)

    async def _say(self, after: RouteState, verb: str, *, why: str, actor: str, now: datetime) -> RouteState:
        before = self.of(after.name)
        action = Action(at=now, actor=actor, verb=verb, subject=after.name, note=why)
        await self._queue.save_route(after, alert=self._alert(before, after), action=action)
        await self._remember(before, after)
        return after

    def _alert(self, before: RouteState, after: RouteState) -> Announcement | None:
        if before.is_held == after.is_held:
            return None
        return self._alerts.route_held(after) if after.is_held else self._alerts.route_recovered(before, after)

    async def _remember(self, before: RouteState, after: RouteState) -> None:
        """Take over what was written. A route opens only when its backlog lies in the order of its age."""
        try:
            if before.is_held and not after.is_held:
                await self._queue.hasten(after.name, now=self._clock.now())
        finally:
            self._states[after.name] = after
        if before.held_by is after.held_by:
            return
        if after.is_held:
            log.warning("route.held", route=after.name, by=after.held_by, failures=after.failures, why=after.held_why)
        else:
            log.warning("route.released", route=after.name, was_held_by=before.held_by)
        self._bells.events.ring()
        self._bells.deliveries.ring()
