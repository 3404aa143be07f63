"""When "not found" is trusted, and what happens to the task if it is not."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from harness.fake_kling import KlingTask, no_response, refusal
from harness.submitted_tasks import CERTAIN_AFTER, GATEWAY, only_task, submit_by_gateway
from harness.task_system import a_task_system

from receiver.domain.model import TaskState
from receiver.settings import Dialect, KlingSettings

# -- gateways that drop the external id


async def test_a_gateway_without_lookups_leaves_the_task_unknown_with_an_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        system.kling.lookup_fault = refusal(404, None, "page not found")
        task = await system.submit(label="the cat")

        await system.advance(CERTAIN_AFTER)

        ended = await system.task(task.id)
        assert ended.state is TaskState.EXPIRED
        assert ended.message.startswith("unknown: ")
        assert len(system.kling.create_ids) == 1
        (alert,) = await system.alerts("submit_unknown")
        assert alert["task"]["id"] == task.id
        assert alert["task"]["label"] == "the cat"
        assert "console" in alert["remedy"]
        assert await system.event_types() == ["task.expired", "alert.submit_unknown"]


async def test_not_found_from_a_gateway_that_drops_ids_is_not_trusted(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids = True
        await system.submit()
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        lost = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.create_ids) == 2
        assert len(await system.alerts("submit_unknown")) == 1


async def test_not_found_from_an_official_host_that_drops_ids_is_not_trusted(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.drops_external_ids = True
        await system.submit()
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        lost = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.create_ids) == 2


async def test_not_found_from_a_gateway_that_keeps_ids_is_trusted(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        await system.submit()
        system.kling.create_faults = [no_response()]
        lost = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(lost.id)).state is TaskState.SUBMITTED
        assert await system.alerts("submit_unknown") == []


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "base_url",
    ["https://gateway.example/kling", "http://127.0.0.1:8790", "https://klingai.com.example", "https://notklingai.com"],
)
async def test_the_first_not_found_from_a_gateway_is_not_trusted(
    tmp_path: Path, base_url: str, dialect: Dialect
) -> None:
    gateway = KlingSettings(base_url=base_url, dialect=dialect)
    async with a_task_system(tmp_path, kling_settings=gateway) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            True,
            True,
        )
        task = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert len(system.kling.tasks) == 1
        assert len(await system.alerts("submit_unknown")) == 1


async def test_a_gateway_create_expires_with_an_alert_after_an_untrusted_not_found(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.create_faults = [no_response()]
        await submit_by_gateway(system)

        await system.advance(CERTAIN_AFTER)

        assert (await only_task(system)).state is TaskState.EXPIRED
        assert len(await system.alerts("submit_unknown")) == 1


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("host", ["api-singapore.klingai.com", "api-beijing.klingai.com"])
async def test_the_first_not_found_from_klings_own_host_is_trusted(tmp_path: Path, host: str, dialect: Dialect) -> None:
    kling = KlingSettings(base_url=f"https://{host}", dialect=dialect)
    async with a_task_system(tmp_path, kling_settings=kling) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert system.kling.create_ids == [task.id, task.id]
        assert (await system.task(task.id)).state is TaskState.SUBMITTED


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made without our id"])
async def test_not_found_is_trusted_if_every_listed_task_is_known(tmp_path: Path, *, is_made: bool) -> None:
    local = KlingSettings(base_url="http://127.0.0.1:8790")
    async with a_task_system(tmp_path, kling_settings=local) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            is_made,
            True,
        )
        task = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert system.kling.create_ids == [task.id] * (1 if is_made else 2)
        assert len(system.kling.tasks) == 1
        assert (await system.task(task.id)).state is (TaskState.EXPIRED if is_made else TaskState.SUBMITTED)


async def test_a_task_found_at_another_endpoint_proves_nothing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        await system.submit(endpoint="images/generations", body={"prompt": "a cat"})
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            True,
            True,
        )
        lost = await system.submit()

        await system.advance(CERTAIN_AFTER)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.tasks) == 2


# -- what Kling may have made of it


async def test_an_unknown_create_lists_the_tasks_created_at_that_time(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids = True
        await system.submit()
        before, after = (kling_id(system.clock.now() + timedelta(seconds=each)) for each in (-3600, 2))
        for name in (before, after, "task_01HF"):
            system.kling.tasks[name] = KlingTask(id=name, external_task_id=None, callback_url=None)
        system.kling.create_faults = [no_response()]
        lost = await system.submit()

        await system.advance(CERTAIN_AFTER)

        ended = await system.task(lost.id)
        assert ended.state is TaskState.EXPIRED  # a time in an id proves nothing
        assert ended.kling_id is None
        assert ended.message.endswith(f" Made since then by the time in their IDs, and not known here: {after}.")
        (alert,) = await system.alerts("submit_unknown")
        assert after in alert["message"]
        assert before not in alert["message"]


def kling_id(at: datetime) -> str:
    return str(int(at.timestamp() * 1000) - 1_568_028_518_778 << 22)
