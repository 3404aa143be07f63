"""One attempt at a claimed delivery: send it, decide what follows, record both, and log one line."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from random import Random

import msgspec
import structlog

from receiver.delivery import measurements
from receiver.delivery.lane import Lane
from receiver.delivery.retry import MAX_UNFINISHED_CLAIMS, effective_age
from receiver.delivery.route_states import RouteStates
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.clock import Clock
from receiver.domain.duties import Tenure
from receiver.domain.errors import StoreUnavailable
from receiver.domain.log_batch import log_together
from receiver.domain.metrics import Metrics
from receiver.domain.model import Accepted, Attempt, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict
from receiver.domain.worker import STORE_RETRY_DELAY
from receiver.store.interfaces import ClaimedDelivery, DeliveryQueue

log = structlog.get_logger()

_MILLISECOND = timedelta(milliseconds=1)


class AttemptRunner:
    """Makes attempts.

    The dispatcher keeps ``claims``, the present claim of each delivery in flight by the delivery's id, and locks
    ``claiming`` while it claims.
    """

    def __init__(
        self,
        queue: DeliveryQueue,
        route_states: RouteStates,
        *,
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        tenure: Tenure,
    ) -> None:
        self._queue = queue
        self._route_states = route_states
        self.claims: dict[str, str] = {}
        self.claiming = asyncio.Lock()
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._tenure = tenure
        self._unlogged: list[_Recorded] = []  # in this turn of the event loop

    async def run(self, lane: Lane, claimed: ClaimedDelivery, *, on_accepted: Callable[[], None]) -> bool:
        """Attempt one delivery and record the outcome. Return whether that was its last attempt.

        *on_accepted* is called before an acceptance is recorded that changes nothing about the route.
        If cancelled before the record, release the claim without counting an attempt.
        """
        if not self._tenure.is_held:  # another process may have claimed it already
            await self._release(claimed)
            return False
        try:
            return await self._attempt(lane, claimed, on_accepted)
        except asyncio.CancelledError:
            await self._release(claimed)
            raise

    async def _attempt(self, lane: Lane, claimed: ClaimedDelivery, on_accepted: Callable[[], None]) -> bool:
        number = claimed.delivery.attempts + 1
        started_at, began = self._clock.now(), time.perf_counter()
        measurements.record_start(self._metrics, claimed, self._route_states.get(claimed.delivery.route), started_at)
        outcome = await self._send(lane, claimed, number, started_at)
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
        if isinstance(outcome, Accepted) and not self._route_states.get(claimed.delivery.route).has_failures:
            on_accepted()
        verdict, recorded = await self._record(lane, claimed, attempt, outcome)
        if recorded:
            measurements.record_attempt(self._metrics, claimed, attempt, outcome, verdict)
        self._log_soon(_Recorded(claimed, attempt, verdict, recorded))
        return recorded and verdict.status is not DeliveryStatus.PENDING

    async def _record(
        self, lane: Lane, claimed: ClaimedDelivery, attempt: Attempt, outcome: Outcome
    ) -> tuple[Verdict, bool]:
        """Record an attempt, and try again while the store is unavailable: without its record it would be repeated.

        If the lease ends meanwhile, the dispatcher claims the delivery anew for this attempt.
        """
        delivery_id, is_logged = claimed.delivery.id, False
        decide = partial(self._decide, lane, claimed, outcome)
        while True:
            claim = self.claims[delivery_id]
            try:
                verdict, recorded = await self._route_states.record_attempt(
                    claimed, attempt, outcome, claim=claim, decide=decide
                )
            except StoreUnavailable as exc:
                if not self._tenure.is_held:
                    raise
                if not is_logged:  # once for each attempt: an outage may take hours
                    log.warning("delivery.record_delayed", delivery=delivery_id, reason=exc.message)
                is_logged = True
                await self._clock.wait(asyncio.Event(), until=self._clock.now() + STORE_RETRY_DELAY)
                continue
            if recorded or await self._present_claim(delivery_id) == claim:
                return verdict, recorded

    async def _present_claim(self, delivery_id: str) -> str:
        """Return the claim of a delivery in flight, once the dispatcher has learned what it is claiming now."""
        async with self.claiming:
            return self.claims[delivery_id]

    def _log_soon(self, recorded: "_Recorded") -> None:
        """Log an attempt in the next turn of the event loop, together with all others that were recorded with it."""
        if not self._unlogged:
            asyncio.get_running_loop().call_soon(self._log_all)
        self._unlogged.append(recorded)

    def _log_all(self) -> None:
        recorded, self._unlogged = self._unlogged, []
        with log_together():
            for each in recorded:
                _log_attempt(each)

    async def _release(self, claimed: ClaimedDelivery) -> None:
        delivery_id = claimed.delivery.id
        await self._queue.release(delivery_id, claim=self.claims[delivery_id], now=self._clock.now())

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


class _Recorded(msgspec.Struct, frozen=True):
    """An attempt with its verdict, and whether they were stored."""

    claimed: ClaimedDelivery
    attempt: Attempt
    verdict: Verdict
    is_stored: bool


def _log_attempt(recorded: _Recorded) -> None:
    claimed, attempt = recorded.claimed, recorded.attempt
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
        duration_ms=round(attempt.duration / _MILLISECOND, 1),
        verdict=recorded.verdict.status.value,
        recorded=recorded.is_stored,
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
