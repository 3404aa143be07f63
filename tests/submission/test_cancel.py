"""What waits to be sent can be taken out of the line; what Kling may have cannot, and nothing is ever both."""

import asyncio
from pathlib import Path

import pytest
from harness.factories import a_task
from harness.task_system import JOB, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import Conflict, NotFound
from receiver.domain.model import Task, TaskState
from receiver.settings import KlingSettings, SlotSettings

ONE_SLOT = KlingSettings(slots=SlotSettings(image=1))
THREE_SLOTS = KlingSettings(slots=SlotSettings(image=3))


async def cancel(system: TaskSystem, task: Task, why: str = "a typo") -> Task:
    return await system.submitter.cancel(task.id, reason=why, actor="alice")


async def test_a_cancelled_task_is_never_sent_and_routes_get_an_event(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        first, second, third = [await system.submit() for _ in range(3)]

        cancelled = await cancel(system, second)
        [kling_task] = system.kling.tasks.values()
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(5)

        assert (cancelled.state, cancelled.message) == (TaskState.REJECTED, "cancelled by alice: a typo")
        assert [kling_task.external_task_id for kling_task in system.kling.tasks.values()] == [first.id, third.id]
        assert await system.event_types(second.id) == ["task.rejected"]
        [action] = await system.store.catalog.actions(subjects=[second.id])
        assert (action.actor, action.verb, action.reason) == ("alice", "task.cancelled", "a typo")
        [delivery] = (await system.store.catalog.deliveries(task_id=second.id)).items
        assert delivery.event_type == "task.rejected"


async def test_cancelling_twice_is_idempotent(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        _, second = [await system.submit() for _ in range(2)]

        first_time = await cancel(system, second, why="")
        again = await cancel(system, second, why="to be sure")

        assert first_time == again
        assert first_time.message == "cancelled by alice."
        assert await system.event_types(second.id) == ["task.rejected"]
        assert len(await system.store.catalog.actions(subjects=[second.id])) == 1


async def test_a_task_that_kling_may_have_cannot_be_cancelled(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_gate = asyncio.Event()
        submitting = asyncio.create_task(system.submit())
        await wait_until(lambda: system.kling.create_ids != [])
        [task] = (await system.store.catalog.tasks()).items

        with pytest.raises(Conflict, match="submitting"):
            await cancel(system, task)
        system.kling.create_gate.set()
        sent = await submitting
        with pytest.raises(Conflict, match="submitted"):
            await cancel(system, task)
        [kling_task] = system.kling.tasks.values()
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(5)
        with pytest.raises(Conflict, match="succeed"):
            await cancel(system, task)

        assert sent.state is TaskState.SUBMITTED
        assert await system.store.catalog.actions() == []


async def test_a_task_that_kling_refused_cannot_be_cancelled(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        queued = a_task(state=TaskState.QUEUED, kling_id=None, due_at=None)
        rejected = await system.recorder.reject(await system.store.tasks.add(queued, b"{}"), "Kling does not like it.")

        with pytest.raises(Conflict, match="rejected"):
            await cancel(system, rejected)
        with pytest.raises(NotFound):
            await system.submitter.cancel("tsk_none", reason="", actor="alice")


async def test_a_batch_does_not_wait_for_a_cancelled_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        tasks = [await system.submit(batch="spring", batch_size=2) for _ in range(2)]

        await cancel(system, tasks[1])
        [kling_task] = system.kling.tasks.values()
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(5)

        assert "batch.finished" in await system.event_types()
        assert (await system.batch_service.find("spring")).counts == {"succeed": 1, "cancelled": 1}


async def test_cancelling_a_large_head_task_unblocks_the_queue(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=THREE_SLOTS) as system, system.running():
        for _ in range(2):
            await system.submit()
        large = await system.submit(body=JOB | {"n": 3})
        small = await system.submit()
        assert (await system.task(small.id)).state is TaskState.QUEUED, "behind the large one"

        await cancel(system, large)
        await system.settle()

        assert system.executor.admission.head_ids == []
        assert (await system.task(small.id)).state is TaskState.SUBMITTED


async def test_after_a_cancel_the_next_task_is_not_delayed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        await system.submit()
        await cancel(system, await system.submit())
        [kling_task] = system.kling.tasks.values()
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(5)

        third = await system.submit()
        assert (third.state, third.message) == (TaskState.SUBMITTED, "")


async def test_a_concurrent_send_and_cancel_have_one_winner(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        await system.submit()
        waiting = [await system.submit() for _ in range(30)]
        cancelled = 0
        for number, task in enumerate(waiting, start=1):
            kling_task = system.kling.tasks[f"k{len(system.kling.tasks)}"]
            ending = asyncio.create_task(system.push(kling_task.token, system.kling.finish_task(kling_task)))
            for _ in range(number):
                await asyncio.sleep(0)  # a little later each time
            try:
                await cancel(system, task)
            except Conflict:
                pass
            else:
                cancelled += 1
            await ending
            await system.advance(2)

        sent = {kling_task.external_task_id for kling_task in system.kling.tasks.values()}
        assert len(sent) == len(system.kling.tasks)
        for task in waiting:
            assert ((await system.task(task.id)).state is TaskState.REJECTED) == (task.id not in sent)
        assert 0 < cancelled < len(waiting), "each of the two came first at some time"
