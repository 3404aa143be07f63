"""Claim due deliveries, attempt each through its route's sender, and record the outcome.

Each route has its own lane with its own concurrency, so a slow route never delays another. A route held by failures
sends one probe a minute. A route held by an operator sends nothing.
"""

import asyncio
import contextvars
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from random import Random

import structlog

from receiver.delivery.attempt_runner import AttemptRunner
from receiver.delivery.commit_claims import CommitClaims
from receiver.delivery.crash_suspects import Suspects
from receiver.delivery.lane import LEASE_MARGIN, Lane, LaneLookup, Slot
from receiver.delivery.retry import SUSPECT_AFTER
from receiver.delivery.route_states import RouteStates
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, Ids
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.duties import ALWAYS, Tenure
from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.domain.model import Delivery, HeldBy, RouteState
from receiver.domain.notifier import Notifier
from receiver.domain.worker import TaskSet, run_worker
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.store.interfaces import ClaimedDelivery, DeliveryQueue, RouteClaim

log = structlog.get_logger()

_MAX_RECENT_ROUTES = 8  # each one costs a query whenever something may be due
_BRING_FORWARD_BATCH = 1000  # deliveries brought forward in one transaction: a backlog may be a million
_MAX_PROBE_DELAY = timedelta(hours=2)
"""A probe planned later than this was planned before the clock was set back: Retry-After is capped at one hour."""

_MAX_GROUPING_SECONDS = 0.005
_RECHECK_DELAY = timedelta(seconds=1)
_UNKNOWN_ROUTE = "Deliveries wait for a route that is no longer configured. Configure one with its name again."


