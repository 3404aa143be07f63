"""Claims due deliveries, has each attempted by the sender of its kind, and records what came of it.

Each route has its own lane with its own number of attempts at once, so that a slow one delays no other.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

import structlog

from receiver.bells import Bell
from receiver.clock import Clock, Ids
from receiver.model import (
    Accepted,
    Attempt,
    Failed,
    Outcome,
    Refused,
    RouteState,
    Verdict,
)
from receiver.retry import BURY_AFTER, PROBE_EVERY, Pace, RetryPolicy, after_attempt
from receiver.senders import Parcel, Sender
from receiver.store import Claimed, Queue

log = structlog.get_logger()

LEASE_MARGIN = timedelta(seconds=30)
_LOOK_AGAIN = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How deliveries of one route travel."""

    sender: Sender
    policy: RetryPolicy
    concurrency: int
    pace: Pace | None = None


Lanes = Callable[[str], Lane | None]
"""Finds a route's lane by its name; None for a route that the configuration no longer has."""

Announce = Callable[[str, RouteState], Awaitable[None]]
"""Is told that a route was held (``route_held``) or goes on (``route_recovered``)."""


class Dispatcher:
    """Brings deliveries out, as many at a time as each lane allows."""

    def __init__(
        self,
        queue: Queue,
        lanes: Lanes,
        *,
        announce: Announce,
        bell: Bell,
        clock: Clock,
        ids: Ids,
        rng: Random,
        grace: timedelta,
    ) -> None:
        self._queue = queue
        self._lanes = lanes
        self._announce = announce
        self._wake = bell.listen()
        self._clock = clock
        self._ids = ids
        self._rng = rng
        self._grace = grace
        self._states: dict[str, RouteState] = {}
        self._probed_at: dict[str, datetime] = {}
        self._under_way: Counter[str] = Counter()
        self._attempts: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Bring out what falls due until *stop*; then finish what is under way, or give it back when grace is over."""
        released = await self._queue.release_all(now=self._clock.now())
        self._states = dict(await self._queue.route_states())
        log.info("dispatch.started", released=released)
        while not stop.is_set():
            self._wake.clear()
            until = await self._round()
            await self._clock.wait(self._wake, until=until)
        await self._finish()

    async def _round(self) -> datetime | None:
        """Start every attempt that is due and has room; tell when the next falls due."""
        soonest: datetime | None = None
        for route, due_at in (await self._queue.due_routes()).items():
            lane = self._lanes(route)
            if lane is None:
                continue
            at = await self._serve(route, lane, due_at)
            if at is not None and (soonest is None or at < soonest):
                soonest = at
        return soonest

    async def _serve(self, route: str, lane: Lane, due_at: datetime) -> datetime | None:
        """Start what one lane has due and room for; tell when to look again, None when some attempt's end will."""
        now = self._clock.now()
        if due_at > now:
            return due_at
        limit, again = self._room(route, lane, now)
        if limit <= 0:
            return again
        claim = self._ids.new("clm")
        until = now + lane.sender.timeout + LEASE_MARGIN
        claimed = await self._queue.claim(route, now=now, until=until, limit=limit, claim=claim)
        if not claimed:
            return now + _LOOK_AGAIN
        if lane.pace is not None:
            lane.pace.take(len(claimed))
        if self._is_held(route):
            self._probed_at[route] = now
        for one in claimed:
            self._start(route, lane, one, claim)
        self._wake.set()
        return None

    def _room(self, route: str, lane: Lane, now: datetime) -> tuple[int, datetime | None]:
        """Tell how many attempts may start now; if none for a reason of time, when to look again."""
        free = lane.concurrency - self._under_way[route]
        if self._is_held(route):
            probed_at = self._probed_at.get(route)
            if self._under_way[route] or (probed_at is not None and now < probed_at + PROBE_EVERY):
                return 0, None if probed_at is None else probed_at + PROBE_EVERY
            return 1, None
        if lane.pace is None or free <= 0:
            return free, None
        allowed = lane.pace.allowance(now)
        return min(free, allowed), lane.pace.next_at(now) if allowed <= 0 else None

    def _is_held(self, route: str) -> bool:
        state = self._states.get(route)
        return state is not None and state.held_at is not None

    def _start(self, route: str, lane: Lane, one: Claimed, claim: str) -> None:
        self._under_way[route] += 1
        attempt = asyncio.create_task(self._attempt(route, lane, one, claim))
        self._attempts.add(attempt)

        def done(ended: "asyncio.Task[None]") -> None:
            self._attempts.discard(ended)
            self._under_way[route] -= 1
            self._wake.set()
            if not ended.cancelled() and ended.exception() is not None:
                log.error("delivery.unrecorded", delivery=one.delivery.id, exc_info=ended.exception())

        attempt.add_done_callback(done)

    async def _attempt(self, route: str, lane: Lane, one: Claimed, claim: str) -> None:
        """Try one delivery and record what came of it; give it back untried when we are cancelled."""
        number = one.delivery.attempts + 1
        started_at, began = self._clock.now(), time.perf_counter()
        try:
            outcome = await self._outcome(lane, one, number, started_at)
        except asyncio.CancelledError:
            await self._queue.release(one.delivery.id, claim=claim, now=self._clock.now())
            raise
        now = self._clock.now()
        before = self._states.get(route, RouteState(name=route))
        verdict = lane.policy.judge(
            outcome,
            attempt=number,
            age=now - one.delivery.created_at,
            held=before.held_at is not None,
            now=now,
            rng=self._rng,
        )
        after = after_attempt(before, outcome, now=now)
        self._states[route] = after
        attempt = Attempt(
            delivery_id=one.delivery.id,
            number=number,
            started_at=started_at,
            duration=timedelta(seconds=time.perf_counter() - began),
            outcome=_word(outcome),
            code=outcome.code,
            reason=_reason(outcome),
            excerpt=outcome.excerpt,
        )
        ours = await self._queue.finish(attempt, verdict, claim=claim, route=None if after == before else after)
        _log_attempt(one, attempt, verdict, ours=ours)
        await self._tell(before, after)

    async def _outcome(self, lane: Lane, one: Claimed, number: int, at: datetime) -> Outcome:
        if one.delivery.unfinished > BURY_AFTER:
            return Refused(
                reason=f"The service ended {BURY_AFTER} times in the middle of this delivery; it is not tried again."
            )
        parcel = Parcel(
            delivery_id=one.delivery.id,
            event=one.event,
            attempt=number,
            at=at,
            url=one.reply_to,
        )
        try:
            return await lane.sender.send(parcel)
        except Exception as exc:  # one attempt must not end the others; the fault is recorded with it
            log.exception("sender.broken", delivery=one.delivery.id)
            return Failed(reason=f"A fault of the receiver's own: {type(exc).__name__}. See its log.")

    async def _tell(self, before: RouteState, after: RouteState) -> None:
        if before.held_at is None and after.held_at is not None:
            log.warning("route.held", route=after.name, failures=after.failures, why=after.held_why)
            self._probed_at[after.name] = after.held_at
            await self._announce("route_held", after)
        elif before.held_at is not None and after.held_at is None:
            waiting = await self._queue.hasten(after.name, now=self._clock.now())
            log.warning("route.released", route=after.name, waiting=waiting)
            self._wake.set()
            await self._announce("route_recovered", after)

    async def _finish(self) -> None:
        """Wait for what is under way; when grace is over, stop it and give it back."""
        if not self._attempts:
            return
        log.info("dispatch.draining", under_way=len(self._attempts))
        _, late = await asyncio.wait(self._attempts, timeout=self._grace.total_seconds())
        for attempt in late:
            attempt.cancel()
        if late:
            await asyncio.wait(late)
            log.warning("dispatch.interrupted", given_back=len(late))


def _log_attempt(one: Claimed, attempt: Attempt, verdict: Verdict, *, ours: bool) -> None:
    log.info(
        "delivery.attempted",
        delivery=one.delivery.id,
        event_id=one.event.id,
        task=one.event.task_id,
        route=one.delivery.route,
        attempt=attempt.number,
        outcome=attempt.outcome,
        code=attempt.code,
        reason=attempt.reason,
        duration_ms=round(attempt.duration / timedelta(milliseconds=1), 1),
        verdict=verdict.status,
        recorded=ours,
    )


def _word(outcome: Outcome) -> str:
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
