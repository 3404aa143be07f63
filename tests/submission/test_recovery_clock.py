"""A clock that is set forward makes no lost create believed or given up earlier."""

from datetime import timedelta
from pathlib import Path

import pytest
from harness.fake_kling import FakeKling, no_response, refusal
from harness.submitted_tasks import CERTAIN_AFTER, only_task, submit_by_gateway
from harness.task_system import IdleClock, TaskSystem, a_task_system

from receiver.domain.errors import KlingUnreachable
from receiver.domain.model import TaskState


async def _lose_an_answer(system: TaskSystem) -> None:
    """Submit a task whose answer is lost, and whose create Kling still works on."""
    system.kling.create_faults = [no_response()]
    await system.submit()


async def test_an_early_not_found_is_not_trusted_after_the_clock_is_set_forward(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await _lose_an_answer(system)
        system.clock.set_forward(timedelta(hours=3))
        await system.advance(40)
        assert len(system.kling.create_ids) == 1

        task = await only_task(system)
        system.kling.add_task(f'{{"external_task_id": "{task.id}"}}'.encode())  # the create comes through at last
        await system.advance(CERTAIN_AFTER)

        assert len(system.kling.create_ids) == 1
        assert (await only_task(system)).kling_id == "k1"


async def test_a_gateway_create_is_not_rejected_early_after_the_clock_is_set_forward(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        await submit_by_gateway(system)
        system.clock.set_forward(timedelta(hours=3))

        await system.advance(40)
        assert (await only_task(system)).state is TaskState.SUBMITTING
        await system.advance(CERTAIN_AFTER - 40)
        assert (await only_task(system)).state is TaskState.REJECTED


async def test_the_certain_time_starts_again_after_a_restart(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        await _lose_an_answer(system)
        await system.advance(20)
    clock.set_forward(timedelta(days=1))

    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        await system.advance(55)
        assert len(kling.create_ids) == 1
        await system.advance(10)
        assert len(kling.create_ids) == 2


async def test_lookups_at_an_unreachable_kling_continue_for_an_hour_after_the_clock_is_set_forward(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await _lose_an_answer(system)
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")
        system.clock.set_forward(timedelta(days=3))

        await system.advance(3000, step=20)
        assert (await only_task(system)).state is TaskState.SUBMITTING
        await system.advance(700, step=20)
        assert (await only_task(system)).state is TaskState.EXPIRED


@pytest.mark.parametrize(
    ("message", "ends_as"),
    [("external_task_id already exists", TaskState.EXPIRED), ("prompt is too long", TaskState.REJECTED)],
)
async def test_a_repeated_create_refused_because_its_id_is_taken_is_not_rejected(
    tmp_path: Path, message: str, ends_as: TaskState
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response(), refusal(400, 1201, message)]
        task = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert len(system.kling.create_ids) == 2
        assert (await system.task(task.id)).state is ends_as
        assert len(await system.alerts("submit_unknown")) == (ends_as is TaskState.EXPIRED)
