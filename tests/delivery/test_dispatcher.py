"""Deliveries go out when they are due, each lane at its own pace, and what comes of each attempt is recorded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from harness.clock import START
from harness.delivery_system import FAILED, SCHEDULE, DeliverySystem, a_delivery_system
from harness.logs import capture_logs

from receiver.delivery.retry import JITTER
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState
from receiver.domain.rate_limiter import RateLimiter
from receiver.store.interfaces import ClaimedDelivery, DeliveryQueue

SECOND = timedelta(seconds=1)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[DeliverySystem]:
    async with a_delivery_system(tmp_path) as system:
        yield system


async def test_a_new_event_is_attempted_at_once_and_the_outcome_stored(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: Accepted(code=204, excerpt=b"thanks")
    await system.start()

    [event] = await system.add_events(1)

    [view] = await system.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.finished_at) == ("delivered", 1, START)
    [attempt] = await system.attempts(view.delivery.id)
    assert (attempt.number, attempt.outcome, attempt.code, attempt.excerpt) == (1, "accepted", 204, b"thanks")
    assert (there.event_ids, there.attempts[0][1].attempt) == ([event], 1)


async def test_failed_attempts_are_retried_by_the_schedule(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda parcel: FAILED if parcel.attempt < 5 else Accepted()
    await system.start()

    await system.add_events(1)
    await system.advance(timedelta(hours=1))

    waits = [later - earlier for earlier, later in zip(there.attempt_times, there.attempt_times[1:], strict=False)]
    for wait, planned in zip(waits, SCHEDULE[:4], strict=True):
        assert planned * (1 - JITTER) <= wait <= planned * (1 + JITTER)
    [view] = await system.deliveries()
    outcomes = [attempt.outcome for attempt in await system.attempts(view.delivery.id)]
    assert (view.delivery.status, outcomes) == ("delivered", ["failed"] * 4 + ["accepted"])


async def test_no_attempt_is_made_before_the_retry_after_of_a_destination(system: DeliverySystem) -> None:
    there = system.add_route()
    busy = Failed(reason="429", code=429, retry_after=timedelta(minutes=7))
    there.respond = lambda parcel: busy if parcel.attempt == 1 else Accepted()
    await system.start()

    await system.add_events(1)
    await system.advance(timedelta(hours=1))

    assert there.attempt_times == [START, START + timedelta(minutes=7)]


async def test_a_refused_delivery_is_dead_and_the_next_is_attempted(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: Refused(reason="exit 65", code=65) if len(there.attempts) == 1 else Accepted()
    await system.start()

    await system.add_events(2)

    assert await system.statuses() == ["dead", "delivered"]


async def test_a_delivery_that_fails_for_too_long_is_dead(system: DeliverySystem) -> None:
    there = system.add_route(give_up_after=timedelta(minutes=2))
    await system.start()
    [doomed] = await system.add_events(1, settle=False)
    there.respond = lambda parcel: FAILED if parcel.event.id == doomed else Accepted()

    for _ in range(10):
        await system.advance(timedelta(seconds=20))
        await system.add_events(1)

    assert await system.statuses() == ["dead"] + ["delivered"] * 10


async def test_no_more_attempts_run_at_once_than_the_lane_allows(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=3)
    there.gate.clear()
    await system.start()

    await system.add_events(10)
    assert there.blocked == 3
    there.gate.set()
    await system.settle()

    assert (len(there.attempts), there.max_concurrent) == (10, 3)


async def test_a_slow_route_delays_no_other(system: DeliverySystem) -> None:
    slow, fast = system.add_route("slow", concurrency=2), system.add_route("fast")
    slow.gate.clear()
    await system.start()

    await system.add_events(50, route="slow")
    sent = await system.add_events(20, route="fast")

    assert fast.event_ids == sent
    assert slow.blocked == 2


async def test_a_lane_keeps_its_rate_and_its_order(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=50, rate=RateLimiter(count=4, per=SECOND))
    await system.start()

    sent = await system.add_events(18)
    await system.advance(10 * SECOND)

    assert there.event_ids == sent
    assert there.attempt_times == [START + (n // 4) * SECOND for n in range(18)]


async def test_deliveries_of_a_removed_route_stay_pending_without_wakeups(system: DeliverySystem) -> None:
    system.add_route()
    await system.start()

    await system.add_events(3, route="gone")
    await system.advance(timedelta(days=1))

    assert await system.statuses("gone") == ["pending"] * 3


async def test_an_error_in_a_sender_fails_only_its_own_attempt(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    [bad] = await system.add_events(1, settle=False)

    def answer(parcel: DeliveryRequest) -> Outcome:
        if parcel.event.id == bad and parcel.attempt == 1:
            raise ZeroDivisionError("secret-in-the-text")
        return Accepted()

    there.respond = answer
    await system.add_events(3)
    assert await system.statuses() == ["pending"] + ["delivered"] * 3
    await system.advance(timedelta(minutes=1))

    views = await system.deliveries()
    first, _ = await system.attempts(views[0].delivery.id)
    assert (first.outcome, views[0].delivery.status) == ("failed", "delivered")
    assert "ZeroDivisionError" in first.reason
    assert "secret-in-the-text" not in first.reason


async def test_an_interrupted_attempt_is_repeated_at_the_next_start(system: DeliverySystem) -> None:
    there = system.add_route()
    there.gate.clear()
    await system.start()
    [event] = await system.add_events(1)

    await system.crash()
    there.gate.set()
    await system.start()

    assert there.event_ids == [event, event]
    [view] = await system.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished_claims) == ("delivered", 1, 0)


async def test_a_late_attempt_that_lost_its_claim_is_not_stored(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=2)
    there.respond = lambda _: FAILED
    there.gate.clear()
    await system.start()
    await system.add_events(1)

    assert there.blocked == 1
    [view] = await system.deliveries()
    await system.store.deliveries.release(view.delivery.id, claim=view.delivery.claim or "", now=system.clock.now())
    [taken] = await system.store.deliveries.claim(
        "publish", now=system.clock.now(), until=START + timedelta(days=1), limit=1, claim="x"
    )
    there.gate.set()
    await system.settle()

    assert await system.attempts(taken.delivery.id) == []
    assert (await system.deliveries())[0].delivery == taken.delivery
    assert system.route_states.get("publish") == RouteState(name="publish")
    assert await system.store.deliveries.route_states() == {}


async def test_setting_the_clock_past_a_lease_does_not_repeat_an_attempt(
    system: DeliverySystem,
) -> None:
    there = system.add_route(concurrency=2)
    there.gate.clear()
    await system.start()
    [event] = await system.add_events(1)

    await system.advance(timedelta(days=1))
    there.gate.set()
    await system.settle()

    assert there.event_ids == [event]
    [view] = await system.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished_claims) == ("delivered", 1, 0)


async def test_a_stop_waits_for_attempts_in_flight(system: DeliverySystem) -> None:
    there = system.add_route()
    there.gate.clear()
    await system.start()
    await system.add_events(3)

    stopping = asyncio.create_task(system.stop())
    await asyncio.sleep(0)
    there.gate.set()
    await stopping

    await system.start()
    assert len(there.attempts) == 3
    [first, *_] = await system.deliveries()
    assert (first.delivery.attempts, first.delivery.status) == (1, "delivered")


async def test_a_stop_releases_attempts_over_the_grace_period_uncounted(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=4)
    there.gate.clear()
    await system.start(grace=timedelta(milliseconds=20))
    sent = await system.add_events(4)
    there.gates[sent[0]] = there.gate

    await system.stop()
    there.gate.set()
    await system.start()

    assert len(there.attempts) == 8
    for view in await system.deliveries():
        assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished_claims) == ("delivered", 1, 0)


class FailingQueue:
    """A queue on a real store that cannot do it a few times, as on a disk that is full."""

    def __init__(self, queue: DeliveryQueue, failures: int) -> None:
        self._queue = queue
        self._failures_left = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def claim(self, route: str, **options: Any) -> Sequence[ClaimedDelivery]:
        self._failures_left -= 1
        if self._failures_left >= 0:
            raise StoreUnavailable("The disk is full.")
        return await self._queue.claim(route, **options)


async def test_an_unavailable_store_delays_attempts_and_ends_none(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start(wrap_queue=lambda queue: cast("DeliveryQueue", FailingQueue(queue, failures=3)))

    await system.add_events(2)
    assert there.attempts == []
    await system.advance(5 * SECOND)

    assert await system.statuses() == [DeliveryStatus.DELIVERED] * 2
    assert there.attempt_times == [START + 3 * SECOND] * 2


async def test_an_attempt_of_a_used_route_takes_one_store_access(
    system: DeliverySystem,
) -> None:
    used: list[str] = []
    used_before_attempt: list[str] = []

    class RecordingQueue:
        def __init__(self, queue: DeliveryQueue) -> None:
            self._queue = queue

        def __getattr__(self, name: str) -> Any:
            used.append(name)
            return getattr(self._queue, name)

    def accept(_: DeliveryRequest) -> Outcome:
        used_before_attempt.extend(used)
        return Accepted()

    there = system.add_route()
    await system.start(wrap_queue=lambda queue: cast("DeliveryQueue", RecordingQueue(queue)))
    await system.add_events(1)
    used.clear()
    there.respond = accept

    await system.add_events(1)

    assert used_before_attempt == ["claim_routes"]


async def test_the_start_logs_a_removed_route_with_pending_deliveries(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: FAILED
    await system.start()
    await system.add_events(1)
    await system.stop()
    lane = system.lanes.pop("publish")

    with capture_logs() as logs:
        await system.start()
    warned = [line["route"] for line in logs if line["event"] == "route.unknown"]
    await system.stop()
    system.lanes["publish"] = lane
    with capture_logs() as later:
        await system.start()

    assert warned == ["publish"]
    assert "route.unknown" not in [line["event"] for line in later]
