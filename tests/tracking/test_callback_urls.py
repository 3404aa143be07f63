"""How long a callback URL is accepted."""

from datetime import timedelta
from pathlib import Path

import pytest
from harness.fake_kling import KlingTask, refusal
from harness.submitted_tasks import a_running_task
from harness.task_system import TaskSystem, a_task_system

from receiver.domain.model import Task, TaskState
from receiver.settings import CallbackSettings, KlingSettings, SlotSettings
from receiver.tasks.lifecycle import CALLBACK_GRACE

# -- tokens


@pytest.mark.parametrize("status", ["succeed", "failed"])
async def test_a_callback_url_outlives_its_task_by_the_grace(tmp_path: Path, status: str) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_running_task(system)
        body = system.kling.finish_task(kling_task, status)
        await system.push(kling_task.token, body)
        await system.settle()

        system.clock.advance(CALLBACK_GRACE - timedelta(seconds=1))
        assert await system.push(kling_task.token, body)
        system.clock.advance(timedelta(seconds=1))
        assert not await system.push(kling_task.token, body)


async def a_refused_task(system: TaskSystem) -> tuple[Task, KlingTask]:
    """A task that Kling refused for good, and what would be said of it had it been made."""
    system.kling.create_faults, system.kling.create_despite_fault = [refusal(400, 1201)], True
    task = await system.submit()
    return task, system.kling.tasks.popitem()[1]


async def test_a_callback_url_outlives_a_refused_task_by_the_grace(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_refused_task(system)

        system.clock.advance(CALLBACK_GRACE - timedelta(seconds=1))
        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(seconds=1))
        assert not await system.push(kling_task.token, kling_task.status_body())


@pytest.mark.parametrize("body", [b'{"task_status":"processing"}', None], ids=["nameless", "named"])
async def test_an_unsigned_push_does_not_revive_a_refused_task(tmp_path: Path, body: bytes | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_refused_task(system)

        assert await system.push(kling_task.token, body or kling_task.status_body(task_status="processing"))
        assert await system.store.tasks.slots_in_use() == {}
        await system.advance(24 * 3600, step=900)

        refused = await system.task(task.id)
        assert (refused.state, refused.due_at) == (TaskState.REJECTED, None)
        assert await system.push_outcomes(task.id) == ["forged"]
        assert await system.event_types() == ["task.rejected"]
        assert len(system.kling.queries) <= 2


async def test_a_callback_url_expires_after_its_lifetime(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=CallbackSettings(expire_after=timedelta(hours=1))) as system:
        _, kling_task = await a_running_task(system)

        system.clock.advance(timedelta(minutes=59))
        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(minutes=1))
        assert not await system.push(kling_task.token, kling_task.status_body())


async def test_a_callback_urls_lifetime_starts_when_the_task_is_sent(tmp_path: Path) -> None:
    hour = CallbackSettings(expire_after=timedelta(hours=1))
    one_slot = KlingSettings(slots=SlotSettings(image=1))
    async with a_task_system(tmp_path, callbacks=hour, kling_settings=one_slot) as system, system.running():
        _, first = await a_running_task(system)
        waiting = await system.submit()
        await system.advance(2 * 3600, step=600)
        system.kling.finish_task(first)
        await system.advance(600, step=60)
        kling_task = system.kling.tasks[(await system.task(waiting.id)).kling_id or ""]

        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(hours=1))
        assert not await system.push(kling_task.token, kling_task.status_body())
