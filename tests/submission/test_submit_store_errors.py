"""A task that is stored is submitted, whatever the store does afterwards: its client must not submit it twice."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.task_system import TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import TaskState
from receiver.store.interfaces import ApplyCall


class FailingStore:
    """A task store that cannot write changes for a while."""

    def __init__(self, system: TaskSystem) -> None:
        self._store: Any = system.store.tasks
        self.is_failing = False
        system.submitter._queue._task_store = self
        system.recorder._task_store = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, *given: Any, **more: Any) -> Any:
        self._check()
        return await self._store.apply(*given, **more)

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Any:
        self._check()
        return await self._store.apply_all(calls)

    def _check(self) -> None:
        if self.is_failing:
            raise StoreUnavailable("The disk is full.")


async def test_a_stored_task_whose_start_cannot_be_stored_is_queued_and_sent_once(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        store = FailingStore(system)
        store.is_failing = True

        tasks = await asyncio.gather(*(system.submit() for _ in range(3)))
        assert {task.state for task in tasks} == {TaskState.QUEUED}
        store.is_failing = False
        await system.advance(5)

        assert sorted(system.kling.create_ids) == sorted(task.id for task in tasks)


async def test_a_client_whose_answer_cannot_be_recorded_gets_its_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        store, system.kling.create_gate = FailingStore(system), asyncio.Event()
        submitting = asyncio.create_task(system.submit())
        await wait_until(lambda: system.kling.create_ids != [])
        store.is_failing = True
        system.kling.create_gate.set()

        task = await submitting
        store.is_failing = False
        system.kling.create_gate = None
        await system.advance(120, step=10)

        assert system.kling.create_ids == [task.id]
        assert (await system.task(task.id)).state is TaskState.SUBMITTED
