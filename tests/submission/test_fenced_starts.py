"""Starts of creates with a fence: a process whose lease another one has taken stores and sends nothing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.submitted_tasks import only_task
from harness.task_system import ENDPOINT, JOB, TaskSystem, a_task_system
from harness.waiting import wait_until
from submission.test_lost_duty import begin

from receiver.domain.duties import MAX_FENCE_AGE, Duty, Fence, Tenure
from receiver.domain.errors import DutyLost, KlingUnreachable
from receiver.domain.model import Task, TaskState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.settings import KlingSettings
from receiver.store.interfaces import ApplyCall, Change
from receiver.submission.request import SubmitRequest

LONG = 1000.0
BODY = b'{"prompt":"a cat"}'


class LeaseStore:
    """A task store that refuses fenced writes once the lease is lost, as PostgreSQL does."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.is_lost = False
        self.fences: list[Fence] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        self.fences += [call.fence for call in calls if call.fence is not None]
        if self.is_lost and any(call.fence is not None for call in calls):
            return [DutyLost("Another node does it.") for _ in calls]
        return await self._store.apply_all(calls)  # type: ignore[no-any-return]  # the real store's

    async def add(self, task: Task, intent: bytes, *, fence: Fence | None = None, **more: Any) -> Task:
        if self.is_lost and fence is not None:
            raise DutyLost("Another node does it.")
        return await self._store.add(task, intent, **more)  # type: ignore[no-any-return]  # the real store's


@asynccontextmanager
async def a_node(folder: Path, **settings: Any) -> AsyncIterator[tuple[TaskSystem, LeaseStore, Tenure]]:
    """A task system that holds the first lease on sending."""
    async with a_task_system(folder, kling_settings=KlingSettings(**settings)) as system:
        store, tenure = LeaseStore(system.store.tasks), Tenure(system.clock.monotonic)
        tenure.begin(Duty.KLING, "a-1", 1)
        tenure.extend(LONG)
        for part in (system.submitter, system.submitter._queue, system.executor):
            part._task_store = store
        system.executor.tenure = system.recovery._tenure = tenure
        yield system, store, tenure


async def execute(system: TaskSystem, task: Task, fence: Fence | None) -> object:
    """Make the create of a task whose start was stored with a fence."""
    endpoint = endpoints.resolve(ENDPOINT)
    assert endpoint is not None
    return await system.executor.execute(task, endpoint, BODY, "token", slots_in_use={}, fence=fence)


async def a_begun_task(system: TaskSystem) -> Task:
    """Store the start of a task's create."""
    queued = await system.submitter.submit(SubmitRequest(endpoint=ENDPOINT, body=JOB), wait=False)
    return await begin(system, queued.task, "token")


async def test_starts_carry_the_fence_of_the_present_lease(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, _), system.running():
        await system.submit()

        assert [(fence.instance, fence.epoch) for fence in store.fences] == [("a-1", 1)]
        assert len(system.kling.tasks) == 1


async def test_a_process_that_has_lost_its_lease_sends_nothing_and_stops(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, tenure), system.running():
        store.is_lost = True

        await system.submitter.submit(SubmitRequest(endpoint=ENDPOINT, body=JOB), wait=False)
        await wait_until(lambda: not tenure.is_held)
        await system.advance(10)

        assert len(store.fences) == 1
        assert system.kling.tasks == {}
        assert (await only_task(system)).state is TaskState.QUEUED


async def test_a_renewed_lease_sends_the_tasks_that_were_refused(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, tenure), system.running():
        store.is_lost = True
        await system.submitter.submit(SubmitRequest(endpoint=ENDPOINT, body=JOB), wait=False)
        await wait_until(lambda: not tenure.is_held)

        store.is_lost = False
        tenure.begin(Duty.KLING, "a-1", 3)
        tenure.extend(LONG)
        await system.advance(3)

        assert store.fences[-1].epoch == 3
        assert len(system.kling.tasks) == 1


async def test_a_gateway_create_is_neither_stored_nor_sent_without_the_lease(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, tenure):
        endpoint = endpoints.resolve(ENDPOINT)
        assert endpoint is not None
        store.is_lost = True
        system.submitter._held._wait = timedelta()

        with pytest.raises(DutyLost):
            await system.gateway_creates.submit_now(endpoint, BODY)

        assert not tenure.is_held
        assert (await system.store.catalog.tasks()).items == []
        assert system.kling.tasks == {}


async def test_a_process_that_stood_still_after_a_start_shows_its_lease_again(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, tenure):
        task, fence = await a_begun_task(system), tenure.fence()
        system.clock.advance(timedelta(seconds=MAX_FENCE_AGE + 0.1))

        answer = await execute(system, task, fence)

        assert isinstance(answer, KlingResponse)
        assert [fence.epoch for fence in store.fences] == [1]


async def test_a_process_that_stood_still_while_it_lost_its_lease_creates_nothing(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, store, tenure):
        task, fence = await a_begun_task(system), tenure.fence()

        def lose() -> None:  # while the connection to Kling is opened
            store.is_lost = True
            system.clock.advance(timedelta(seconds=MAX_FENCE_AGE + 0.1))

        system.kling.on_open = lose
        answer = await execute(system, task, fence)

        assert isinstance(answer, KlingUnreachable)
        assert not tenure.is_held
        assert system.kling.tasks == {}


async def test_a_create_of_the_earlier_holder_keeps_its_slot_while_it_may_still_begin(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (system, _, tenure):
        task = await a_begun_task(system)
        system.clock.advance(timedelta(seconds=1))
        tenure.overlaps_until = system.clock.monotonic() + 2

        async with system.running():
            await system.advance(1.9, step=0.1)
            lookups, absent_before = len(system.kling.lookups), set(system.recorder.absent)
            await system.advance(0.3, step=0.1)
            absent_after = set(system.recorder.absent)
            await system.advance(59)
            states = (await system.task(task.id)).state
            await system.advance(3)

        assert lookups >= 1
        assert absent_before == set()
        assert absent_after == {task.id}
        assert states is TaskState.SUBMITTING
        assert system.kling.create_ids == [task.id]
