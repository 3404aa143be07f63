"""Claim due deliveries, attempt each through its route's sender, and record the outcome.

Each route has its own lane with its own concurrency, so a slow route never delays another. A route held by failures
sends one probe a minute. A route held by an operator sends nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random

import structlog

from receiver.delivery import measurements
from receiver.delivery.retry import MAX_UNFINISHED_CLAIMS, SUSPECT_AFTER, RetryPolicy, effective_age
from receiver.delivery.route_states import RouteStates
from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, Ids
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.duties import ALWAYS, Tenure
from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.domain.model import Accepted, Attempt, Failed, HeldBy, Outcome, Refused, RouteState, Verdict
from receiver.domain.notifier import Notifier
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.worker import TaskSet, run_worker
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.store.interfaces import ClaimedDelivery, DeliveryQueue, RouteClaim

log = structlog.get_logger()

LEASE_MARGIN = timedelta(seconds=30)
_MAX_RECENT_ROUTES = 8  # each one costs a query whenever something may be due
_BRING_FORWARD_BATCH = 1000  # deliveries brought forward in one transaction: a backlog may be a million
_MAX_PROBE_DELAY = timedelta(hours=2)
"""A probe planned later than this was planned before the clock was set back: Retry-After is capped at one hour."""

_RECHECK_DELAY = timedelta(seconds=1)
_UNKNOWN_ROUTE = "Deliveries wait for a route that is no longer configured. Configure one with its name again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How one route delivers: sender, retry policy, concurrency and rate limit."""

    sender: Sender
    policy: RetryPolicy
    concurrency: int
    rate: RateLimiter | None = None


