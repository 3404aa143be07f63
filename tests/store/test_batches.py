"""Batches in a store: which tasks they accept, what closes them, and that each is finished once."""

import asyncio
from typing import Any, cast

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Opener, Store, decide_always

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import BatchState, BatchView, FinishedBatch
from receiver.domain.errors import Conflict
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ArchiveState, Task, TaskState
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ArchiveUpdate, ById, Change, RetentionTarget
from receiver.tasks.batches import BatchStore

ALICE = AuditEntry(at=at(100), actor="alice", verb="batch.closed", subject="b1", reason="all are there")


@pytest.fixture
def batches(store: Store) -> BatchStore:
    return batch_store(store)


def batch_store(store: Store) -> BatchStore:
    """Return the batch store."""
    return cast("BatchStore", cast("Any", store).batches)


async def add_batch_task(store: Store, number: int, *, size: int | None = None, **changes: Any) -> Task:
    """Add one task to batch b1."""
    name = f"tsk_{number}"
    given = {"id": name, "kling_id": f"k{number}", "external_task_id": name, "batch": "b1"} | changes
    return await store.tasks.add(a_task(**given), b"{}", batch_size=size)


async def finish_task(store: Store, number: int, state: TaskState = TaskState.SUCCEED, **event: Any) -> None:
    """Finish a task."""
    task = await store.catalog.task(f"tsk_{number}")
    assert task is not None
    over = Change(
        task=a_task(
            **{name: getattr(task, name) for name in Task.__struct_fields__} | {"state": state, "due_at": None}
        ),
        events=[an_event(f"evt_{number}_{state}", task_id=task.id, type=f"task.{state}", **event)],
    )
    await store.tasks.apply(ById(id=task.id), decide_always(over))


async def find_batch(batches: BatchStore, name: str = "b1") -> BatchView:
    view = await batches.find(name)
    assert view is not None
    return view


class BatchEventRecorder:
    """Makes the event of a finished batch and records its argument."""

    def __init__(self) -> None:
        self.ends: list[FinishedBatch] = []

    def __call__(self, end: FinishedBatch) -> RoutedEvent:
        self.ends.append(end)
        event = an_event(f"evt_b{len(self.ends)}", type="batch.finished", task_id=None, created_at=at(200))
        return RoutedEvent(event=event, deliveries=[a_delivery(f"dlv_b{len(self.ends)}", event_id=event.id)])


async def test_the_first_task_creates_a_batch_and_all_are_counted(store: Store, batches: BatchStore) -> None:
    first = await add_batch_task(store, 1, created_at=at(1))
    await add_batch_task(store, 2, state=TaskState.QUEUED)
    await store.tasks.add(a_task(id="tsk_other", kling_id="k", external_task_id="e"), b"{}")

    view = await find_batch(batches)

    assert first.batch == "b1"
    assert (view.batch.task_count, view.batch.size, view.batch.state) == (2, None, BatchState.OPEN)
    assert (view.batch.created_at, view.batch.closed_at) == (at(1), None)
    assert view.counts == {ListedState.SUBMITTED: 1, ListedState.QUEUED: 1}
    assert [task.id for task in (await store.catalog.tasks(batch="b1")).items] == ["tsk_2", "tsk_1"]
    assert await batches.find("b2") is None


async def test_the_events_of_a_batch_are_those_of_its_tasks(store: Store) -> None:
    await add_batch_task(store, 1)
    await add_batch_task(store, 2, batch="b2")
    await finish_task(store, 1)
    await finish_task(store, 2)

    assert [event.task_id for event in (await store.catalog.events(batch="b1")).items] == ["tsk_1"]
    assert [event.task_id for event in (await store.catalog.events(batch="b2", after="evt_0")).items] == ["tsk_2"]


async def test_a_full_batch_is_closed(store: Store, batches: BatchStore) -> None:
    await add_batch_task(store, 1, size=3)
    await add_batch_task(store, 2)
    assert (await find_batch(batches)).batch.state is BatchState.OPEN
    await add_batch_task(store, 3, size=3, created_at=at(7))

    with pytest.raises(Conflict, match="b1 is closed"):
        await add_batch_task(store, 4)

    view = await find_batch(batches)
    assert (view.batch.task_count, view.batch.size, view.batch.closed_at) == (3, 3, at(7))
    assert await store.catalog.task("tsk_4") is None
    assert await store.tasks.intent("tsk_4") == b""


