"""The slot of an accepted attempt is given to a waiting delivery while the attempt is recorded, no sooner."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from harness.delivery_system import FAILED, SECOND, DeliverySystem
from harness.waiting import wait_until

from receiver.delivery import dispatcher
from receiver.delivery.retry import SUSPECT_AFTER
from receiver.domain.model import Accepted, Attempt, Refused
from receiver.store.interfaces import ClaimedRoutes, DeliveryQueue, RouteClaim


class SlowRecords:
    """A delivery queue whose records wait for a gate once they are queued. It keeps the order of records and claims.

    Records of the outcomes in *quick* do not wait.
    """

    def __init__(self, queue: DeliveryQueue) -> None:
        self.gate = asyncio.Event()
        self.calls: list[str] = []
        self.quick: set[str] = set()
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        if name in {"claim", "claim_routes"}:
            self.calls.append("claim")
        return getattr(self._queue, name)

    async def record_attempt(self, attempt: Attempt, *args: Any, **kwargs: Any) -> bool:
        self.calls.append("record")
        if attempt.outcome not in self.quick:
            await self.gate.wait()
        return await self._queue.record_attempt(attempt, *args, **kwargs)


async def start_with_slow_records(system: DeliverySystem) -> SlowRecords:
    made: list[SlowRecords] = []

    def wrap(queue: DeliveryQueue) -> Any:
        made.append(SlowRecords(queue))
        return made[0]

    await system.start(wrap_queue=wrap)
    made[0].calls.clear()
    return made[0]


async def let_dispatcher_look_during_a_record(system: DeliverySystem, records: SlowRecords) -> None:
    await wait_until(lambda: records.calls[-1:] == ["record"])
    system.notifiers.deliveries.notify()
    await wait_until(lambda: len(system.clock.waits) == len(system.running))


async def test_a_waiting_delivery_gets_the_slot_of_an_accepted_attempt_while_that_is_recorded(
    system: DeliverySystem,
) -> None:
    there = system.add_route(concurrency=1)
    records = await start_with_slow_records(system)

    ids = await system.add_events(3, settle=False)
    await wait_until(lambda: records.calls.count("record") == 3)

    assert there.event_ids == ids
    assert there.max_concurrent == 1
    turns = [call for call, _ in groupby(records.calls)]
    assert turns[:6] == ["claim", "record", "claim", "record", "claim", "record"]
    records.gate.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 3


async def test_a_new_delivery_is_not_claimed_by_its_commit_before_the_attempt_in_its_slot_is_recorded(
    system: DeliverySystem,
) -> None:
    there = system.add_route(concurrency=1)
    records = await start_with_slow_records(system)
    ids = await system.add_events(1, at_commit=True, settle=False)
    await wait_until(lambda: records.calls == ["record"])

    ids += await system.add_events(1, at_commit=True, settle=False)
    await wait_until(lambda: len(there.attempts) == 2)

    assert records.calls[:2] == ["record", "claim"]  # from the store, behind the record
    assert there.event_ids == ids
    records.gate.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 2


async def test_a_failed_attempt_keeps_its_slot_until_it_is_recorded(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=1)
    there.respond = lambda _: FAILED
    records = await start_with_slow_records(system)

    await system.add_events(2, settle=False)
    await let_dispatcher_look_during_a_record(system, records)

    assert len(there.attempts) == 1
    records.gate.set()
    await system.settle()
    assert len(there.attempts) == 2


async def test_an_accepted_attempt_that_ends_failures_keeps_its_slot_until_it_is_recorded(
    system: DeliverySystem,
) -> None:
    there = system.add_route(concurrency=1)
    there.respond = lambda _: FAILED
    records = await start_with_slow_records(system)
    records.gate.set()
    await system.add_events(1)
    there.respond = lambda _: Accepted(code=204)
    records.gate.clear()
    records.calls.clear()

    await system.add_events(2, settle=False)
    await let_dispatcher_look_during_a_record(system, records)

    assert len(there.attempts) == 2
    records.gate.set()
    await system.advance(60 * SECOND)
    assert await system.statuses() == ["delivered"] * 3


async def test_a_suspect_that_waits_for_an_accepted_attempt_is_attempted_once_that_is_recorded(
    system: DeliverySystem,
) -> None:
    there, other = system.add_route(concurrency=2), system.add_route("other")
    there.gate.clear()
    await system.start()
    await system.add_events(2)
    for _ in range(SUSPECT_AFTER):
        await system.crash()
        await system.start()
    await system.route_states.hold("publish", why="maintenance", actor="alice")
    there.gate.set()
    await system.settle()
    other.gate.clear()
    await system.add_events(1, route="other")
    await system.route_states.release("publish", why="done", actor="alice")
    await system.settle()
    assert (await system.statuses(), other.blocked) == (["delivered", "pending"], 1)

    other.gate.set()
    await system.settle()

    assert await system.statuses() == ["delivered"] * 2


async def test_a_route_that_is_held_while_an_accepted_attempt_is_recorded_is_probed(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=2)
    records = await start_with_slow_records(system)
    records.quick = {"refused"}
    there.gate.clear()
    gone, accepted = await system.add_events(2)
    there.respond = lambda each: Refused(reason="gone", hold=True) if each.event.id == gone else Accepted(code=204)
    there.gate.set()
    await wait_until(lambda: system.route_states.get("publish").is_held)
    await system.add_events(1, settle=False)
    await wait_until(lambda: len(system.clock.waits) == len(system.running))
    assert there.event_ids == [gone, accepted]

    records.gate.set()
    await system.advance(60 * SECOND)

    assert await system.statuses() == ["dead", "delivered", "delivered"]


class SlowClaims:
    """A delivery queue that answers a claim late, and keeps how many deliveries each claimed."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.sizes: list[int] = []
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def claim_routes(self, *args: Any, **kwargs: Any) -> ClaimedRoutes:
        found = await self._queue.claim_routes(*args, **kwargs)
        self.sizes += map(len, found.claimed.values())
        await self.answers.wait()
        return found

    async def claim(self, *args: Any, **kwargs: Any) -> Any:
        claimed = await self._queue.claim(*args, **kwargs)
        self.sizes.append(len(claimed))
        return claimed


