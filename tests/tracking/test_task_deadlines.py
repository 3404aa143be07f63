"""Tasks that take too long: alerts when they are stuck, expiry, and ends after expiry."""

from pathlib import Path

import pytest
from harness.fake_kling import KlingTask, refusal
from harness.task_system import TaskSystem, a_task_system

from receiver.domain.model import TaskState
from receiver.settings import PollSettings, RouteSettings, WebhookSettings


async def test_time_in_the_queue_does_not_count_towards_expiry(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(429, 1102)
        task = await system.submit()
        await system.advance(47 * 3600 + 1800, step=900)
        system.kling.create_fault = None
        await system.advance(3600, step=60)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED


async def test_an_unpollable_callback_url_task_expires(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, url = await system.submitter.create_callback_url(endpoint=None)
        await system.advance(24 * 3600, step=3600)
        kling_task = KlingTask(id="k9", external_task_id=None, callback_url=url, status="processing")
        await system.push(kling_task.token, kling_task.status_body())

        await system.advance(47 * 3600, step=3600)
        assert (await system.task(task.id)).state is TaskState.PROCESSING
        await system.advance(2 * 3600, step=3600)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert system.kling.queries == []


# -- tasks that do not end


async def test_a_stuck_task_raises_one_alert_through_restarts_and_expires(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        system.kling.tasks["k1"].status = "processing"
        await system.advance(3500, step=100)
        assert await system.alerts("task_stuck") == []
        await system.advance(500, step=100)
        (alert,) = await system.alerts("task_stuck")
        assert (alert["task"]["id"], alert["task"]["kling_id"], alert["state"]) == (task.id, "k1", "processing")

    for _ in range(3):
        async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
            await system.advance(3600, step=300)

    async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
        await system.advance(48 * 3600, step=1800)
        assert await system.event_types() == ["task.processing", "alert.task_stuck", "task.expired"]


async def test_a_task_whose_polls_always_fail_raises_a_stuck_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit()
        system.kling.query_fault = refusal(500, 5000)

        await system.advance(4000, step=50)

        assert len(await system.alerts("task_stuck")) == 1


async def test_a_tasks_alert_goes_to_the_routes_of_its_endpoint(tmp_path: Path) -> None:
    here, elsewhere = (
        RouteSettings(name=name, on=frozenset(["alert"]), endpoints=globs, webhook=WebhookSettings(url="http://a/"))
        for name, globs in (("here", ("images/*",)), ("elsewhere", ("videos/*",)))
    )
    async with a_task_system(tmp_path, routes=(here, elsewhere)) as system, system.running():
        await system.submit()
        await system.advance(4000, step=100)

        promised = (await system.store.catalog.deliveries()).items
        assert [(each.delivery.route, each.event_type) for each in promised] == [("here", "alert.task_stuck")]


async def test_stuck_alerts_can_be_turned_off(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=PollSettings(stuck_after=None)) as system, system.running():
        await system.submit()
        await system.advance(49 * 3600, step=1800)

        assert await system.event_types() == ["task.submitted", "task.expired"]


async def test_an_unpollable_callback_url_task_raises_a_stuck_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, url = await system.submitter.create_callback_url(endpoint=None)
        kling_task = KlingTask(id="k9", external_task_id=None, callback_url=url, status="processing")
        await system.push(kling_task.token, kling_task.status_body())

        await system.advance(3500, step=100)
        assert await system.alerts("task_stuck") == []
        await system.advance(200, step=100)

        (alert,) = await system.alerts("task_stuck")
        assert alert["task"]["kling_id"] == "k9"


async def an_expired_task(system: TaskSystem) -> KlingTask:
    await system.submit()
    kling_task: KlingTask = system.kling.tasks["k1"]
    kling_task.status = "processing"
    await system.advance(49 * 3600, step=1800)
    assert (await system.task(kling_task.id)).state is TaskState.EXPIRED
    return kling_task


async def test_a_callback_after_expiry_delivers_the_success(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        poll_count = len(system.kling.queries)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        assert (await system.event_types())[-2:] == ["task.expired", "task.succeed"]
        assert len(system.kling.queries) == poll_count + 1
        assert (await system.task(kling_task.id)).state is TaskState.SUCCEED


@pytest.mark.parametrize("how", ["succeed", "failed"])
async def test_an_end_after_expiry_is_found_by_polling(tmp_path: Path, how: str) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        poll_count = len(system.kling.queries)
        system.kling.finish_task(kling_task, how)

        await system.advance(20 * 86400, step=6 * 3600)

        assert (await system.event_types())[-2:] == ["task.expired", f"task.{how}"]
        assert len(system.kling.queries) == poll_count + 1


async def test_an_expired_task_is_polled_a_few_more_times(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        poll_count = len(system.kling.queries)

        await system.advance(60 * 86400, step=12 * 3600)

        assert 5 <= len(system.kling.queries) - poll_count <= 15
        assert (await system.task(kling_task.id)).due_at is None
        assert await system.event_types() == ["task.processing", "alert.task_stuck", "task.expired"]
