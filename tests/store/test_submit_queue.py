"""The order of the submit queue of each slot key: priority, then fair shares, then age."""

from typing import Any

from harness.factories import a_task, at
from msgspec.structs import replace
from store.conftest import Store, decide_always

from receiver.domain.model import Origin, Task, TaskState
from receiver.store.interfaces import ById, Change


async def add_queued_task(store: Store, name: str, **changes: Any) -> Task:
    """Store a queued task that is due."""
    given: dict[str, Any] = {"state": TaskState.QUEUED, "due_at": at(0), "started_at": None, "slot_key": "image"}
    return await store.tasks.add(a_task(id=name, **given | changes), b"{}")


async def add_running_task(store: Store, name: str, *, started: float, **changes: Any) -> Task:
    """Store a running task that uses slots."""
    return await add_queued_task(store, name, state=TaskState.PROCESSING, started_at=at(started), **changes)


async def next_queued(store: Store, *head_ids: str, now: float = 10) -> list[str]:
    return await next_queued_of(store, 1, *head_ids, now=now)


async def next_queued_of(store: Store, limit: int, *head_ids: str, now: float = 10) -> list[str]:
    """Return the ids of the next tasks, at most *limit* of each slot key."""
    front = await store.tasks.queue_front(now=at(now), limit=limit, head_ids=head_ids)
    return [queued.task.id for queued in front.tasks]


async def update(store: Store, task: Task) -> None:
    await store.tasks.apply(ById(id=task.id), decide_always(Change(task=task)))


async def test_an_empty_queue_has_no_head(store: Store) -> None:
    assert await next_queued(store) == []

    await add_running_task(store, "tsk_1", started=0)

    assert await next_queued(store) == []


async def test_each_pack_has_its_own_queue(store: Store) -> None:
    await add_queued_task(store, "tsk_3", slot_key="video")
    await add_queued_task(store, "tsk_4", slot_key="video")
    await add_queued_task(store, "tsk_1", slot_key="image")
    await add_queued_task(store, "tsk_2", slot_key="")

    front = await store.tasks.queue_front(now=at(10), limit=1)

    assert [(each.task.id, each.task.queueing.slot_key) for each in front.tasks] == [
        ("tsk_1", "image"),
        ("tsk_2", ""),
        ("tsk_3", "video"),
    ]


async def test_each_model_of_a_pack_has_its_own_queue_and_shares(store: Store) -> None:
    await add_queued_task(store, "tsk_1", slot_key="video/kling-v1", share="a")
    await add_queued_task(store, "tsk_2", slot_key="video/kling-v1", share="b")
    await add_queued_task(store, "tsk_3", slot_key="video/kling-v2-6", share="a")
    await add_running_task(store, "tsk_9", slot_key="video/kling-v1", share="a", started=1)

    assert await next_queued(store) == ["tsk_2", "tsk_3"]
    assert await next_queued(store, "tsk_1") == ["tsk_1", "tsk_3"]


async def test_the_longest_due_task_is_next(store: Store) -> None:
    await add_queued_task(store, "tsk_1", due_at=at(20))
    await add_queued_task(store, "tsk_3", due_at=at(5))
    await add_queued_task(store, "tsk_2", due_at=at(5))

    assert await next_queued(store, now=4) == []
    assert await next_queued(store, now=10) == ["tsk_2"]
    await update(store, a_task(id="tsk_2", state=TaskState.SUBMITTED))
    assert await next_queued(store, now=30) == ["tsk_3"]
    await update(store, a_task(id="tsk_3", state=TaskState.SUBMITTED))
    assert await next_queued(store, now=30) == ["tsk_1"]


async def test_a_higher_priority_is_before_an_older_task(store: Store) -> None:
    await add_queued_task(store, "tsk_1", priority=-1)
    await add_queued_task(store, "tsk_2", slot_key="video")
    await add_queued_task(store, "tsk_3", priority=5)
    await add_queued_task(store, "tsk_4", priority=9, due_at=at(60))

    assert await next_queued(store) == ["tsk_3", "tsk_2"]
    assert await next_queued(store, now=60) == ["tsk_4", "tsk_2"]


async def test_the_share_with_the_fewest_slots_is_next(store: Store) -> None:
    for number in range(5):
        await add_queued_task(store, f"tsk_{number}", share="many")
    await add_queued_task(store, "tsk_8", share="few")
    await add_queued_task(store, "tsk_9", share="fewest")
    await add_running_task(store, "tsk_a", started=1, share="many", weight=3)
    await add_running_task(store, "tsk_b", started=2, share="few", weight=1)
    await add_running_task(store, "tsk_c", started=2, share="few", weight=1)
    await add_running_task(store, "tsk_d", started=3, share="fewest", weight=1)
    await add_running_task(store, "tsk_e", started=0, share="fewest", weight=9, slot_key="video")

    assert await next_queued(store) == ["tsk_9"]


async def test_equal_shares_alternate_by_last_service(store: Store) -> None:
    await add_queued_task(store, "tsk_1", share="a")
    await add_queued_task(store, "tsk_2", share="b")
    await add_queued_task(store, "tsk_3", share="c")
    for share, started in (("a", 3), ("b", 1), ("c", 2)):
        ended = await add_running_task(store, f"tsk_{share}", started=started, share=share)
        await update(store, a_task(id=ended.id, state=TaskState.SUCCEED, started_at=at(started), due_at=None))

    assert await next_queued(store) == ["tsk_2"]

    await add_queued_task(store, "tsk_4", share="never served")

    assert await next_queued(store) == ["tsk_4"]


