"""Deliveries go out when they are due, each lane at its own pace, and what comes of each attempt is recorded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from harness.delivery_system import FAILED, SCHEDULE, Lab, a_lab
from harness.support import START

from receiver.delivery.retry import BURY_AFTER, JITTER, Pace
from receiver.delivery.senders.sender import Parcel
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState
from receiver.store.interfaces import Claimed, Queue

SECOND = timedelta(seconds=1)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with a_lab(tmp_path) as lab:
        yield lab


async def test_an_event_goes_out_at_once_and_what_came_of_it_is_kept(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: Accepted(code=204, excerpt=b"thanks")
    await lab.start()

    [event] = await lab.add(1)

    [view] = await lab.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.finished_at) == ("delivered", 1, START)
    [attempt] = await lab.attempts(view.delivery.id)
    assert (attempt.number, attempt.outcome, attempt.code, attempt.excerpt) == (1, "accepted", 204, b"thanks")
    assert (there.events, there.tries[0][1].attempt) == ([event], 1)


async def test_failed_attempts_are_made_again_by_the_schedule(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda parcel: FAILED if parcel.attempt < 5 else Accepted()
    await lab.start()

    await lab.add(1)
    await lab.go_on(timedelta(hours=1))

    waits = [later - earlier for earlier, later in zip(there.moments, there.moments[1:], strict=False)]
    for wait, planned in zip(waits, SCHEDULE[:4], strict=True):
        assert planned * (1 - JITTER) <= wait <= planned * (1 + JITTER)
    [view] = await lab.deliveries()
    outcomes = [attempt.outcome for attempt in await lab.attempts(view.delivery.id)]
    assert (view.delivery.status, outcomes) == ("delivered", ["failed"] * 4 + ["accepted"])


async def test_a_destination_is_left_alone_for_as_long_as_it_asks(lab: Lab) -> None:
    there = lab.a_route()
    busy = Failed(reason="429", code=429, retry_after=timedelta(minutes=7))
    there.answer = lambda parcel: busy if parcel.attempt == 1 else Accepted()
    await lab.start()

    await lab.add(1)
    await lab.go_on(timedelta(hours=1))

    assert there.moments == [START, START + timedelta(minutes=7)]


async def test_a_refused_delivery_is_dead_and_the_next_goes_out(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: Refused(reason="exit 65", code=65) if len(there.tries) == 1 else Accepted()
    await lab.start()

    await lab.add(2)

    assert await lab.statuses() == ["dead", "delivered"]


async def test_what_fails_for_too_long_dies(lab: Lab) -> None:
    there = lab.a_route(give_up_after=timedelta(minutes=2))
    await lab.start()
    [doomed] = await lab.add(1, settle=False)
    there.answer = lambda parcel: FAILED if parcel.event.id == doomed else Accepted()

    for _ in range(10):
        await lab.go_on(timedelta(seconds=20))
        await lab.add(1)

    assert await lab.statuses() == ["dead"] + ["delivered"] * 10


async def test_no_more_attempts_run_at_once_than_the_lane_allows(lab: Lab) -> None:
    there = lab.a_route(concurrency=3)
    there.open.clear()
    await lab.start()

    await lab.add(10)
    assert there.stuck == 3
    there.open.set()
    await lab.settle()

    assert (len(there.tries), there.most_at_once) == (10, 3)


async def test_a_slow_route_delays_no_other(lab: Lab) -> None:
    slow, fast = lab.a_route("slow", concurrency=2), lab.a_route("fast")
    slow.open.clear()
    await lab.start()

    await lab.add(50, route="slow")
    sent = await lab.add(20, route="fast")

    assert fast.events == sent
    assert slow.stuck == 2


async def test_a_lane_keeps_its_rate_and_its_order(lab: Lab) -> None:
    there = lab.a_route(concurrency=50, pace=Pace(count=4, per=SECOND))
    await lab.start()

    sent = await lab.add(18)
    await lab.go_on(10 * SECOND)

    assert there.events == sent
    assert there.moments == [START + (n // 4) * SECOND for n in range(18)]


async def test_a_route_the_configuration_no_longer_has_waits_and_costs_nothing(lab: Lab) -> None:
    lab.a_route()
    await lab.start()

    await lab.add(3, route="gone")
    await lab.go_on(timedelta(days=1))

    assert await lab.statuses("gone") == ["pending"] * 3


async def test_a_sender_that_raises_harms_neither_the_others_nor_itself(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    [bad] = await lab.add(1, settle=False)

    def answer(parcel: Parcel) -> Outcome:
        if parcel.event.id == bad and parcel.attempt == 1:
            raise ZeroDivisionError("secret-in-the-text")
        return Accepted()

    there.answer = answer
    await lab.add(3)
    assert await lab.statuses() == ["pending"] + ["delivered"] * 3
    await lab.go_on(timedelta(minutes=1))

    views = await lab.deliveries()
    first, _ = await lab.attempts(views[0].delivery.id)
    assert (first.outcome, views[0].delivery.status) == ("failed", "delivered")
    assert "ZeroDivisionError" in first.reason
    assert "secret-in-the-text" not in first.reason


async def test_a_delivery_that_ends_the_process_again_and_again_is_buried(lab: Lab) -> None:
    there = lab.a_route()
    there.open.clear()
    await lab.start()
    await lab.add(1)

    for _ in range(BURY_AFTER):
        assert there.stuck == 1
        await lab.crash()
        await lab.start()

    assert there.stuck == 0
    assert len(there.tries) == BURY_AFTER
    [view] = await lab.deliveries()
    [attempt] = await lab.attempts(view.delivery.id)
    assert (view.delivery.status, attempt.outcome) == ("dead", "refused")
    assert "not tried again" in attempt.reason
    assert lab.holds.of("publish") == RouteState(name="publish")


async def test_an_interrupted_attempt_is_made_again_at_the_next_start(lab: Lab) -> None:
    there = lab.a_route()
    there.open.clear()
    await lab.start()
    [event] = await lab.add(1)

    await lab.crash()
    there.open.set()
    await lab.start()

    assert there.events == [event, event]
    [view] = await lab.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished) == ("delivered", 1, 0)


async def test_a_late_finisher_whose_claim_is_lost_writes_nothing(lab: Lab) -> None:
    there = lab.a_route(concurrency=2)
    there.answer = lambda _: FAILED
    there.open.clear()
    await lab.start()
    await lab.add(1)

    assert there.stuck == 1
    [view] = await lab.deliveries()
    await lab.store.release(view.delivery.id, claim=view.delivery.claim or "", now=lab.clock.now())
    [taken] = await lab.store.claim("publish", now=lab.clock.now(), until=START + timedelta(days=1), limit=1, claim="x")
    there.open.set()
    await lab.settle()

    assert await lab.attempts(taken.delivery.id) == []
    assert (await lab.deliveries())[0].delivery == taken.delivery
    assert lab.holds.of("publish") == RouteState(name="publish")
    assert await lab.store.route_states() == {}


async def test_an_attempt_that_is_under_way_is_not_made_again_when_the_clock_is_set_past_its_lease(lab: Lab) -> None:
    there = lab.a_route(concurrency=2)
    there.open.clear()
    await lab.start()
    [event] = await lab.add(1)

    await lab.go_on(timedelta(days=1))
    there.open.set()
    await lab.settle()

    assert there.events == [event]
    [view] = await lab.deliveries()
    assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished) == ("delivered", 1, 0)


async def test_a_stop_waits_for_what_is_under_way(lab: Lab) -> None:
    there = lab.a_route()
    there.open.clear()
    await lab.start()
    await lab.add(3)

    stopping = asyncio.create_task(lab.stop())
    await asyncio.sleep(0)
    there.open.set()
    await stopping

    await lab.start()
    assert len(there.tries) == 3
    [first, *_] = await lab.deliveries()
    assert (first.delivery.attempts, first.delivery.status) == (1, "delivered")


async def test_a_stop_gives_back_untried_what_does_not_end_within_its_grace(lab: Lab) -> None:
    there = lab.a_route(concurrency=4)
    there.open.clear()
    await lab.start(grace=timedelta(milliseconds=20))
    sent = await lab.add(4)
    there.gates[sent[0]] = there.open

    await lab.stop()
    there.open.set()
    await lab.start()

    assert len(there.tries) == 8
    for view in await lab.deliveries():
        assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished) == ("delivered", 1, 0)


class Faltering:
    """A queue on a real store that cannot do it a few times, as on a disk that is full."""

    def __init__(self, queue: Queue, times: int) -> None:
        self._queue = queue
        self._left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def claim(self, route: str, **options: Any) -> Sequence[Claimed]:
        self._left -= 1
        if self._left >= 0:
            raise StoreUnavailable("The disk is full.")
        return await self._queue.claim(route, **options)


async def test_a_store_that_cannot_just_now_delays_and_ends_nothing(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start(through=lambda queue: cast("Queue", Faltering(queue, times=3)))

    await lab.add(2)
    assert there.tries == []
    await lab.go_on(5 * SECOND)

    assert await lab.statuses() == [DeliveryStatus.DELIVERED] * 2
    assert there.moments == [START + 3 * SECOND] * 2