async def test_concurrent_tasks_are_counted_one_by_one(store: Store, batches: BatchStore) -> None:
    results = await asyncio.gather(*(add_batch_task(store, n, size=5) for n in range(8)), return_exceptions=True)

    assert [isinstance(result, Conflict) for result in results] == [False] * 5 + [True] * 3
    view = await find_batch(batches)
    assert (view.batch.task_count, sum(view.counts.values()), view.batch.state) == (5, 5, BatchState.CLOSED)


async def test_a_size_can_be_set_late_but_not_changed(store: Store, batches: BatchStore) -> None:
    await add_batch_task(store, 1)
    await add_batch_task(store, 2)
    for size in (1, 2):
        with pytest.raises(Conflict, match=f"cannot have a size of {size}: "):
            await add_batch_task(store, 3, size=size)
    await add_batch_task(store, 3, size=4)
    with pytest.raises(Conflict, match="cannot have a size of 9: "):
        await add_batch_task(store, 4, size=9)

    assert (await find_batch(batches)).batch.task_count == 3


async def test_a_repeated_task_is_not_counted_again(store: Store, batches: BatchStore) -> None:
    first = await add_batch_task(store, 1, idempotency_key="key")
    again = await asyncio.gather(*(add_batch_task(store, n, idempotency_key="key") for n in (2, 3)))
    await batches.close("b1", now=at(100), action=ALICE)
    late = await add_batch_task(store, 4, idempotency_key="key")

    assert {first.id, late.id, *(task.id for task in again)} == {"tsk_1"}
    assert (await find_batch(batches)).batch.task_count == 1


async def test_a_batch_is_closed_once_and_audited(store: Store, batches: BatchStore) -> None:
    assert not await batches.close("b1", now=at(100), action=ALICE), "there is none yet"
    await add_batch_task(store, 1)

    assert await batches.close("b1", now=at(100), action=ALICE)
    assert not await batches.close("b1", now=at(101), action=ALICE)

    assert (await find_batch(batches)).batch.closed_at == at(100)
    assert await store.catalog.actions(subjects=["b1"]) == [ALICE]


async def test_an_open_or_unfinished_batch_is_not_complete(store: Store, batches: BatchStore) -> None:
    for number, state in enumerate(TaskState):
        await store.tasks.add(
            a_task(id=f"tsk_{state}", kling_id=None, external_task_id=None, state=state, batch=f"of-{state}"), b""
        )
        if number % 2:
            await store.tasks.add(
                a_task(
                    id=f"tsk_{state}2",
                    kling_id=None,
                    external_task_id=None,
                    state=TaskState.FAILED,
                    batch=f"of-{state}",
                ),
                b"",
            )
    assert await batches.list_complete() == []

    for state in TaskState:
        await batches.close(f"of-{state}", now=at(100), action=ALICE)

    assert await batches.list_complete() == ["of-expired", "of-failed", "of-rejected", "of-succeed"]
    assert await batches.finish("of-queued", BatchEventRecorder(), limit=9) is None


async def test_a_batch_is_not_complete_before_archiving_ends(store: Store, batches: BatchStore) -> None:
    await add_batch_task(store, 1, size=1)
    await finish_task(store, 1, archiving=ArchiveState.PENDING)
    make_event = BatchEventRecorder()
    assert await batches.list_complete() == []
    assert await batches.finish("b1", make_event, limit=9) is None

    await store.archive.save(
        ArchiveUpdate(event_id="evt_1_succeed", envelope=b'{"a":1}', archiving=ArchiveState.LATE, archive_at=at(60))
    )

    assert await batches.list_complete() == ["b1"]
    assert await batches.finish("b1", make_event, limit=9) is not None
    assert [each.envelope for each in make_event.ends[0].tasks] == [b'{"a":1}']


