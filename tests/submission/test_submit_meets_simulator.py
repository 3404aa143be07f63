"""The same promises through the real client, against a Kling that hangs up, forgets ids and has its own."""

from pathlib import Path

import pytest
from harness.stalled_tasks import a_task_system_with_simulator

from receiver.domain.model import TaskState
from receiver.kling.simulator import Simulator
from receiver.settings import Dialect

WAIT = 65.0


def created_count(simulator: Simulator) -> int:
    counts: dict[str, int] = simulator.state()["counts"]
    return counts["created"]


@pytest.mark.parametrize(
    "fault",
    [
        {"hang_up": "next:1"},
        {"refuse": [{"code": 5000, "created": True}]},
        {"refuse": [{"code": 502, "created": True}]},
    ],
    ids=["hung up", "5000", "502"],
)
@pytest.mark.parametrize("dialect", Dialect)
async def test_a_task_created_without_an_answer_is_found_by_its_external_id(
    tmp_path: Path, fault: dict[str, object], dialect: Dialect
) -> None:
    async with a_task_system_with_simulator(tmp_path, dialect=dialect, **fault) as (system, simulator):
        task = await system.submit()

        await system.advance(3)

        assert (await system.task(task.id)).kling_id == simulator.state()["tasks"][0]["id"]
        assert created_count(simulator) == 1


async def test_a_create_is_not_repeated_at_a_gateway_that_drops_ids(tmp_path: Path) -> None:
    async with a_task_system_with_simulator(
        tmp_path, dialect=Dialect.GATEWAY, drop_external="always", gateway_ids="always"
    ) as (system, simulator):
        known = await system.submit()
        simulator.configure({"hang_up": "next:1"})
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(known.id)).state is TaskState.SUBMITTED
        ended = await system.task(lost.id)
        assert (ended.state, ended.message.partition(":")[0]) == (TaskState.EXPIRED, "unknown")
        assert created_count(simulator) == 2
        assert [alert["task"]["id"] for alert in await system.alerts("submit_unknown")] == [lost.id]


async def test_a_create_is_not_repeated_at_a_gateway_without_evidence(tmp_path: Path) -> None:
    async with a_task_system_with_simulator(tmp_path, drop_external="always", hang_up="next:1") as (system, simulator):
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert created_count(simulator) == 1
        assert [alert["task"]["id"] for alert in await system.alerts("submit_unknown")] == [lost.id]


async def test_a_create_that_never_arrived_is_repeated_once(tmp_path: Path) -> None:
    async with a_task_system_with_simulator(tmp_path) as (system, simulator):
        await system.submit()
        simulator.configure({"lose": "next:1"})
        task = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert created_count(simulator) == 2


async def test_tasks_of_the_new_api_are_looked_up_and_polled(tmp_path: Path) -> None:
    new = {"endpoint": "text-to-video/kling-3.0-turbo", "body": {"prompt": "a cat"}}
    async with a_task_system_with_simulator(tmp_path, hang_up="next:1", submitted_for="0s", processing_for="0s") as (
        system,
        simulator,
    ):
        task = await system.submit(**new)
        await system.advance(3)
        for _ in range(20):
            await system.advance(30)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, simulator.state()["tasks"][0]["id"])
        assert created_count(simulator) == 1