LaneLookup = Callable[[str], Lane | None]
"""Return a route's lane by name, or None if the route is no longer configured."""


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
    ) -> None:
        """*tenure* says whether this process may deliver."""
        self._queue = queue
        self._lanes = lanes
        self._route_states = route_states
        self._wake = notifier.subscribe()
        self._clock = clock
        self._ids = ids
        self._rng = rng
        self._grace = grace
        self._metrics = metrics or Metrics()
        self._tenure = tenure
        self._in_flight: Counter[str] = Counter()
        self._attempts = TaskSet("delivery.not_recorded")
        self._claims: dict[str, str] = {}  # delivery ID -> claim of its attempt in flight
        self._clock_watch = ClockWatch(latest=ids.latest)
        self._suspects: dict[str, str] = {}  # delivery ID -> route, the least suspected first
        self._alone: str | None = None  # the suspect in flight
        self._next_suspect_at = clock.now()
        self._recent_routes: BoundedDict[str, None] = BoundedDict(_MAX_RECENT_ROUTES)

    async def run(self, stop: asyncio.Event) -> None:
        """Attempt due deliveries until *stop*. Then drain: attempts that outlast the grace are released."""
        self._clock_watch = ClockWatch(latest=self._ids.latest)
        self._recent_routes.clear()
        try:
            await self._recover_claims(stop)
            await run_worker(self._start_due_attempts, wake=self._wake, stop=stop, clock=self._clock, name="dispatch")
            await self._drain()
        finally:
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
                self._suspects = dict(recovered.suspects)
                log.info("dispatch.started", released=recovered.released, suspects=len(self._suspects))
                for route in waiting:
                    if self._lanes(route) is None:
                        log.warning("route.unknown", route=route, reason=_UNKNOWN_ROUTE)
                return

    async def _start_due_attempts(self) -> datetime | None:
        """Start every due attempt that has a free slot. Return when to check again, or None."""
        await self._handle_clock_set_back()
        if await self._isolate_suspect():
            return None
        soonest = self._next_suspect_at if self._suspects and self._next_suspect_at > self._clock.now() else None
        for route, due_at in (await self._start_recent_routes()).items():
            lane = self._lanes(route)
            at = None if lane is None else await self._dispatch_route(route, lane, due_at)
            if at is not None and (soonest is None or at < soonest):
                soonest = at
        return soonest

    async def _start_recent_routes(self) -> Mapping[str, datetime]:
        """Start the due attempts of the routes used last, with one access to the store for all of them.

        Return when each route's next delivery is due after that.
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
            return await self._queue.due_routes()
        found = await self._queue.claim_routes(wanted, now=now, skip=self._suspects.keys())
        for each in wanted:
            self._start_claimed(each.route, lanes[each.route], found.claimed[each.route], claim=each.claim, now=now)
        return found.due_routes

    def _limit(self, route: str, now: datetime) -> int:
        """Return how many attempts of a route may start now. A held route has its own rules: 0."""
        lane = self._lanes(route)
        if lane is None or self._route_states.get(route).is_held:
            return 0
        free = lane.concurrency - self._in_flight[route]
        return free if lane.rate is None else min(free, lane.rate.available(now))

    async def _isolate_suspect(self) -> bool:
        """Attempt the next suspect as soon as nothing is in flight. Return whether nothing else may start meanwhile."""
        now = self._clock.now()
        if self._alone is not None or not self._suspects or now < self._next_suspect_at:
            return self._alone is not None
        for delivery_id, route in tuple(self._suspects.items()):
            lane = self._lanes(route)
            if lane is None or not self._may_attempt(route, lane, now):
                continue
            if self._attempts:
                return True
            await self._claim(route, lane, now, limit=1, only=delivery_id)
            del self._suspects[delivery_id]
            if self._attempts:
                self._alone = delivery_id
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
            self._next_suspect_at = now
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
        free = lane.concurrency - self._in_flight[route]
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
        skip = () if only else self._suspects.keys()
        claimed = await self._queue.claim(
            route, now=now, until=until, limit=limit, claim=claim, early=early, only=only, skip=skip
        )
        if not claimed:
            return now + _RECHECK_DELAY
        self._start_claimed(route, lane, claimed, claim=claim, now=now)
        self._wake.set()
        return None

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
                self._start_attempt(route, lane, item)
            self._claims[item.delivery.id] = claim  # a lease expires during its attempt only if the clock was changed

    def _start_attempt(self, route: str, lane: Lane, claimed: ClaimedDelivery) -> None:
        began = self._clock.monotonic()  # not the wall clock: after a step forward the suspects would wait as long
        self._in_flight[route] += 1

        def done() -> None:
            self._claims.pop(claimed.delivery.id, None)
            self._in_flight[route] -= 1
            if self._alone == claimed.delivery.id:
                self._alone = None
                took = timedelta(seconds=self._clock.monotonic() - began)
                self._next_suspect_at = self._clock.now() + took  # the others get as much time
            self._wake.set()

        attempt = self._make_attempt(lane, claimed)
        self._attempts.spawn(attempt, on_done=done, delivery=claimed.delivery.id)

    async def _make_attempt(self, lane: Lane, claimed: ClaimedDelivery) -> None:
        """Attempt one delivery and record the outcome. If cancelled, release the claim without counting an attempt."""
        number = claimed.delivery.attempts + 1
        if not self._tenure.is_held:  # another process may have claimed it already
            await self._queue.release(
                claimed.delivery.id, claim=self._claims[claimed.delivery.id], now=self._clock.now()
            )
            return
        started_at, began = self._clock.now(), time.perf_counter()
        measurements.record_start(self._metrics, claimed, self._route_states.get(claimed.delivery.route), started_at)
        try:
            outcome = await self._send(lane, claimed, number, started_at)
        except asyncio.CancelledError:
            await self._queue.release(
                claimed.delivery.id, claim=self._claims[claimed.delivery.id], now=self._clock.now()
            )
            raise
        attempt = Attempt(
            delivery_id=claimed.delivery.id,
            number=number,
            started_at=started_at,
            duration=timedelta(seconds=time.perf_counter() - began),
            outcome=_outcome_name(outcome),
            code=outcome.code,
            reason=_reason(outcome),
            excerpt=outcome.excerpt,
        )
        verdict, recorded = await self._route_states.record_attempt(
            claimed,
            attempt,
            outcome,
            claim=self._claims[claimed.delivery.id],
            decide=partial(self._decide, lane, claimed, outcome),
        )
        if recorded:
            measurements.record_attempt(self._metrics, claimed, attempt, outcome, verdict)
        _log_attempt(claimed, attempt, verdict, recorded=recorded)

    def _decide(
        self, lane: Lane, claimed: ClaimedDelivery, outcome: Outcome, route: RouteState, now: datetime
    ) -> Verdict:
        return lane.policy.decide(
            outcome,
            attempt=claimed.delivery.attempts - claimed.delivery.probes + 1,
            age=effective_age(claimed.delivery.created_at, route, outcome, now=now),
            held=route.is_held,
            now=now,
            rng=self._rng,
        )

    async def _send(self, lane: Lane, claimed: ClaimedDelivery, number: int, at: datetime) -> Outcome:
        if claimed.delivery.unfinished_claims >= MAX_UNFINISHED_CLAIMS:
            reason = f"The service died {MAX_UNFINISHED_CLAIMS} times during this delivery, so it is not retried."
            return Refused(reason=reason, set_aside=True)
        request = DeliveryRequest(
            delivery_id=claimed.delivery.id,
            event=claimed.event,
            attempt=number,
            at=at,
            url=claimed.reply_to,
        )
        try:
            return await lane.sender.send(request)
        except Exception as exc:  # one attempt must not end the others; the reason is recorded with it
            log.exception("sender.failed", delivery=claimed.delivery.id)
            return Failed(reason=f"Internal error in the receiver: {type(exc).__name__}. See its log.")

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


def _log_attempt(claimed: ClaimedDelivery, attempt: Attempt, verdict: Verdict, *, recorded: bool) -> None:
    log.info(
        "delivery.attempted",
        delivery=claimed.delivery.id,
        event_id=claimed.event.id,
        task=claimed.event.task_id,
        route=claimed.delivery.route,
        attempt=attempt.number,
        outcome=attempt.outcome,
        code=attempt.code,
        reason=attempt.reason,
        duration_ms=round(attempt.duration / timedelta(milliseconds=1), 1),
        verdict=verdict.status,
        recorded=recorded,
    )


def _outcome_name(outcome: Outcome) -> str:
    match outcome:
        case Accepted():
            return "accepted"
        case Failed():
            return "failed"
        case Refused():
            return "refused"


def _reason(outcome: Outcome) -> str:
    match outcome:
        case Accepted():
            return ""
        case Failed(reason=reason) | Refused(reason=reason):
            return reason
