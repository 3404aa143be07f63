"""A pass over the submit queue: its tasks are started together, and as many as may be sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.fake_kling import refusal
from harness.task_system import ENDPOINT, JOB, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import TaskState
from receiver.settings import KlingSettings
from receiver.settings.slots import SlotSettings
from receiver.store.interfaces import ApplyCall
from receiver.submission import submit_queue
from receiver.submission.request import SubmitRequest


class WatchedStarts:
    """A task store that records how many tasks each start has, and may do something before it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.sizes: list[int] = []
        self.before_start: Any = None
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def queue_front(self, **given: Any) -> Any:
        self.reads += 1
        return await self._store.queue_front(**given)

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Any:
        self.sizes.append(len(calls))
        if self.before_start is not None:
            await self.before_start()
        return await self._store.apply_all(calls)


@asynccontextmanager
async def a_queue_of(count: int, path: Path, **settings: Any) -> AsyncIterator[tuple[TaskSystem, WatchedStarts]]:
    """Queue some tasks while no worker runs, and watch how they are started."""
    async with a_task_system(path, kling_settings=KlingSettings(**settings)) as system:
        watched = WatchedStarts(system.store.tasks)
        system.submitter._queue._task_store = watched
        system.kling.create_gate = asyncio.Event()
        for _ in range(count):
            await system.submitter.submit(SubmitRequest(endpoint=ENDPOINT, body=JOB), wait=False)
        yield system, watched
        if system.kling.create_gate is not None:
            system.kling.create_gate.set()


async def test_tasks_that_wait_together_are_started_together(tmp_path: Path) -> None:
    async with a_queue_of(7, tmp_path) as (system, watched), system.running():
        await wait_until(lambda: len(system.kling.create_ids) == 7)

        assert watched.sizes == [7]


async def test_no_more_tasks_are_started_together_than_there_are_slots(tmp_path: Path) -> None:
    async with a_queue_of(9, tmp_path, slots=SlotSettings(image=3)) as (system, watched), system.running():
        await wait_until(lambda: len(system.kling.create_ids) == 3)
        await system.settle()

        assert watched.sizes == [3]
        assert sum((await system.store.tasks.slots_in_use()).values()) == 3


async def test_a_task_that_is_cancelled_before_its_start_is_not_sent_and_the_others_are(tmp_path: Path) -> None:
    async with a_queue_of(3, tmp_path) as (system, watched):
        first = (await system.store.catalog.tasks()).items[-1]

        async def cancel() -> None:
            watched.before_start = None
            await system.submitter.cancel(first.id, reason="", actor="the test")

        watched.before_start = cancel
        async with system.running():
            await wait_until(lambda: len(system.kling.create_ids) == 2)
            await system.settle()

            assert first.id not in system.kling.create_ids
            assert await system.store.catalog.counts() == {"cancelled": 1, "submitting": 2}


async def test_tasks_whose_start_is_not_stored_stay_queued_and_are_sent_later(tmp_path: Path) -> None:
    async with a_queue_of(4, tmp_path) as (system, watched):

        async def fail() -> None:
            watched.before_start = None
            raise StoreUnavailable("The disk is full.")

        watched.before_start = fail
        async with system.running():
            await wait_until(lambda: len(watched.sizes) == 1)
            await system.settle()
            assert system.kling.create_ids == []
            assert await system.store.catalog.counts() == {TaskState.QUEUED: 4}

            await system.advance(2)

            await wait_until(lambda: len(system.kling.create_ids) == 4)
            assert len(set(system.kling.create_ids)) == 4


async def test_callers_that_wait_for_their_tasks_share_the_starts(tmp_path: Path) -> None:
    async with a_queue_of(0, tmp_path) as (system, watched), system.running():
        assert system.kling.create_gate is not None
        system.kling.create_gate.set()

        results = await asyncio.gather(*(system.submit() for _ in range(20)))

        assert {result.state for result in results} == {TaskState.SUBMITTED}
        assert sum(watched.sizes) == 20
        assert len(watched.sizes) < 10


async def test_a_caller_waits_a_moment_while_as_many_creates_as_possible_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_queue, "MAX_CONCURRENT", 2)
    async with a_queue_of(2, tmp_path) as (system, _), system.running():
        await wait_until(lambda: len(system.kling.create_ids) == 2)
        assert system.kling.create_gate is not None

        third = asyncio.create_task(system.submit())
        system.waiting_clients += 1
        await system.settle()
        assert not third.done()
        system.waiting_clients -= 1
        system.kling.create_gate.set()

        assert (await third).state is TaskState.SUBMITTED


async def test_a_caller_that_has_waited_gets_its_task_as_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_queue, "MAX_CONCURRENT", 2)
    async with a_queue_of(2, tmp_path) as (system, _), system.running():
        await wait_until(lambda: len(system.kling.create_ids) == 2)

        third = asyncio.create_task(system.submit())
        system.waiting_clients += 1
        await system.settle()
        system.waiting_clients -= 1
        await system.advance(3, step=3)

        assert ((await third).state, (await third).message) == (TaskState.QUEUED, "waits for a slot")


async def test_many_tasks_of_a_forbidden_model_are_postponed_together(tmp_path: Path) -> None:
    async with a_queue_of(100, tmp_path) as (system, watched):
        system.kling.create_gate, system.kling.create_fault = None, refusal(403, 1103)
        async with system.running():
            await system.advance(60, step=10)
            watched.reads, before = 0, len(system.kling.create_ids)

            await system.advance(120, step=120)

            assert len(system.kling.create_ids) == before + 1  # a probe
            assert watched.reads < 20
            assert await system.store.catalog.counts() == {TaskState.QUEUED: 100}


async def test_a_caller_is_answered_although_others_submit_without_a_pause(tmp_path: Path) -> None:
    async with a_queue_of(0, tmp_path) as (system, watched):
        assert system.kling.create_gate is not None
        system.kling.create_gate.set()

        async def submit_another() -> None:
            await system.submitter.submit(SubmitRequest(endpoint=ENDPOINT, body=JOB), wait=False)

        watched.before_start = submit_another

        task = await asyncio.wait_for(system.submit(), 60)

        assert task.state is TaskState.SUBMITTED
        watched.before_start = None