class Dispatcher:
    """Attempts due deliveries, within each lane's concurrency and rate limit."""

    def __init__(
        self,
        queue: DeliveryQueue,
        lanes: LaneLookup,
        route_states: RouteStates,
        *,
        notifier: Notifier,
        clock: Clock,
        ids: Ids,
        rng: Random,
        grace: timedelta,
        metrics: Metrics | None = None,
        tenure: Tenure = ALWAYS,
        commit_claims: CommitClaims | None = None,
    ) -> None:
        """*tenure* says whether this process may deliver. *commit_claims* claim new deliveries for our free slots."""
        self._queue = queue
        self._lanes = lanes
        self._route_states = route_states
        self._wake = notifier.subscribe()
        self._clock = clock
        self._ids = ids
        self._grace = grace
        self._tenure = tenure
        self._in_flight: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()  # those in flight that were accepted, and are being recorded
        self._attempts = TaskSet("delivery.not_recorded")
        runner = AttemptRunner(queue, route_states, clock=clock, rng=rng, metrics=metrics or Metrics(), tenure=tenure)
        self._runner, self._claims = runner, runner.claims
        self._clock_watch = ClockWatch(latest=ids.latest)
        self._suspects = Suspects(clock)
        self._commit_claims = commit_claims or CommitClaims()
        self._context = contextvars.copy_context()  # of attempts, also of those that a callback starts
        self._behind: frozenset[str] = frozenset()  # routes that had due deliveries at the last look into the store
        self._refused: set[str] = set()  # routes that were refused a slot since that look began
        self._under_claim: Mapping[str, int] = {}  # by route, the free slots for which the store claims at this moment
        self._wake_timer: asyncio.TimerHandle | None = None
        self._recent_routes: BoundedDict[str, None] = BoundedDict(_MAX_RECENT_ROUTES)

    async def run(self, stop: asyncio.Event) -> None:
        """Attempt due deliveries until *stop*. Then drain: attempts that outlast the grace are released."""
        self._clock_watch = ClockWatch(latest=self._ids.latest)
        self._recent_routes.clear()
        try:
            await self._recover_claims(stop)
            self._commit_claims.open(self)
            await run_worker(self._start_due_attempts, wake=self._wake, stop=stop, clock=self._clock, name="dispatch")
            self._commit_claims.close()
            await self._commit_claims.drain(within=self._grace)
            await self._drain()
        finally:
            self._commit_claims.close()
            self._attempts.cancel()  # none left after a normal stop
            await self._attempts.drain(within=self._grace)

    async def _recover_claims(self, stop: asyncio.Event) -> None:
        """Release the claims of a previous process and load the states of the routes."""
        while not stop.is_set():
            try:
                recovered = await self._queue.release_all(now=self._clock.now(), suspect_after=SUSPECT_AFTER)
                await self._route_states.load(anew=True)
                waiting = await self._queue.due_routes()
            except StoreUnavailable as exc:
                log.warning("dispatch.delayed", reason=exc.message)
                await self._clock.wait(stop, until=self._clock.now() + _RECHECK_DELAY)
            else:
                self._suspects.load(recovered.suspects)
                log.info("dispatch.started", released=recovered.released, suspects=len(recovered.suspects))
                for route in waiting:
                    if self._lanes(route) is None:
                        log.warning("route.unknown", route=route, reason=_UNKNOWN_ROUTE)
                return

    async def _start_due_attempts(self) -> datetime | None:
        """Start every due attempt that has a free slot. Return when to check again, or None."""
        await self._handle_clock_set_back()
        if await self._isolate_suspect():
            return None
        soonest = self._suspects.next_at
        self._refused.clear()
        due_routes, served = await self._start_recent_routes()
        self._behind = frozenset(route for route, due_at in due_routes.items() if due_at <= self._clock.now())
        for route, due_at in due_routes.items():
            lane = self._lanes(route)
            if route in served and route in self._behind:
                self._wake_in_groups(route)  # for the slots that became free meanwhile
                continue
            at = None if lane is None else await self._dispatch_route(route, lane, due_at)
            if at is not None and (soonest is None or at < soonest):
                soonest = at
        return soonest

    async def _start_recent_routes(self) -> tuple[Mapping[str, datetime], Collection[str]]:
        """Start the due attempts of the routes used last, with one access to the store for all of them.

        Return when each route's next delivery is due after that, and the routes that only wait for free slots now.
        """
        now = self._clock.now()
        limits = {route: self._limit(route, now) for route in self._recent_routes}
        # What is claimed is attempted with the lane from before, also if a reload removes the route meanwhile.
        lanes = {
            route: lane for route, limit in limits.items() if limit > 0 and (lane := self._lanes(route)) is not None
        }
        wanted = [
            RouteClaim(route=route, until=self._lease_end(lane, now), limit=limits[route], claim=self._ids.new("clm"))
            for route, lane in lanes.items()
        ]
        if not wanted:
            return await self._queue.due_routes(), ()
        async with self._kept_for_claim({each.route: each.limit for each in wanted}):
            found = await self._queue.claim_routes(wanted, now=now, skip=self._suspects.ids)
            for each in wanted:
                self._start_claimed(each.route, lanes[each.route], found.claimed[each.route], claim=each.claim, now=now)
        return found.due_routes, [route for route, lane in lanes.items() if found.claimed[route] and lane.rate is None]

    def _limit(self, route: str, now: datetime) -> int:
        """Return how many attempts of a route may start now. A held route has its own rules: 0."""
        lane = self._lanes(route)
        if lane is None or self._route_states.get(route).is_held:
            return 0
        free = self._free_slots(route, lane)
        return free if lane.rate is None else min(free, lane.rate.available(now))

    def _free_slots(self, route: str, lane: Lane) -> int:
        """Return how many deliveries may be claimed from the store.

        An attempt that was accepted no longer needs its slot: its record is written before the claim, or with it.
        """
        return lane.concurrency - self._in_flight[route] + self._sent[route]

    async def _isolate_suspect(self) -> bool:
        """Attempt the next suspect as soon as nothing is in flight. Return whether nothing else may start meanwhile."""
        if self._suspects.is_one_in_flight:
            return True
        now = self._clock.now()
        for delivery_id, route in self._suspects.due():
            lane = self._lanes(route)
            if lane is None or not self._may_attempt(route, lane, now):
                continue
            if self._attempts:
                return True
            await self._claim(route, lane, now, limit=1, only=delivery_id)
            self._suspects.remove(delivery_id)
            if self._attempts:
                self._suspects.begin(delivery_id)
                return True
        return False

    def _may_attempt(self, route: str, lane: Lane, now: datetime) -> bool:
        state = self._route_states.get(route)
        is_held = state.held_by is HeldBy.OPERATOR or _planned_probe(state, now) is not None
        return not is_held and (lane.rate is None or lane.rate.available(now) > 0)

    async def _handle_clock_set_back(self) -> None:
        """Make everything due that was planned before the clock was set back, in this run or an earlier one."""
        now = self._clock.now()
        if self._clock_watch.was_set_back(now):
            log.warning("clock.set_back", by_seconds=self._clock_watch.set_back_by(now).total_seconds())
            self._route_states.probe_now()
            self._suspects.retry_now()
            for route in await self._queue.due_routes():
                await self._queue.retry_now(route, now=now)
                bring_forward = partial(
                    self._queue.bring_forward, route, now=now, archive_wait_until=now + MAX_ARCHIVE_WAIT
                )
                while await bring_forward(limit=_BRING_FORWARD_BATCH):
                    pass
        self._clock_watch.record(now)

    async def _dispatch_route(self, route: str, lane: Lane, due_at: datetime) -> datetime | None:
        """Start one lane's due attempts. Return when to check again, or None if the end of an attempt will wake us."""
        state, now = self._route_states.get(route), self._clock.now()
        if state.is_held:
            return await self._probe(lane, state, due_at, now)
        if due_at > now:
            return due_at
        free = self._free_slots(route, lane)
        if free <= 0:
            return None
        allowed = free if lane.rate is None else lane.rate.available(now)
        if lane.rate is not None and allowed <= 0:
            return lane.rate.next_at(now)
        return await self._claim(route, lane, now, limit=min(free, allowed))

    async def _probe(self, lane: Lane, state: RouteState, due_at: datetime, now: datetime) -> datetime | None:
        """Attempt one delivery of a held route, due or waiting for its retry. Return when to check again, or None."""
        if state.held_by is HeldBy.OPERATOR or self._in_flight[state.name]:
            return None
        if (planned := _planned_probe(state, now)) is not None:
            return planned
        recheck_at = await self._claim(state.name, lane, now, limit=1, early=True)
        return recheck_at if recheck_at is None or due_at <= now else due_at

    async def _claim(
        self, route: str, lane: Lane, now: datetime, *, limit: int, early: bool = False, only: str | None = None
    ) -> datetime | None:
        """Claim due deliveries, apart from suspects unless *only* names one, and start their attempts."""
        claim = self._ids.new("clm")
        until = self._lease_end(lane, now)
        skip = () if only else self._suspects.ids
        async with self._kept_for_claim({route: limit}):
            claimed = await self._queue.claim(
                route, now=now, until=until, limit=limit, claim=claim, early=early, only=only, skip=skip
            )
            self._start_claimed(route, lane, claimed, claim=claim, now=now)
        if not claimed:
            return now + _RECHECK_DELAY
        self._wake.set()
        return None

    @asynccontextmanager
    async def _kept_for_claim(self, slots: Mapping[str, int]) -> AsyncIterator[None]:
        """Keep the free slots of these routes from new deliveries: the claim of older ones may need them all."""
        async with self._runner.claiming:
            self._under_claim = slots
            try:
                yield
            finally:
                self._under_claim = {}

    @staticmethod
    def _lease_end(lane: Lane, now: datetime) -> datetime:
        return now + lane.sender.timeout + LEASE_MARGIN

    def _start_claimed(
        self, route: str, lane: Lane, claimed: Sequence[ClaimedDelivery], *, claim: str, now: datetime
    ) -> None:
        if not claimed:
            return
        self._recent_routes[route] = None
        if lane.rate is not None:
            lane.rate.acquire(len(claimed), now)
        for item in claimed:
            if item.delivery.id not in self._claims:
                self._in_flight[route] += 1
                self._start_attempt(route, lane, item)
            self._claims[item.delivery.id] = claim  # a lease expires during its attempt only if the clock was changed

    def reserve(self, delivery: Delivery) -> Slot | None:
        """Reserve a slot for a delivery that is about to be stored.

        Return None if it is not due, if older ones wait in the store, or if no slot is free.
        """
        route, now = delivery.route, self._clock.now()
        lane = self._lanes(route)
        if lane is None or delivery.due_at > now or not self._tenure.is_held:
            return None
        # An attempt that is being recorded keeps its slot from this one, which may be stored before the record.
        is_full = self._in_flight[route] >= lane.concurrency or self._limit(route, now) <= 0
        if is_full or route in self._under_claim or not self._is_caught_up(route):
            self._refused.add(route)
            return None
        self._in_flight[route] += 1
        if lane.rate is not None:
            lane.rate.acquire(1, now)
        return Slot(route=route, lane=lane, claim=self._ids.new("clm"), until=self._lease_end(lane, now))

    def start(self, slot: Slot, claimed: ClaimedDelivery) -> None:
        """Start the attempt at a delivery that was stored with the slot's claim."""
        self._claims[claimed.delivery.id] = slot.claim
        self._start_attempt(slot.route, slot.lane, claimed)

    def free(self, slot: Slot) -> None:
        """Free a slot whose delivery was not stored."""
        self._in_flight[slot.route] -= 1
        self._wake.set()

    def _is_caught_up(self, route: str) -> bool:
        """Return whether nothing of a route waits in the store for a free slot."""
        is_behind = route in self._behind or route in self._refused or self._route_states.get(route).is_held
        return not (is_behind or self._suspects.ids or self._suspects.is_one_in_flight)

    def _start_attempt(self, route: str, lane: Lane, claimed: ClaimedDelivery) -> None:
        """Start an attempt in a slot that is taken already."""
        is_sent = is_over = False

        async def attempt() -> None:
            nonlocal is_over
            is_over = await self._runner.run(lane, claimed, on_accepted=accepted)

        def accepted() -> None:
            nonlocal is_sent
            is_sent = True
            self._sent[route] += 1
            if not self._is_caught_up(route):
                self._wake_in_groups(route)

        def done() -> None:
            self._claims.pop(claimed.delivery.id, None)
            self._in_flight[route] -= 1
            self._sent[route] -= is_sent
            was_alone = self._suspects.end(claimed.delivery.id)
            if was_alone or not is_over or self._is_end_awaited(route):
                self._wake.set()
            elif not is_sent and not self._is_caught_up(route):
                self._wake_in_groups(route)

        self._attempts.spawn(attempt(), on_done=done, context=self._context.copy(), delivery=claimed.delivery.id)

    def _is_end_awaited(self, route: str) -> bool:
        """Return whether a suspect waits until nothing is in flight, or a probe until nothing of its route is."""
        is_probe_due = self._route_states.get(route).is_held and not self._in_flight[route]
        return is_probe_due or (bool(self._suspects.ids) and not self._attempts)

    def _wake_in_groups(self, route: str) -> None:
        """Wake up when half of a lane's slots are free, or a short while after one is: each claim is a transaction."""
        lane = self._lanes(route)  # not the lane of an attempt that has ended: its concurrency may have changed
        if lane is None:
            return
        free = self._free_slots(route, lane) - self._under_claim.get(route, 0)
        if free >= max(1, lane.concurrency // 2):
            self._wake.set()
        elif free > 0 and self._wake_timer is None:
            self._wake_timer = asyncio.get_running_loop().call_later(_MAX_GROUPING_SECONDS, self._wake_now)

    def _wake_now(self) -> None:
        self._wake_timer = None
        self._wake.set()

    async def _drain(self) -> None:
        """Wait for attempts in flight. After the grace period, cancel the rest and release their claims."""
        if not self._attempts:
            return
        log.info("dispatch.draining", in_flight=len(self._attempts))
        await self._attempts.drain(within=self._grace)
        if late := len(self._attempts):
            self._attempts.cancel()
            await self._attempts.drain()
            log.warning("dispatch.interrupted", released=late)


def _planned_probe(state: RouteState, now: datetime) -> datetime | None:
    """Return when a route held by failures is probed next, or None if it may be probed now or is not held."""
    is_planned = state.probe_at is not None and now < state.probe_at <= now + _MAX_PROBE_DELAY
    return state.probe_at if state.is_held and is_planned else None
