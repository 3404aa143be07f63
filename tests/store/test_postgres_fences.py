"""Writes with the fence of a lease: they happen only while the lease is still that one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import asyncpg
import pytest
from harness.factories import a_task, at
from harness.waiting import wait_until
from msgspec.structs import replace
from store.conftest import a_postgres_store

from receiver.domain.duties import Duty, Fence
from receiver.domain.errors import DutyLost
from receiver.domain.model import Push, Task, TaskState
from receiver.store.interfaces import ApplyCall, ById, Change
from receiver.store.interfaces.nodes import NodeIdentity
from receiver.store.postgres.store import PostgresStore

LIFETIME = timedelta(minutes=1)
A, B = (NodeIdentity(name=name, instance=f"{name}-1", version="1") for name in "ab")


@pytest.fixture
async def fenced(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store with a queued task, whose sender is node A."""
    async with a_postgres_store(postgres_url) as opened:
        links = opened.between_nodes.nodes
        for node in (A, B):
            assert await links.register(node) is None
        assert await links.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME)
        await opened.tasks.add(a_queued_task("tsk_1"), b"{}")
        yield opened


def a_queued_task(task_id: str) -> Task:
    return a_task(id=task_id, kling_id=None, external_task_id=task_id, state=TaskState.QUEUED)


def a_fence(*, instance: str = "a-1", epoch: int = 1) -> Fence:
    return Fence(duty=Duty.KLING, instance=instance, epoch=epoch, made_at=0.0)


def a_start(fence: Fence | None, task_id: str = "tsk_1") -> ApplyCall:
    def start(held: Task, _: Sequence[Push]) -> Change:
        return Change(task=replace(held, state=TaskState.SUBMITTING, updated_at=at(9)))

    return ApplyCall(ref=ById(id=task_id), decide=start, fence=fence)


async def state_of(fenced: PostgresStore, task_id: str = "tsk_1") -> TaskState | None:
    task = await fenced.catalog.task(task_id)
    return None if task is None else task.state


async def hand_over(fenced: PostgresStore) -> None:
    """Let node B take the duty that node A gives back."""
    await fenced.between_nodes.nodes.give_back(A, [Duty.KLING])
    assert await fenced.between_nodes.nodes.take(B, Duty.KLING, epoch=1, lifetime=LIFETIME)


async def test_the_holder_of_a_lease_starts_tasks(fenced: PostgresStore) -> None:
    await fenced.tasks.apply_all([a_start(a_fence())])

    assert await state_of(fenced) is TaskState.SUBMITTING


async def test_a_node_that_gave_its_lease_back_starts_nothing(fenced: PostgresStore) -> None:
    await fenced.between_nodes.nodes.give_back(A, [Duty.KLING])

    [refused] = await fenced.tasks.apply_all([a_start(a_fence())])

    assert isinstance(refused, DutyLost)
    assert await state_of(fenced) is TaskState.QUEUED


async def test_a_start_with_an_earlier_lease_concerns_no_other_write_of_the_group(fenced: PostgresStore) -> None:
    await fenced.tasks.add(a_queued_task("tsk_2"), b"{}")
    await hand_over(fenced)

    refused, written = await fenced.tasks.apply_all([a_start(a_fence()), a_start(None, "tsk_2")])

    assert isinstance(refused, DutyLost)
    assert isinstance(written, Change)
    assert [await state_of(fenced, name) for name in ("tsk_1", "tsk_2")] == [TaskState.QUEUED, TaskState.SUBMITTING]


async def test_a_node_that_had_the_duty_in_between_starts_nothing_with_its_earlier_lease(fenced: PostgresStore) -> None:
    await hand_over(fenced)
    await fenced.between_nodes.nodes.give_back(B, [Duty.KLING])
    assert await fenced.between_nodes.nodes.take(A, Duty.KLING, epoch=2, lifetime=LIFETIME)

    [earlier] = await fenced.tasks.apply_all([a_start(a_fence())])
    [present] = await fenced.tasks.apply_all([a_start(a_fence(epoch=3))])

    assert isinstance(earlier, DutyLost)
    assert isinstance(present, Change)


async def test_a_create_without_the_lease_is_not_stored_and_keeps_no_key(fenced: PostgresStore) -> None:
    await hand_over(fenced)
    create = replace(a_queued_task("tsk_2"), idempotency_key="k", state=TaskState.SUBMITTING)

    with pytest.raises(DutyLost, match="Another node does the duty 'kling' now"):
        await fenced.tasks.add(create, b"{}", fence=a_fence())
    again = await fenced.tasks.add(
        replace(create, id="tsk_3", external_task_id="tsk_3"), b"{}", fence=a_fence(instance="b-1", epoch=2)
    )

    assert again.id == "tsk_3"
    assert await state_of(fenced, "tsk_2") is None


async def test_a_takeover_waits_for_a_start_in_progress_and_a_renewal_does_not(
    fenced: PostgresStore, postgres_url: str
) -> None:
    # without prepared statements, which a pooler does not keep
    starting, watcher = [await asyncpg.connect(postgres_url, statement_cache_size=0) for _ in range(2)]
    nodes = fenced.between_nodes.nodes
    async with starting.transaction():
        await starting.fetch("SELECT epoch FROM leases WHERE duty = 'kling' AND epoch = 1 FOR KEY SHARE")
        assert await nodes.renew(A, [Duty.KLING], lifetime=-LIFETIME) is not None
        taking = asyncio.create_task(nodes.take(B, Duty.KLING, epoch=1, lifetime=LIFETIME))

        async def is_blocked() -> bool:
            waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            return bool(await watcher.fetchval(f"SELECT COUNT(*) {waiting}"))

        await wait_until(is_blocked)
        await starting.execute("UPDATE tasks SET state = 'submitting' WHERE id = 'tsk_1'")

    assert await taking
    assert await state_of(fenced) is TaskState.SUBMITTING
    for each in (starting, watcher):
        await each.close()


async def test_a_start_that_waits_for_a_takeover_is_refused(fenced: PostgresStore, postgres_url: str) -> None:
    other = await asyncpg.connect(postgres_url, statement_cache_size=0)
    async with other.transaction():
        await other.execute("UPDATE leases SET epoch = 2, node = 'b', instance = 'b-1' WHERE duty = 'kling'")
        starting = asyncio.create_task(fenced.tasks.apply_all([a_start(a_fence())]))
        await asyncio.sleep(0.05)
        assert not starting.done()
    await other.close()

    [refused] = await starting

    assert isinstance(refused, DutyLost)
    assert await state_of(fenced) is TaskState.QUEUED