async def test_a_batch_is_finished_once_with_all_its_tasks(store: Store, batches: BatchStore) -> None:
    for number in (1, 2, 3):
        await add_batch_task(store, number, size=3)
    await finish_task(store, 2, TaskState.FAILED, envelope=b"two")
    await finish_task(store, 1, envelope=b"one")
    await finish_task(store, 3, TaskState.EXPIRED, envelope=b"three")
    make_event = BatchEventRecorder()

    events = [
        *await asyncio.gather(*(batches.finish("b1", make_event, limit=2) for _ in range(3))),
        await batches.finish("b1", make_event, limit=2),
    ]

    assert [each is not None for each in events] == [True, False, False, False]
    [end] = make_event.ends
    assert end.counts == {ListedState.SUCCEED: 1, ListedState.FAILED: 1, ListedState.EXPIRED: 1}
    assert [(each.task.id, each.envelope) for each in end.tasks] == [("tsk_1", b"one"), ("tsk_2", b"two")]
    view = await find_batch(batches)
    assert (view.batch.state, view.batch.finished_at, view.batch.event_id) == (
        BatchState.FINISHED,
        at(200),
        "evt_b1",
    )
    assert [event.id for event in (await store.catalog.events(types=["batch.finished"])).items] == ["evt_b1"]
    [claimed] = await store.deliveries.claim("publish", now=at(200), until=at(300), limit=9, claim="c")
    assert claimed.event.id == "evt_b1"


async def test_a_late_success_does_not_change_the_batch_event(store: Store, batches: BatchStore) -> None:
    await add_batch_task(store, 1, size=1)
    await finish_task(store, 1, TaskState.EXPIRED)
    await batches.finish("b1", BatchEventRecorder(), limit=9)

    await finish_task(store, 1, TaskState.SUCCEED)

    assert await batches.list_complete() == []
    assert (await find_batch(batches)).counts == {ListedState.SUCCEED: 1}


async def test_a_failing_make_event_leaves_the_batch_unchanged(store: Store, batches: BatchStore) -> None:
    def stumble(_: FinishedBatch) -> RoutedEvent:
        raise ZeroDivisionError

    await add_batch_task(store, 1, size=1)
    await finish_task(store, 1)

    with pytest.raises(ZeroDivisionError):
        await batches.finish("b1", stumble, limit=9)

    assert await batches.list_complete() == ["b1"]


async def test_a_batch_survives_a_restart(opener: Opener) -> None:
    async with opener() as store:
        await add_batch_task(store, 1, size=2)
    async with opener() as store:
        await add_batch_task(store, 2)
        await finish_task(store, 1)
        await finish_task(store, 2)
    async with opener() as store:
        assert await batch_store(store).list_complete() == ["b1"]
        assert await batch_store(store).finish("b1", BatchEventRecorder(), limit=9) is not None
    async with opener() as store:
        assert await batch_store(store).list_complete() == []


async def test_batches_are_listed_newest_first_by_pages_and_by_state(store: Store, batches: BatchStore) -> None:
    for number in range(5):
        await add_batch_task(store, number, batch=f"b{number}", size=1 if number in (1, 3) else None)
    await finish_task(store, 3)
    await batches.finish("b3", BatchEventRecorder(), limit=9)

    first = await batches.list(limit=3)
    rest = await batches.list(limit=3, cursor=first.next)

    assert [view.batch.name for view in (*first.items, *rest.items)] == ["b4", "b3", "b2", "b1", "b0"]
    assert rest.next is None
    assert [view.batch.name for view in (await batches.list(states=[BatchState.CLOSED])).items] == ["b1"]
    assert [view.batch.name for view in (await batches.list(states=[BatchState.FINISHED])).items] == ["b3"]


async def test_retention_keeps_a_closed_batch_until_it_is_finished(store: Store, batches: BatchStore) -> None:
    await add_batch_task(store, 1, size=2)
    await add_batch_task(store, 2)
    await add_batch_task(store, 3, batch="open")
    for number in (1, 3):
        await finish_task(store, number)

    assert await sweep(store, before=at(1000)) == {"events": 1, "tasks": 1, "batches": 1}
    assert await batches.find("open") is None

    await finish_task(store, 2)
    await batches.finish("b1", BatchEventRecorder(), limit=9)
    await store.deliveries.claim("publish", now=at(200), until=at(300), limit=9, claim="c")
    assert await sweep(store, before=at(150)) == {"events": 2, "tasks": 2, "batches": 0}
    assert (await find_batch(batches)).counts == {}, "it was finished only just now"
    assert await sweep(store, before=at(1000)) == {"events": 0, "tasks": 0, "batches": 1}


async def sweep(store: Store, **when: Any) -> dict[str, int]:
    """Sweep everything old; return the number of deleted rows."""
    gone = {}
    for target in (RetentionTarget.EVENTS, RetentionTarget.TASKS, RetentionTarget.BATCHES):
        gone[target.value] = (await store.retention.sweep(target, now=at(2000), **when)).deleted[target.value]
    return gone
