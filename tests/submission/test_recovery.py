"""A create without a clear answer is looked up: nothing is lost, and nothing is billed twice."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.fake_kling import FakeKling, no_response, refusal
from harness.submitted_tasks import CERTAIN_AFTER, GATEWAY, only_task, submit_by_gateway
from harness.task_system import JOB, a_task_system

from receiver.domain.errors import KlingError, KlingUnreachable
from receiver.domain.model import TaskState

# -- answers that got lost


@pytest.mark.parametrize(
    "error",
    [
        refusal(500, 5000, creates=True),
        refusal(504, 5002, creates=True),
        no_response(),
        refusal(502, None, creates=True),
    ],
    ids=["5000", "5002", "no answer", "502"],
)
async def test_a_task_created_without_a_clear_answer_is_found_and_bound(tmp_path: Path, error: KlingError) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [error], True

        task = await system.submit()
        assert task.state is TaskState.SUBMITTING
        await system.advance(2)

        assert (await system.task(task.id)).kling_id == "k1"
        assert len(system.kling.create_ids) == 1


async def test_a_create_is_repeated_only_after_the_certain_time(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()

        await system.advance(59)
        assert len(system.kling.create_ids) == 1
        await system.advance(3)

        assert system.kling.create_ids == [task.id, task.id]
        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert len(system.kling.lookups) < 15


async def test_a_gateway_clients_create_is_never_repeated(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        await submit_by_gateway(system)

        await system.advance(CERTAIN_AFTER)

        task = await only_task(system)
        assert task.state is TaskState.REJECTED
        assert "Send it again" in task.message
        assert len(system.kling.create_ids) == 1
        assert await system.event_types() == ["task.rejected"]


async def test_a_duplicate_id_on_a_repeated_create_binds_the_first_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()
        await system.advance(50)
        # The first create comes through at last, between the look-up that denies it and the second create.
        system.kling.lookup_fault = None
        late = system.kling

        class Late(FakeKling):
            async def find_by_external_id(self, endpoint: str, external_task_id: str) -> Any:
                found = await FakeKling.find_by_external_id(late, endpoint, external_task_id)
                if found is None and late.clock.now() >= task.created_at.replace(minute=1):
                    late.add_task(json.dumps({"external_task_id": task.id}).encode())
                return found

        system.recovery._kling = Late(system.clock)

        await system.advance(15)

        assert system.kling.create_ids == [task.id, task.id]
        assert list(system.kling.tasks) == ["k1"]
        assert (await system.task(task.id)).kling_id == "k1"


async def test_a_duplicate_id_on_the_first_create_rejects_the_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(body=JOB | {"external_task_id": "mine"})

        second = await system.submit(body=JOB | {"external_task_id": "mine"})

        assert (first.state, second.state) == (TaskState.SUBMITTED, TaskState.REJECTED)
        assert "already exists" in second.message


async def test_an_older_task_with_the_same_external_id_is_not_bound(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(body=JOB | {"external_task_id": "mine"})
        system.kling.create_faults = [no_response()]
        second = await system.submit(body=JOB | {"external_task_id": "mine"})

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(first.id)).kling_id == "k1"
        ended = await system.task(second.id)
        assert (ended.state, ended.kling_id) == (TaskState.REJECTED, None)
        assert len(system.kling.tasks) == 1


async def test_lookups_back_off_and_nothing_is_sent_while_kling_is_down(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()] * 5, True
        tasks = [await system.submit() for _ in range(1)]
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")

        await system.advance(3600, step=10)
        assert len(system.kling.lookups) < 100
        assert len(system.kling.create_ids) == 1
        system.kling.lookup_fault = None
        await system.advance(61)

        assert (await system.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_a_task_that_can_never_be_looked_up_ends_with_an_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        task = await system.submit()
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")

        await system.advance(49 * 3600, step=300)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert len(await system.alerts("submit_unknown")) == 1


async def test_a_callback_identifies_a_task_whose_answer_was_lost(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids, system.kling.create_despite_fault = True, True
        system.kling.create_faults = [no_response()]
        system.kling.lookup_fault = refusal(404, None)
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.status = "processing"

        assert await system.push(kling_task.token, kling_task.status_body())
        await system.advance(CERTAIN_AFTER)

        bound = await system.task(task.id)
        assert (bound.kling_id, bound.state) == ("k1", TaskState.PROCESSING)
        assert await system.alerts("submit_unknown") == []
        assert len(system.kling.create_ids) == 1


async def test_a_callback_still_ends_a_task_recorded_as_unknown(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids, system.kling.create_despite_fault = True, True
        system.kling.create_faults = [no_response()]
        system.kling.lookup_fault = refusal(404, None)
        task = await system.submit()
        await system.advance(CERTAIN_AFTER)
        kling_task = system.kling.tasks["k1"]

        assert await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "k1")
        assert await system.event_types(task.id) == ["task.expired", "alert.submit_unknown", "task.succeed"]


async def test_a_callback_for_a_requeued_task_causes_a_lookup_instead_of_a_create(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        task = await system.submit()
        await system.recorder.requeue(task, "Kling never got it", until=system.clock.now())
        kling_task = system.kling.tasks["k1"]

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        async with system.running():
            await system.advance(10)

        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert len(system.kling.create_ids) == 1


async def test_lookups_continue_after_the_clock_is_set_back(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")
        task = await system.submit()
        await system.advance(600, step=10)
        system.kling.lookup_fault = None

        system.clock.advance(timedelta(days=-1))
        system.notifiers.lookups.notify()
        await system.advance(65, step=5)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert len(system.kling.tasks) == 1