async def start_with_slow_claims(system: DeliverySystem) -> SlowClaims:
    made: list[SlowClaims] = []

    def wrap(queue: DeliveryQueue) -> Any:
        made.append(SlowClaims(queue))
        return made[0]

    await system.start(wrap_queue=wrap)
    return made[0]


async def test_slots_that_become_free_during_a_claim_are_filled_together(
    system: DeliverySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_MAX_GROUPING_SECONDS", 600)  # so that only the free slots decide
    there = system.add_route(concurrency=8)
    claims = await start_with_slow_claims(system)
    first, second, third, last = gates = [asyncio.Event() for _ in range(4)]
    for there.gate, count in zip(gates, (4, 1, 3, 8), strict=True):
        await system.add_events(count)
    claims.sizes.clear()
    claims.answers.clear()

    first.set()
    await wait_until(lambda: claims.sizes == [4])
    second.set()
    await wait_until(lambda: there.blocked == 3)
    claims.answers.set()
    await wait_until(lambda: there.blocked == 7)
    assert claims.sizes == [4]
    third.set()
    await wait_until(lambda: there.blocked == 8)

    assert claims.sizes == [4, 4]
    last.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 16


async def test_a_slot_that_became_free_during_the_claim_of_a_route_that_had_nothing_waiting_is_filled(
    system: DeliverySystem,
) -> None:
    there = system.add_route(concurrency=8)
    claims = await start_with_slow_claims(system)
    first, last = asyncio.Event(), asyncio.Event()
    there.gate = first
    await system.add_events(4)
    there.gate = last
    claims.sizes.clear()
    claims.answers.clear()

    await system.add_events(12, settle=False)
    await wait_until(lambda: claims.sizes == [4])
    first.set()
    await wait_until(lambda: there.blocked == 0)
    claims.answers.set()
    await wait_until(lambda: there.blocked == 8)

    last.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 16


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 8)])
async def test_the_slots_of_old_attempts_are_filled_after_a_reload_that_raises_the_concurrency(
    system: DeliverySystem, before: int, after: int
) -> None:
    there = system.add_route(concurrency=before)
    await system.start()
    there.gate = first = asyncio.Event()
    await system.add_events(before)
    there.gate = last = asyncio.Event()
    await system.add_events(before + after)
    system.lanes["publish"] = replace(system.lanes["publish"], concurrency=after)
    system.notifiers.notify_all()
    await wait_until(lambda: there.blocked == after)

    first.set()
    await wait_until(lambda: len(there.attempts) == before + after)

    assert there.blocked == after
    last.set()
    await system.settle()


class NothingToClaim:
    """A delivery queue with a due delivery that may not be claimed. It counts the claims."""

    def __init__(self, queue: DeliveryQueue) -> None:
        self.is_empty = False
        self.calls = 0
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def claim_routes(self, wanted: Sequence[RouteClaim], **kwargs: Any) -> ClaimedRoutes:
        self.calls += 1
        if self.is_empty:
            return ClaimedRoutes(claimed={each.route: () for each in wanted}, due_routes=await self._queue.due_routes())
        return await self._queue.claim_routes(wanted, **kwargs)

    async def claim(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return () if self.is_empty else await self._queue.claim(*args, **kwargs)


async def test_a_due_delivery_that_may_not_be_claimed_is_looked_for_once_a_second(system: DeliverySystem) -> None:
    system.add_route(concurrency=8)
    made: list[NothingToClaim] = []

    def wrap(queue: DeliveryQueue) -> Any:
        made.append(NothingToClaim(queue))
        return made[0]

    await system.start(wrap_queue=wrap)
    await system.add_events(1)
    made[0].is_empty = True

    await system.add_events(1)
    calls = made[0].calls
    await asyncio.sleep(3 * dispatcher._MAX_GROUPING_SECONDS)

    assert made[0].calls == calls
    assert system.clock.next_wakeup == system.clock.now() + SECOND


async def test_a_slot_that_is_free_alone_is_filled_after_a_short_while(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8)
    await system.start()
    first, others = asyncio.Event(), asyncio.Event()
    for there.gate, count in ((first, 1), (others, 8)):
        await system.add_events(count)
    assert len(there.attempts) == 8

    first.set()
    await wait_until(lambda: len(there.attempts) == 9)

    others.set()
    await system.settle()
    assert await system.statuses() == ["delivered"] * 9
