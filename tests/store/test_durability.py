"""Durability of a store: reopening, cancelled callers, and a kill during writes."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.soak_report import RecordCounts
from store.conftest import Opener, Store, add_route_deliveries, decide_always
from store.write_until_killed import TASKS, decision_for

from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import HeldBy, Push, RouteState, Task, TaskState
from receiver.store.interfaces import ById, Change

SYNC_CALLS = env_int("CANCELLATIONS", 200) * 2
"""Every second call is followed by a cancellation."""

TESTS = Path(__file__).parents[1]


async def test_everything_survives_a_reopening(opener: Opener) -> None:
    state = RouteState(name="publish", failures=5, held_at=at(1), held_by=HeldBy.FAILURES, held_why="why")
    async with opener() as store:
        await store.tasks.add(a_task(), b"intent", events=[an_event()])
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=a_push(), deliveries=[a_delivery()])))
        await store.deliveries.save_route(state)

    async with opener() as store:
        assert await store.catalog.task("tsk_1") == a_task()
        assert await store.tasks.intent("tsk_1") == b"intent"
        assert await store.catalog.pushes("tsk_1") == [a_push()]
        assert await store.catalog.event("evt_1") == an_event()
        assert [view.delivery for view in (await store.catalog.deliveries()).items] == [a_delivery()]
        assert await store.deliveries.route_states() == {"publish": state}


async def test_a_closed_store_refuses_calls(opener: Opener) -> None:
    async with opener() as store:
        pass

    with pytest.raises(StoreUnavailable):
        await store.tasks.add(a_task(), b"")
    with pytest.raises(StoreUnavailable):
        await store.catalog.tasks()


async def test_pending_writes_are_written_on_close(opener: Opener) -> None:
    async with opener() as store:
        adding = [asyncio.ensure_future(store.tasks.add(a_task(id=f"tsk_{n}"), b"")) for n in range(20)]
        await asyncio.sleep(0)

    assert len(await asyncio.gather(*adding)) == 20
    async with opener() as store:
        assert len((await store.catalog.tasks()).items) == 20


async def count_complete(store: Store) -> int:
    """Check that every change is stored completely or not at all; return the count."""
    total = 0
    for n in range(TASKS):
        task = await store.catalog.task(f"tsk_{n}")
        assert task is not None
        pushes = await store.catalog.pushes(task.id)
        events = (await store.catalog.events(task_id=task.id, limit=100_000)).items
        deliveries = (await store.catalog.deliveries(task_id=task.id, limit=100_000)).items
        assert {task.polling.count} == {len(pushes), len(events), len(deliveries)}
        total += task.polling.count
    return total


@pytest.mark.soak("callers that give up at any moment")
async def test_cancelled_callers_break_no_transaction(store: Store, record_counts: RecordCounts) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    for n in range(TASKS):
        await store.tasks.add(a_task(id=f"tsk_{n}"), b"")
    acknowledged: list[int] = []

    async def call(n: int) -> None:
        await store.tasks.apply(ById(id=f"tsk_{n % TASKS}"), decision_for(n))
        acknowledged.append(n)

    calls = []
    for n in range(SYNC_CALLS):
        calls.append(asyncio.ensure_future(call(n)))
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if n % 2:
            rng.choice(calls[-8:]).cancel()
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
    done = await asyncio.gather(*calls, return_exceptions=True)

    record_counts(
        seed=seed, calls=SYNC_CALLS, given_up=sum(result is not None for result in done), acknowledged=len(acknowledged)
    )
    assert {type(result) for result in done} == {type(None), asyncio.CancelledError}
    assert await count_complete(store) >= len(acknowledged)
    for n in acknowledged:
        assert await store.catalog.event(f"evt_{n}") is not None
    assert await store.tasks.apply(ById(id="tsk_0"), decision_for(SYNC_CALLS)) is not None


async def test_a_caller_cancelled_in_decide_does_not_stop_others(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    calls: list[asyncio.Future[Change | None]] = []

    def cancel_the_first(_task: Task, _pending: Sequence[Push]) -> Change:
        calls[0].cancel()
        return Change(push=a_push("psh_first"))

    calls.append(asyncio.ensure_future(store.tasks.apply(ById(id="tsk_1"), cancel_the_first)))
    calls.append(
        asyncio.ensure_future(store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=a_push("psh_second")))))
    )
    first, second = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, Change)
    assert len(await store.catalog.pushes("tsk_1")) == 2


async def test_a_kill_loses_nothing_acknowledged(opener: Opener, place: str) -> None:
    hammering = subprocess.Popen(
        [sys.executable, str(TESTS / "store" / "write_until_killed.py"), place],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    assert hammering.stdout is not None
    with hammering:
        lines = [await asyncio.to_thread(hammering.stdout.readline) for _ in range(500)]
        hammering.kill()
        lines += hammering.stdout.readlines()

    async with opener() as store:
        assert await count_complete(store) >= len(lines) >= 500
        for n in map(int, lines):
            assert await store.catalog.event(f"evt_{n}") is not None


async def test_readers_see_acknowledged_writes_during_writes(store: Store) -> None:
    await add_route_deliveries(store, 50)
    seen: list[bool] = []

    async def write(n: int) -> None:
        await store.tasks.add(a_task(id=f"tsk_w{n}", state=TaskState.QUEUED), b"")
        seen.append(await store.catalog.task(f"tsk_w{n}") is not None)

    await asyncio.gather(*(write(n) for n in range(100)), *(store.deliveries.due_routes() for _ in range(20)))

    assert seen == [True] * 100
