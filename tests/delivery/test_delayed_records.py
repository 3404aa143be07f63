"""An attempt whose record the store cannot take now, because another process has locked it or the disk is full."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from harness.clock import START
from harness.delivery_system import FAILED, SECOND, TIMEOUT, DeliverySystem
from harness.waiting import wait_until

from receiver.delivery.lane import LEASE_MARGIN
from receiver.domain.errors import StoreUnavailable
from receiver.store.interfaces import ClaimedRoutes, DeliveryQueue


class LockedRecords:
    """A delivery queue on a real store that refuses records while it *is_locked*, or lets them wait for a gate."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self.is_locked = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def record_attempt(self, *args: Any, **kwargs: Any) -> bool:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.is_locked:
            raise StoreUnavailable("The store is temporarily unavailable: database is locked.")
        return await self._queue.record_attempt(*args, **kwargs)


async def start_with_locked_records(system: DeliverySystem, *, grace: timedelta = 5 * SECOND) -> LockedRecords:
    made: list[LockedRecords] = []

    def wrap(queue: DeliveryQueue) -> Any:
        made.append(LockedRecords(queue))
        return made[0]

    await system.start(grace=grace, wrap_queue=wrap)
    return made[0]


async def test_an_attempt_is_recorded_once_the_store_is_back_and_not_repeated(system: DeliverySystem) -> None:
    there = system.add_route()
    records = await start_with_locked_records(system)

    await system.add_events()
    await system.advance(3 * SECOND)
    assert await system.statuses() == ["pending"]
    records.is_locked = False
    await system.advance(SECOND)

    assert await system.statuses() == ["delivered"]
    assert there.attempt_times == [START]


async def test_an_attempt_is_not_repeated_when_its_lease_ends_before_its_record(system: DeliverySystem) -> None:
    there = system.add_route()
    records = await start_with_locked_records(system)

    await system.add_events()
    await system.advance(3 * (TIMEOUT + LEASE_MARGIN))
    records.is_locked = False
    await system.advance(SECOND)

    (view,) = await system.deliveries()
    assert (view.delivery.status, view.delivery.attempts, len(there.attempts)) == ("delivered", 1, 1)


class SlowClaims:
    """A delivery queue whose claims return a while after their commit, once a gate is open."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.committed = 0
        self.records: list[bool] = []
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def claim_routes(self, *args: Any, **kwargs: Any) -> ClaimedRoutes:
        claimed = await self._queue.claim_routes(*args, **kwargs)
        self.committed += 1
        await self.gate.wait()
        return claimed

    async def record_attempt(self, *args: Any, **kwargs: Any) -> bool:
        self.records.append(await self._queue.record_attempt(*args, **kwargs))
        return self.records[-1]


async def test_an_attempt_is_not_repeated_when_its_lease_ends_just_before_its_record(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=2)
    made: list[SlowClaims] = []

    def wrap(queue: DeliveryQueue) -> Any:
        made.append(SlowClaims(queue))
        return made[0]

    await system.start(wrap_queue=wrap)
    await system.add_events()  # its route is then one of those used last
    there.gate.clear()
    await system.add_events()
    (claims,) = made
    claims.gate.clear()
    before = claims.committed
    system.clock.advance(TIMEOUT + LEASE_MARGIN + SECOND)
    await wait_until(lambda: claims.committed > before)

    there.gate.set()
    await wait_until(lambda: claims.records == [True, False])
    claims.gate.set()
    await system.settle()

    assert claims.records == [True, False, True]
    assert (await system.statuses(), len(there.attempts)) == (["delivered", "delivered"], 2)


async def test_a_stop_records_what_the_store_takes_within_the_grace(system: DeliverySystem) -> None:
    there = system.add_route()
    records = await start_with_locked_records(system)
    await system.add_events()

    stopping = asyncio.create_task(system.stop())
    await asyncio.sleep(0)
    records.is_locked = False
    system.clock.advance(SECOND)
    await stopping

    await system.start()
    assert (await system.statuses(), len(there.attempts)) == (["delivered"], 1)


@pytest.mark.parametrize("waits_for_route", [False, True])
async def test_a_stop_without_a_record_is_not_counted_as_a_death(system: DeliverySystem, waits_for_route: bool) -> None:
    there = system.add_route(concurrency=3)
    there.respond = lambda _: FAILED  # a changed state of its route is recorded by one attempt at a time
    records = await start_with_locked_records(system, grace=timedelta(milliseconds=20))
    if waits_for_route:
        records.gate.clear()
    await system.add_events(3, settle=False)
    await wait_until(lambda: len(there.attempts) == 3)
    await wait_until(lambda: records.waiting == 1 if waits_for_route else len(system.clock.waits) == 5)

    await system.stop()
    there.gate.clear()
    await system.start()

    for view in await system.deliveries():
        assert (view.delivery.status, view.delivery.attempts, view.delivery.unfinished_claims) == ("pending", 0, 0)
