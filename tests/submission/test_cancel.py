"""What waits to be sent can be taken out of the line; what Kling may have cannot, and nothing is ever both."""

import asyncio
from pathlib import Path

import pytest
from harness.factories import a_task
from harness.support import until
from harness.task_system import JOB, Workshop, a_workshop

from receiver.domain.errors import Conflict, NotFound
from receiver.domain.model import Task, TaskState
from receiver.settings import KlingSettings, SlotSettings

ONE_SLOT = KlingSettings(slots=SlotSettings(image=1))
THREE_SLOTS = KlingSettings(slots=SlotSettings(image=3))


async def cancel(shop: Workshop, task: Task, why: str = "a typo") -> Task:
    return await shop.submitter.cancel(task.id, why=why, actor="alice")


async def test_a_task_that_waits_is_never_sent_once_it_is_cancelled_and_routes_are_told(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=ONE_SLOT) as shop, shop.working():
        first, second, third = [await shop.submit() for _ in range(3)]

        cancelled = await cancel(shop, second)
        [made] = shop.kling.made.values()
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(5)

        assert (cancelled.state, cancelled.message) == (TaskState.REJECTED, "cancelled by alice: a typo")
        assert [made.external_task_id for made in shop.kling.made.values()] == [first.id, third.id]
        assert await shop.types(second.id) == ["task.rejected"]
        [action] = await shop.store.actions(subjects=[second.id])
        assert (action.actor, action.verb, action.note) == ("alice", "task.cancelled", "a typo")
        [delivery] = (await shop.store.deliveries(task_id=second.id)).items
        assert delivery.event_type == "task.rejected"


async def test_twice_is_as_good_as_once(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=ONE_SLOT) as shop, shop.working():
        _, second = [await shop.submit() for _ in range(2)]

        first_time = await cancel(shop, second, why="")
        again = await cancel(shop, second, why="to be sure")

        assert first_time == again
        assert first_time.message == "cancelled by alice."
        assert await shop.types(second.id) == ["task.rejected"]
        assert len(await shop.store.actions(subjects=[second.id])) == 1


async def test_what_kling_may_have_is_left_as_it_is(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.holds = asyncio.Event()
        submitting = asyncio.create_task(shop.submit())
        await until(lambda: shop.kling.creates != [])
        [task] = (await shop.store.tasks()).items

        with pytest.raises(Conflict, match="submitting"):
            await cancel(shop, task)
        shop.kling.holds.set()
        sent = await submitting
        with pytest.raises(Conflict, match="submitted"):
            await cancel(shop, task)
        [made] = shop.kling.made.values()
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(5)
        with pytest.raises(Conflict, match="succeed"):
            await cancel(shop, task)

        assert sent.state is TaskState.SUBMITTED
        assert await shop.store.actions() == []


async def test_what_kling_refused_was_not_cancelled(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        queued = a_task(state=TaskState.QUEUED, kling_id=None, due_at=None)
        rejected = await shop.outcomes.rejected(await shop.store.add(queued, b"{}"), "Kling does not like it.")

        with pytest.raises(Conflict, match="rejected"):
            await cancel(shop, rejected)
        with pytest.raises(NotFound):
            await shop.submitter.cancel("tsk_none", why="", actor="alice")


async def test_a_batch_does_not_wait_for_what_was_cancelled(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=ONE_SLOT) as shop, shop.working():
        tasks = [await shop.submit(batch="spring", batch_size=2) for _ in range(2)]

        await cancel(shop, tasks[1])
        [made] = shop.kling.made.values()
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(5)

        assert "batch.finished" in await shop.types()
        assert (await shop.gatherer.find("spring")).counts == {"succeed": 1, "rejected": 1}


async def test_a_large_task_that_kept_the_head_of_the_line_lets_the_others_by(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=THREE_SLOTS) as shop, shop.working():
        for _ in range(2):
            await shop.submit()
        large = await shop.submit(body=JOB | {"n": 3})
        small = await shop.submit()
        assert (await shop.task(small.id)).state is TaskState.QUEUED, "behind the large one"

        await cancel(shop, large)
        await shop.settles()

        assert shop.creates.slots.kept == []
        assert (await shop.task(small.id)).state is TaskState.SUBMITTED


async def test_after_a_cancel_who_comes_next_waits_for_nobody(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=ONE_SLOT) as shop, shop.working():
        await shop.submit()
        await cancel(shop, await shop.submit())
        [made] = shop.kling.made.values()
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(5)

        third = await shop.submit()
        assert (third.state, third.message) == (TaskState.SUBMITTED, "")


async def test_of_two_that_come_at_once_one_sends_or_the_other_cancels(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=ONE_SLOT) as shop, shop.working():
        await shop.submit()
        waiting = [await shop.submit() for _ in range(30)]
        cancelled = 0
        for number, task in enumerate(waiting, start=1):
            made = shop.kling.made[f"k{len(shop.kling.made)}"]
            ending = asyncio.create_task(shop.push(made.token, shop.kling.end(made)))
            for _ in range(number):
                await asyncio.sleep(0)  # a little later each time
            try:
                await cancel(shop, task)
            except Conflict:
                pass
            else:
                cancelled += 1
            await ending
            await shop.passes(2)

        sent = {made.external_task_id for made in shop.kling.made.values()}
        assert len(sent) == len(shop.kling.made)
        for task in waiting:
            assert ((await shop.task(task.id)).state is TaskState.REJECTED) == (task.id not in sent)
        assert 0 < cancelled < len(waiting), "each of the two came first at some time"