async def test_a_head_id_stays_at_the_head_of_its_priority(store: Store) -> None:
    await add_queued_task(store, "tsk_1", share="a")
    await add_queued_task(store, "tsk_2", share="b")
    large = await add_queued_task(store, "tsk_3", share="a", weight=9)

    assert await next_queued(store, "tsk_3") == ["tsk_3"]

    await add_queued_task(store, "tsk_4", priority=1)
    assert await next_queued(store, "tsk_3") == ["tsk_4"]

    await update(store, a_task(id=large.id, state=TaskState.REJECTED, due_at=None))
    await update(store, a_task(id="tsk_4", state=TaskState.REJECTED, due_at=None))
    assert await next_queued(store, "tsk_3") == ["tsk_1"]


async def test_reading_many_next_tasks_equals_reading_them_one_by_one(store: Store) -> None:
    """As if each task ran when the next one is read: the shares take turns, and a large task counts with its weight."""
    for number, (share, weight) in enumerate([("a", 1), ("a", 1), ("a", 1), ("b", 3), ("b", 1), ("c", 1), ("c", 1)]):
        await add_queued_task(store, f"tsk_{number}", share=share, weight=weight, due_at=at(number))
    await add_queued_task(store, "tsk_8", share="d", due_at=at(60))
    await add_queued_task(store, "tsk_9", slot_key="video")
    await add_running_task(store, "tsk_r", started=1, share="c")
    at_once = [name for name in await next_queued_of(store, 9) if name != "tsk_9"]

    one_by_one: list[str] = []
    while found := [name for name in await next_queued(store) if name != "tsk_9"]:
        one_by_one += found
        queued = await store.catalog.task(found[0])
        assert queued is not None
        await update(store, replace(queued, state=TaskState.SUBMITTING, started_at=at(100 + len(one_by_one))))

    assert at_once == one_by_one
    assert sorted(at_once) == [f"tsk_{number}" for number in range(7)]


async def test_the_first_of_each_key_is_before_the_second_of_any(store: Store) -> None:
    for number in range(3):
        await add_queued_task(store, f"tsk_{number}", slot_key="image")
    await add_queued_task(store, "tsk_3", slot_key="video")
    await add_queued_task(store, "tsk_4", slot_key="video", priority=-1)

    assert await next_queued_of(store, 2) == ["tsk_0", "tsk_3", "tsk_1"]
    assert await next_queued_of(store, 2, "tsk_2") == ["tsk_2", "tsk_3", "tsk_0"]


async def test_the_front_has_the_sizes_of_the_bodies_and_the_next_due_time(store: Store) -> None:
    body = bytes(100_000)
    task = await store.tasks.add(a_task(id="tsk_1", state=TaskState.QUEUED, due_at=at(0), slot_key="image"), body)
    await add_queued_task(store, "tsk_2", due_at=at(60))
    await add_running_task(store, "tsk_3", started=1, weight=4)

    front = await store.tasks.queue_front(now=at(10), limit=9)

    assert [(each.task.id, each.size) for each in front.tasks] == [(task.id, len(body))]
    assert front.next_due_at == at(60)
    assert front.slots.all == {"image": 4}
    assert await store.tasks.intents(["tsk_1", "tsk_2", "none"]) == {"tsk_1": body, "tsk_2": b"{}"}


async def test_fair_shares_are_assigned_by_a_tag(store: Store) -> None:
    await add_queued_task(store, "tsk_1", tags={"project": "ads", 'o"dd': "x"})
    await add_running_task(store, "tsk_2", started=1, tags={"project": "books"}, share="old")
    await add_queued_task(store, "tsk_3", share="old")
    await add_queued_task(store, "tsk_4", state=TaskState.FAILED, tags={"project": "ads"}, due_at=None)

    async def shares() -> dict[str, str]:
        return {task.id: task.queueing.share for task in (await store.catalog.tasks()).items}

    await store.tasks.assign_fair_shares("project")
    assert await shares() == {"tsk_1": "ads", "tsk_2": "books", "tsk_3": "", "tsk_4": ""}

    await store.tasks.assign_fair_shares('o"dd')
    assert await shares() == {"tsk_1": "x", "tsk_2": "", "tsk_3": "", "tsk_4": ""}

    await store.tasks.assign_fair_shares("")
    assert set((await shares()).values()) == {""}


async def test_tasks_are_counted_by_state_batch_and_tags(store: Store) -> None:
    await add_queued_task(store, "tsk_1", batch="b", tags={"project": "ads"})
    await add_queued_task(store, "tsk_2", batch="b", tags={"project": "film"})
    await add_running_task(store, "tsk_3", started=1, tags={"project": "ads", "more": "x"})

    assert await store.catalog.counts() == {"queued": 2, "processing": 1}
    assert await store.catalog.counts(batch="b") == {"queued": 2}
    assert await store.catalog.counts(tags={"project": "ads"}) == {"queued": 1, "processing": 1}
    assert await store.catalog.counts(tags={"project": "ads"}, batch="b") == {"queued": 1}
    assert await store.catalog.counts(batch="none") == {}


async def test_the_queued_creates_of_the_gateway_are_found(store: Store) -> None:
    await add_queued_task(store, "tsk_2", origin=Origin.GATEWAY)
    await add_queued_task(store, "tsk_1", origin=Origin.GATEWAY)
    await add_queued_task(store, "tsk_3", origin=Origin.API)
    await add_running_task(store, "tsk_4", started=0, origin=Origin.GATEWAY)

    assert [task.id for task in await store.tasks.queued_creates()] == ["tsk_1", "tsk_2"]
