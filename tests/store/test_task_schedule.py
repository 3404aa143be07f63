"""Due tasks, claims of tasks and the slots in use."""

import asyncio
from datetime import timedelta

from harness.factories import a_task, at
from store.conftest import Store

from receiver.domain.model import Polling, TaskState


async def test_due_tasks_are_claimed_once_longest_due_first(store: Store) -> None:
    for n, due in enumerate([5, 3, 1, 4, 100, 2]):
        state = TaskState.SUBMITTED if n % 2 else TaskState.PROCESSING
        await store.tasks.add(a_task(id=f"tsk_{n}", state=state, due_at=at(due)), b"")
    await store.tasks.add(a_task(id="tsk_final", state=TaskState.SUCCEED, due_at=at(0)), b"")
    await store.tasks.add(a_task(id="tsk_never", due_at=None), b"")
    running = [TaskState.SUBMITTED, TaskState.PROCESSING]

    first = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3)
    second = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3)
    third = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3)

    assert [task.id for task in first] == ["tsk_2", "tsk_5", "tsk_1"]
    assert [task.id for task in second] == ["tsk_3", "tsk_0"]
    assert third == []
    assert {task.due_at for task in [*first, *second]} == {at(70)}
    assert await store.catalog.task("tsk_2") == first[0]
    assert len(await store.tasks.claim_tasks(running, now=at(70), until=at(99), limit=9)) == 5


async def test_tasks_made_due_by_a_push_can_be_first(store: Store) -> None:
    for n in range(4):
        await store.tasks.add(a_task(id=f"tsk_{n}", due_at=at(n)), b"")
    pushed = {"due_at": at(9), "polling": Polling(push_at=at(9))}
    await store.tasks.add(a_task(id="tsk_pushed", **pushed | {"polling": Polling(at=at(8), push_at=at(9))}), b"")
    await store.tasks.add(a_task(id="tsk_never_asked", **pushed), b"")
    await store.tasks.add(a_task(id="tsk_asked_since", due_at=at(8), polling=Polling(at=at(9), push_at=at(9))), b"")
    await store.tasks.add(a_task(id="tsk_over", state=TaskState.SUCCEED, **pushed), b"")
    await store.tasks.add(a_task(id="tsk_later", **pushed | {"due_at": at(11)}), b"")
    running = [TaskState.SUBMITTED, TaskState.PROCESSING]

    first = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3, pushes_first=True)
    rest = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=9, pushes_first=True)

    assert [task.id for task in first] == ["tsk_never_asked", "tsk_pushed", "tsk_0"]
    assert [task.id for task in rest] == ["tsk_1", "tsk_2", "tsk_3", "tsk_asked_since"]


async def test_concurrent_claims_share_the_tasks(store: Store) -> None:
    await asyncio.gather(*(store.tasks.add(a_task(id=f"tsk_{n:03}"), b"") for n in range(100)))

    claims = [store.tasks.claim_tasks([TaskState.SUBMITTED], now=at(60), until=at(120), limit=7) for _ in range(20)]
    claimed = [task.id for tasks in await asyncio.gather(*claims) for task in tasks]

    assert sorted(claimed) == [f"tsk_{n:03}" for n in range(100)]


async def test_a_claim_can_be_limited_to_endpoints(store: Store) -> None:
    for number, endpoint in enumerate(["a/b", "c/d", None, "a/b", "e/f"]):
        await store.tasks.add(a_task(id=f"tsk_{number}", endpoint=endpoint, due_at=at(number)), b"")
    running = [TaskState.SUBMITTED]

    some = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3, endpoints=["a/b", "e/f"])
    none = await store.tasks.claim_tasks(running, now=at(10), until=at(70), limit=3, endpoints=[])

    assert [task.id for task in some] == ["tsk_0", "tsk_3", "tsk_4"]
    assert none == []
    assert await store.tasks.next_task_due(running) == at(1)


async def test_make_due_keeps_the_gap_to_the_last_poll(store: Store) -> None:
    moments = {"over": 5, "claimed": 60, "just asked": 60, "soon": 11, "far": 400, "asked in time to come": 60}
    for name, due in moments.items():
        polled_at = {"just asked": at(9), "claimed": at(1), "soon": at(9), "asked in time to come": at(50)}.get(name)
        await store.tasks.add(a_task(id=name, due_at=at(due), polling=Polling(at=polled_at)), b"")
    await store.tasks.add(a_task(id="queued", state=TaskState.QUEUED, due_at=at(60)), b"")
    await store.tasks.add(a_task(id="never", due_at=None), b"")

    count = await store.tasks.make_due([TaskState.SUBMITTED], now=at(10), before=at(75), min_gap=timedelta(seconds=5))

    assert count == 4
    assert {task.id: task.due_at for task in (await store.catalog.tasks()).items} == {
        "over": at(5),
        "claimed": at(10),
        "just asked": at(14),
        "asked in time to come": at(10),
        "soon": at(11),
        "far": at(400),
        "queued": at(60),
        "never": None,
    }


async def test_the_next_due_time_is_found(store: Store) -> None:
    states = [TaskState.QUEUED, TaskState.SUBMITTED]
    assert await store.tasks.next_task_due(states) is None

    await store.tasks.add(a_task(id="tsk_1", state=TaskState.QUEUED, due_at=at(9)), b"")
    await store.tasks.add(a_task(id="tsk_2", state=TaskState.SUBMITTED, due_at=at(5)), b"")
    await store.tasks.add(a_task(id="tsk_3", state=TaskState.PROCESSING, due_at=at(1)), b"")

    assert await store.tasks.next_task_due(states) == at(5)
    assert await store.tasks.next_task_due([TaskState.QUEUED]) == at(9)
    assert await store.tasks.next_task_due(states, after=at(5)) == at(9)
    assert await store.tasks.next_task_due(states, after=at(9)) is None
    assert await store.tasks.next_task_due([]) is None


async def test_slots_are_counted_by_pack_over_running_tasks(store: Store) -> None:
    kinds = [
        ("image", 4, TaskState.SUBMITTED),
        ("image", 1, TaskState.SUBMITTING),
        ("video", 1, TaskState.PROCESSING),
        ("video", 1, TaskState.SUCCEED),
        ("image", 1, TaskState.QUEUED),
        (None, 1, TaskState.SUBMITTED),
    ]
    for n, (pack, weight, state) in enumerate(kinds):
        await store.tasks.add(a_task(id=f"tsk_{n}", slot_key=pack or "", weight=weight, state=state), b"")

    assert await store.tasks.slots_in_use() == {"image": 5, "video": 1}
    assert await store.tasks.slots_in_use(confirmed_only=True) == {"image": 4, "video": 1}
    assert await store.tasks.slots_in_use(absent=[f"tsk_{n}" for n in range(len(kinds))]) == {"image": 4, "video": 1}
    front = await store.tasks.queue_front(now=at(100), limit=1)
    assert front.slots.all == {"image": 5, "video": 1}
    assert front.slots.confirmed == {"image": 4, "video": 1}
    front = await store.tasks.queue_front(now=at(100), limit=1, absent=["tsk_0", "tsk_1"])
    assert front.slots.all == {"image": 4, "video": 1}
