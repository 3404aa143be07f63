"""A delivery is claimed in the transaction that stores it, if its route has a free slot and nothing older waits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from harness.delivery_system import FAILED, SECOND, TIMEOUT, DeliverySystem
from harness.factories import a_delivery, a_task
from harness.waiting import wait_until

from receiver.delivery.commit_claims import ClaimingTaskStore
from receiver.delivery.lane import LEASE_MARGIN
from receiver.delivery.route_hold import hold
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.duties import Duty, Fence, Tenure
from receiver.domain.errors import StoreBroken
from receiver.domain.model import Accepted, Delivery, Outcome, RouteState
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.request_id import begin_request, current_request
from receiver.store.interfaces import ApplyCall, ById, Change, DeliveryQueue


class CountingQueue:
    """A delivery queue that records the calls that claim."""

    def __init__(self, queue: DeliveryQueue, calls: list[str]) -> None:
        self._queue = queue
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("claim", "due_routes")):
            self._calls.append(name)
        return getattr(self._queue, name)


async def stored(system: DeliverySystem) -> Sequence[Delivery]:
    return [view.delivery for view in await system.deliveries()]


async def test_a_delivery_with_a_free_slot_is_claimed_by_its_commit_without_a_query(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=3)
    there.gate.clear()
    calls: list[str] = []
    await system.start(wrap_queue=lambda queue: CountingQueue(queue, calls))
    calls.clear()

    ids = await system.add_events(2, at_commit=True)

    assert there.event_ids == ids
    claimed = await stored(system)
    assert {each.due_at - system.clock.now() for each in claimed} == {TIMEOUT + LEASE_MARGIN}
    assert all(each.claim for each in claimed)
    there.gate.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 2
    assert calls == []


async def test_no_slot_is_used_twice_and_no_delivery_overtakes_a_waiting_one(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=3)
    there.gate.clear()
    await system.start()

    ids = await system.add_events(2, at_commit=True) + await system.add_events(5, at_commit=True)
    assert there.blocked == 3
    there.gates[ids[3]] = there.gates[ids[4]] = there.gates[ids[5]] = asyncio.Event()
    there.gate.set()
    await wait_until(lambda: there.blocked == 3)
    ids += await system.add_events(1, at_commit=True)
    assert [each.claim for each in await stored(system)][-2:] == [None, None]
    there.gates[ids[3]].set()
    await system.settle()

    assert there.event_ids == ids
    assert there.max_concurrent == 3
    assert await system.statuses() == ["delivered"] * 8


class SlowQueue:
    """A delivery queue whose claims reach the caller late."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self._queue = queue
        self.answers = asyncio.Event()
        self.answers.set()
        self.has_claimed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._queue, name)
        return self._late(found) if name in ("claim", "claim_routes") else found

    def _late(self, claim: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def late(*arguments: object, **named: object) -> object:
            claimed = await claim(*arguments, **named)
            self.has_claimed.set()
            await self.answers.wait()
            return claimed

        return late


@pytest.mark.parametrize("was_used", [False, True], ids=["a new route", "a recent route"])
async def test_no_slot_is_given_away_while_a_claim_for_it_is_under_way(system: DeliverySystem, was_used: bool) -> None:
    there = system.add_route(concurrency=1)
    slow: list[SlowQueue] = []

    def slowed(queue: DeliveryQueue) -> DeliveryQueue:
        slow.append(SlowQueue(queue))
        return slow[0]

    await system.start(wrap_queue=slowed)
    ids = await system.add_events(1) if was_used else []
    there.gate.clear()
    slow[0].answers.clear()
    slow[0].has_claimed.clear()

    ids += await system.add_events(1, settle=False)
    await slow[0].has_claimed.wait()
    ids += await system.add_events(1, at_commit=True, settle=False)
    slow[0].answers.set()
    await wait_until(lambda: there.blocked > 0)
    there.gate.set()
    await system.settle()

    assert (there.max_concurrent, there.event_ids) == (1, ids)
    assert await system.statuses() == ["delivered"] * len(ids)


async def test_a_backlog_of_one_route_delays_no_other_route(system: DeliverySystem) -> None:
    there, _ = system.add_route(), system.add_route("held")
    await system.start()
    await system.route_states.hold("held", why="a test", actor="a test")
    await system.add_events(3, route="held")
    there.gate.clear()

    await system.add_events(1, at_commit=True, settle=False)

    assert (await stored(system))[0].claim is not None
    assert await system.statuses("held") == ["pending"] * 3


async def test_a_delivery_of_a_held_route_is_not_claimed_at_the_commit(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await system.route_states.hold("publish", why="a test", actor="a test")

    await system.add_events(2, at_commit=True)
    assert there.attempts == []
    await system.route_states.release("publish", why="a test", actor="a test")
    await system.settle()

    assert await system.statuses() == ["delivered"] * 2


async def test_a_rate_limit_counts_deliveries_claimed_at_the_commit(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8, rate=RateLimiter(count=2, per=timedelta(seconds=10)))
    await system.start()

    await system.add_events(3, at_commit=True)
    assert len(there.attempts) == 2
    await system.advance(timedelta(seconds=10))

    assert len(there.attempts) == 3


async def test_a_delivery_that_is_due_later_is_not_claimed_at_the_commit(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()

    await system.add_events(1, at_commit=True, due_in=SECOND)
    assert there.attempts == []
    await system.add_events(1, at_commit=True)
    assert len(there.attempts) == 1


async def test_a_failure_is_retried_as_usual(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda request: FAILED if request.attempt == 1 else Accepted()
    await system.start()

    await system.add_events(1, at_commit=True)
    assert await system.statuses() == ["pending"]
    await system.advance(timedelta(seconds=7))

    assert await system.statuses() == ["delivered"]


async def test_a_crash_counts_against_deliveries_claimed_at_the_commit(system: DeliverySystem) -> None:
    there = system.add_route()
    there.gate.clear()
    await system.start()
    await system.add_events(1, at_commit=True)
    await system.crash()
    await system.start()

    assert [each.unfinished_claims for each in await stored(system)] == [1]
    there.gate.set()
    await system.settle()
    assert await system.statuses() == ["delivered"]


async def test_no_delivery_is_claimed_at_the_commit_while_a_suspect_waits(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=4)
    there.gate.clear()
    await system.start()
    await system.add_events(1, at_commit=True)
    for _ in range(3):
        await system.crash()
        await system.start()
    assert there.blocked == 1

    await system.add_events(2, at_commit=True)
    assert there.blocked == 1
    there.gate.set()
    await system.settle()

    assert await system.statuses() == ["delivered"] * 3


async def test_no_delivery_is_claimed_at_the_commit_without_the_duty(system: DeliverySystem) -> None:
    there = system.add_route()
    system.tenure = Tenure(lambda: 0.0)
    await system.start()

    await system.add_events(1, at_commit=True, settle=False)
    await asyncio.sleep(0.02)

    assert there.attempts == []


async def test_a_claim_at_the_commit_keeps_the_fence_of_the_change(system: DeliverySystem) -> None:
    system.add_route()
    await system.start()
    await system.store.tasks.add(a_task(), b"{}")
    seen: list[ApplyCall] = []
    store = system.store.tasks

    class Tasks:
        async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
            seen.extend(calls)
            return await store.apply_all(calls)

    claiming: Any = Tasks()
    fence = Fence(duty=Duty.KLING, instance="one", epoch=1, made_at=0.0)
    call = ApplyCall(ref=ById(id="tsk_1"), decide=lambda *_: Change(), fence=fence)
    await ClaimingTaskStore(claiming, system.commit_claims, broken=system.store.broken).apply_all([call])

    assert [each.fence for each in seen] == [fence]
    assert seen != [call]


async def test_a_change_that_is_not_stored_frees_its_slot(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await system.store.tasks.add(a_task(), b"{}")
    tasks = ClaimingTaskStore(system.store.tasks, system.commit_claims, broken=system.store.broken)
    unknown = a_delivery("dlv_1", event_id="evt_unknown", route="publish", due_at=system.clock.now())

    with pytest.raises(Exception, match="FOREIGN KEY"):
        await tasks.apply(ById(id="tsk_1"), lambda *_: Change(deliveries=[unknown]))
    await system.add_events(1, at_commit=True)

    assert len(there.attempts) == 1


async def test_a_cancelled_caller_leaves_no_delivery_waiting(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    for turns in range(6):
        caller = asyncio.create_task(system.add_events(1, at_commit=True, settle=False))
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    await wait_until(lambda: not system.commit_claims._open)
    system.notifiers.deliveries.notify()  # those without a claim have no caller that notifies
    await system.settle()

    assert set(await system.statuses()) <= {"delivered"}
    assert len(there.attempts) == len(await stored(system))


async def test_damage_that_is_found_right_after_the_commit_acknowledges_nothing(system: DeliverySystem) -> None:
    await system.start()
    adding = asyncio.create_task(system.add_events(1, at_commit=True, settle=False))
    while not system.commit_claims._open:  # noqa: ASYNC110 -- a turn of the loop, because the transaction is short
        await asyncio.sleep(0)
    (transaction,) = system.commit_claims._open
    transaction.add_done_callback(lambda _: system.store.broken.set())

    with pytest.raises(StoreBroken):
        await adding


async def test_an_alert_is_not_claimed_at_the_commit(system: DeliverySystem) -> None:
    system.add_route("alerts")
    await system.start()
    await system.store.tasks.add(a_task(), b"{}")
    tasks = ClaimingTaskStore(system.store.tasks, system.commit_claims, broken=system.store.broken)
    alert = system.alert_factory.route_held(hold(RouteState(name="publish"), "a test", now=system.clock.now()))

    change = await tasks.apply(ById(id="tsk_1"), lambda *_: Change(events=[alert.event], deliveries=alert.deliveries))

    assert change is not None
    assert [each.claim for each in change.deliveries] == [None]


async def test_a_stop_finishes_deliveries_claimed_by_a_transaction_in_flight(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await system.store.tasks.add(a_task(), b"{}")

    adding = asyncio.create_task(system.add_events(1, at_commit=True, settle=False))
    while not system.commit_claims._open:  # noqa: ASYNC110 -- a turn of the loop, because the transaction is short
        await asyncio.sleep(0)
    system._stop.set()
    system.notifiers.notify_all()
    await asyncio.gather(adding, *system.running)

    assert len(there.attempts) == 1
    assert await system.statuses() == ["delivered"]
    await system.store.aclose()


async def test_an_attempt_has_no_request_id_of_the_callback_that_caused_it(system: DeliverySystem) -> None:
    there = system.add_route()
    seen: list[int] = []

    def respond(_: DeliveryRequest) -> Outcome:
        seen.append(current_request())
        return Accepted()

    there.respond = respond
    await system.start()
    begin_request()

    await system.add_events(1, at_commit=True)

    assert seen == [0]
