"""Claims due deliveries, has each attempted by the sender of its kind, and records what came of it.

Each route has its own lane with its own number of attempts at once, so that a slow one delays no other. A lane
that is held by failures sends one probe a minute; one that is held by a person sends nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random

import structlog

from receiver.delivery.retry import BURY_AFTER, Pace, RetryPolicy, age_of
from receiver.delivery.route_states import Holds
from receiver.delivery.senders.sender import Parcel, Sender
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Accepted, Attempt, Failed, HeldBy, Outcome, Refused, RouteState, Verdict
from receiver.domain.notifier import Bell
from receiver.events.factory import HELD_BACK
from receiver.store.interfaces import Claimed, Queue

log = structlog.get_logger()

LEASE_MARGIN = timedelta(seconds=30)
_SET_BACK = timedelta(seconds=5)
_AT_A_TIME = 1000  # deliveries brought forward in one transaction: a backlog may be a million
_FARTHEST_PROBE = timedelta(
    hours=2
)  # no answer may ask for more than an hour; what is planned later, another clock planned
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


class Dispatcher:
    """Brings deliveries out, as many at a time as each lane allows."""

    def __init__(
        self,
        queue: Queue,
        lanes: Lanes,
        holds: Holds,
        *,
        bell: Bell,
        clock: Clock,
        ids: Ids,
        rng: Random,
        grace: timedelta,
    ) -> None:
        self._queue = queue
        self._lanes = lanes
        self._holds = holds
        self._wake = bell.listen()
        self._clock = clock
        self._ids = ids
        self._rng = rng
        self._grace = grace
        self._under_way: Counter[str] = Counter()
        self._attempts: set[asyncio.Task[None]] = set()
        self._claims: dict[str, str] = {}  # of the deliveries under way
        self._seen_at = ids.latest

    async def run(self, stop: asyncio.Event) -> None:
        """Bring out what falls due until *stop*; then finish what is under way, or give it back when grace is over."""
        await self._take_over(stop)
        try:
            while not stop.is_set():
                self._wake.clear()
                until = await self._round()
                await self._clock.wait(self._wake, until=until)
            await self._finish()
        finally:
            for attempt in self._attempts:  # none, unless we are ended otherwise than by *stop*
                attempt.cancel()

    async def _take_over(self, stop: asyncio.Event) -> None:
        """Make due again what a former process had under way, and learn which routes it held."""
        while not stop.is_set():
            try:
                released = await self._queue.release_all(now=self._clock.now())
                await self._holds.load()
            except StoreUnavailable as exc:
                log.warning("dispatch.delayed", reason=exc.message)
                await self._clock.wait(stop, until=self._clock.now() + _LOOK_AGAIN)
            else:
                log.info("dispatch.started", released=released)
                return

    async def _round(self) -> datetime | None:
        """Start every attempt that is due and has room; tell when to look again."""
        soonest: datetime | None = None
        try:
            await self._follow_the_clock()
            for route, due_at in (await self._queue.due_routes()).items():
                lane = self._lanes(route)
                at = None if lane is None else await self._serve(route, lane, due_at)
                if at is not None and (soonest is None or at < soonest):
                    soonest = at
        except StoreUnavailable as exc:  # a full disk, say; what is due stays due
            log.warning("dispatch.delayed", reason=exc.message)
            return self._clock.now() + _LOOK_AGAIN
        return soonest

    async def _follow_the_clock(self) -> None:
        """Let nothing wait for a moment planned by a clock that was set back since, in this run or before it."""
        now = self._clock.now()
        if now < self._seen_at - _SET_BACK:
            log.warning("clock.set_back", by_seconds=(self._seen_at - now).total_seconds())
            self._holds.hasten()
            for route in await self._queue.due_routes():
                await self._queue.hasten(route, now=now)
                ahead = partial(self._queue.bring_forward, route, now=now, held_until=now + HELD_BACK)
                while await ahead(limit=_AT_A_TIME):
                    pass
        self._seen_at = now

    async def _serve(self, route: str, lane: Lane, due_at: datetime) -> datetime | None:
        """Start what one lane has due and room for; tell when to look again, None when some attempt's end will."""
        state, now = self._holds.of(route), self._clock.now()
        if state.is_held:
            return await self._probe(lane, state, due_at, now)
        if due_at > now:
            return due_at
        free = lane.concurrency - self._under_way[route]
        if free <= 0:
            return None
        allowed = free if lane.pace is None else lane.pace.allowance(now)
        if lane.pace is not None and allowed <= 0:
            return lane.pace.next_at(now)
        return await self._claim(route, lane, now, limit=min(free, allowed))

    async def _probe(self, lane: Lane, state: RouteState, due_at: datetime, now: datetime) -> datetime | None:
        """Try one delivery of a held route, due or waiting to be tried again; tell when the next may be tried."""
        if state.held_by is HeldBy.OPERATOR or self._under_way[state.name]:
            return None
        if state.probe_at is not None and now < state.probe_at <= now + _FARTHEST_PROBE:
            return state.probe_at
        again = await self._claim(state.name, lane, now, limit=1, early=True)
        return again if again is None or due_at <= now else due_at

    async def _claim(
        self, route: str, lane: Lane, now: datetime, *, limit: int, early: bool = False
    ) -> datetime | None:
        claim = self._ids.new("clm")
        until = now + lane.sender.timeout + LEASE_MARGIN
        claimed = await self._queue.claim(route, now=now, until=until, limit=limit, claim=claim, early=early)
        if not claimed:
            return now + _LOOK_AGAIN
        if lane.pace is not None:
            lane.pace.take(len(claimed), now)
        for one in claimed:
            if one.delivery.id not in self._claims:
                self._start(route, lane, one)
            self._claims[one.delivery.id] = claim  # a lease ends before its attempt only when the clock was set
        self._wake.set()
        return None

    def _start(self, route: str, lane: Lane, one: Claimed) -> None:
        self._under_way[route] += 1
        attempt = asyncio.create_task(self._attempt(route, lane, one))
        self._attempts.add(attempt)

        def done(ended: "asyncio.Task[None]") -> None:
            self._attempts.discard(ended)
            self._claims.pop(one.delivery.id, None)
            self._under_way[route] -= 1
            self._wake.set()
            if not ended.cancelled() and ended.exception() is not None:
                log.error("delivery.unrecorded", delivery=one.delivery.id, exc_info=ended.exception())

        attempt.add_done_callback(done)

    async def _attempt(self, route: str, lane: Lane, one: Claimed) -> None:
        """Try one delivery and record what came of it; give it back untried when we are cancelled."""
        number = one.delivery.attempts + 1
        started_at, began = self._clock.now(), time.perf_counter()
        try:
            outcome = await self._outcome(lane, one, number, started_at)
        except asyncio.CancelledError:
            await self._queue.release(one.delivery.id, claim=self._claims[one.delivery.id], now=self._clock.now())
            raise
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
        verdict, ours = await self._holds.settle(
            route,
            attempt,
            outcome,
            claim=self._claims[one.delivery.id],
            judge=partial(self._judge, lane, one, outcome),
        )
        _log_attempt(one, attempt, verdict, ours=ours)

    def _judge(self, lane: Lane, one: Claimed, outcome: Outcome, route: RouteState, now: datetime) -> Verdict:
        return lane.policy.judge(
            outcome,
            attempt=one.delivery.attempts - one.delivery.probes + 1,
            age=age_of(one.delivery.created_at, route, now=now),
            held=route.is_held,
            now=now,
            rng=self._rng,
        )

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
