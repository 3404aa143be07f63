"""Jobs of several models: each model waits for its own slots. Lost creates and long series do not waste any."""

import json
from pathlib import Path
from typing import Any

from harness.factories import a_task, at
from harness.fake_kling import FakeKling, no_response, refusal
from harness.task_system import ENDPOINT, JOB, IdleClock, TaskSystem, a_task_system

from receiver.domain.model import TaskState
from receiver.domain.secret import Secret
from receiver.kling.client import KlingResponse
from receiver.settings import KlingSettings, SlotSettings
from receiver.tasks.account import KlingCall

ONE_SLOT = KlingSettings(api_key=Secret("key"), slots=SlotSettings(image=1))
KEY = "image/kling-v2-1"


class FullModels(FakeKling):
    """A Kling with no slots for some models."""

    def __init__(self, clock: IdleClock, *models: str) -> None:
        super().__init__(clock)
        self.full = set(models)

    async def create(self, endpoint: str, content: bytes, **more: Any) -> KlingResponse:
        is_full = json.loads(content).get("model_name") in self.full
        self.create_fault = refusal(429, 1303) if is_full else None
        return await super().create(endpoint, content, **more)


def learned_limit(system: TaskSystem, key: str = KEY) -> int | None:
    return {each.key: each.learned for each in system.executor.admission.slot_limits()}.get(key)


async def finish_task(system: TaskSystem, number: int) -> None:
    task = system.kling.tasks[f"k{number}"]
    await system.push(task.token, system.kling.finish_task(task))
    await system.settle()


async def test_a_model_without_a_free_slot_delays_no_other_model(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FullModels(clock, "kling-v1")
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        blocked = [await system.submit(body=JOB | {"model_name": "kling-v1"}) for _ in range(3)]
        free = [await system.submit(body=JOB | {"model_name": "kling-v2"}) for _ in range(3)]
        await system.advance(2)

        assert [(await system.task(task.id)).state for task in free] == ["submitted"] * 3
        assert [(await system.task(task.id)).state for task in blocked] == ["queued"] * 3

        kling.full.clear()
        await system.advance(60)

        assert [(await system.task(task.id)).state for task in blocked] == ["submitted"] * 3


async def test_a_lost_create_that_kling_does_not_know_holds_no_slot(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=ONE_SLOT) as system, system.running():
        system.kling.create_faults = [no_response()]
        lost = await system.submit()
        waiting = await system.submit()
        assert (await system.task(waiting.id)).state is TaskState.QUEUED

        await system.advance(2)

        assert (await system.task(waiting.id)).state is TaskState.SUBMITTED
        assert (await system.task(lost.id)).state is TaskState.SUBMITTING

        await finish_task(system, 1)
        await system.advance(90)

        assert (await system.task(lost.id)).state is TaskState.SUBMITTED
        assert len(system.kling.tasks) == 2


async def test_a_lost_create_that_kling_has_raises_a_learned_limit_that_is_too_low(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_despite_fault, system.kling.create_faults = True, [no_response()]
        lost, now = await system.submit(), system.clock.now()
        call = KlingCall(creates=True, pack="image")
        full = refusal(429, 1303)
        system.executor.admission.finished(lost, call, full, started_at=now, now=now, max_in_use=0)
        assert learned_limit(system) == 0

        await system.advance(2)

        assert (await system.task(lost.id)).state is TaskState.SUBMITTED
        assert learned_limit(system) == 1


async def test_a_restart_counts_creates_in_flight_for_the_learned_limit(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        for number, state in enumerate((TaskState.PROCESSING, TaskState.PROCESSING, TaskState.SUBMITTING)):
            await system.store.tasks.add(
                a_task(id=f"tsk_{number}", state=state, slot_key=KEY, endpoint=ENDPOINT, due_at=at(600)), b"{}"
            )

        await system.executor.restore()

        assert learned_limit(system) == 3


async def test_a_series_of_unknown_length_does_not_raise_the_learned_limit(tmp_path: Path) -> None:
    series = JOB | {"result_type": "series", "series_amount": "auto"}
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.slot_limit = 2
        for _ in range(3):
            await system.submit()
        assert learned_limit(system) == 2
        await system.advance(5)
        await finish_task(system, 1)
        await finish_task(system, 2)
        await finish_task(system, 3)

        task = await system.submit(body=series)
        await system.advance(90)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert learned_limit(system) == 2
