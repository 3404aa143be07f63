"""Missing callbacks raise one alert, and their return ends it."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

from harness.stalled_tasks import FAST_POLLING
from harness.task_system import TaskSystem, a_task_system

from receiver.domain.model import TaskState
from receiver.settings import PublicSettings
from receiver.tasks.callback_monitor import MIN_MISSED, WINDOW

# -- callbacks that stay away


async def finish_without_callbacks(system: TaskSystem, count: int) -> None:
    for _ in range(count):
        task = await system.submit()
        kling_id = (await system.task(task.id)).kling_id
        system.kling.finish_task(system.kling.tasks[kling_id])
        await system.advance(60, step=10)


async def finish_with_callbacks(system: TaskSystem, count: int) -> None:
    for _ in range(count):
        task = await system.submit()
        kling_task = system.kling.tasks[(await system.task(task.id)).kling_id]
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(10, step=10)


async def test_missing_callbacks_and_their_return_raise_one_alert_each(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        await finish_without_callbacks(system, MIN_MISSED - 1)
        assert await system.alerts("callbacks_missed") == []

        await finish_without_callbacks(system, 10)
        (alert,) = await system.alerts("callbacks_missed")
        assert alert["missed"] == alert["of"] == MIN_MISSED
        for word in ("https://hooks.example.com", "tunnel", "proxy", "413"):
            assert word in alert["remedy"]
        assert system.inbox.missed_callbacks == MIN_MISSED + 9

        await finish_with_callbacks(system, MIN_MISSED)
        assert len(await system.alerts("callbacks_recovered")) == 1
        await finish_without_callbacks(system, MIN_MISSED)
        assert len(await system.alerts("callbacks_missed")) == 2


async def test_missing_callbacks_raise_one_alert_through_restarts(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        await finish_without_callbacks(system, MIN_MISSED)
    for _ in range(2):
        async with (
            a_task_system(tmp_path, poll=FAST_POLLING, kling=system.kling, clock=system.clock) as system,
            system.running(),
        ):
            await finish_without_callbacks(system, MIN_MISSED)
            assert len(await system.alerts("callbacks_missed")) == 1

    async with (
        a_task_system(tmp_path, poll=FAST_POLLING, kling=system.kling, clock=system.clock) as system,
        system.running(),
    ):
        await finish_with_callbacks(system, 20)  # more than without a restart: what was missed before is unknown
        assert len(await system.alerts("callbacks_recovered")) == 1
    async with (
        a_task_system(tmp_path, poll=FAST_POLLING, kling=system.kling, clock=system.clock) as system,
        system.running(),
    ):
        await finish_without_callbacks(system, MIN_MISSED)
        assert len(await system.alerts("callbacks_missed")) == 2


async def test_a_few_lost_callbacks_raise_no_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        for _ in range(WINDOW // 10):
            await finish_with_callbacks(system, 9)
            await finish_without_callbacks(system, 1)

        assert await system.alerts("callbacks_missed") == []
        assert system.inbox.missed_callbacks == WINDOW // 10


async def test_without_a_public_url_no_callback_is_missing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING, public=PublicSettings()) as system, system.running():
        await finish_without_callbacks(system, MIN_MISSED + 1)

        assert await system.alerts("callbacks_missed") == []
        assert Counter(await system.event_types())["task.succeed"] == MIN_MISSED + 1


async def test_ends_during_a_downtime_do_not_count_as_missing_callbacks(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        kling = system.kling
        tasks = [await system.submit() for _ in range(MIN_MISSED + 1)]
    for kling_task in kling.tasks.values():
        kling.finish_task(kling_task)
    system.clock.advance(timedelta(hours=1))

    async with a_task_system(tmp_path, poll=FAST_POLLING, kling=kling, clock=system.clock) as system, system.running():
        await system.advance(10)

        assert {(await system.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}
        assert await system.alerts("callbacks_missed") == []


async def test_a_callback_slower_than_a_poll_is_not_missing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        for _ in range(2 * MIN_MISSED):
            task = await system.submit()
            kling_task = system.kling.tasks[(await system.task(task.id)).kling_id]
            body = system.kling.finish_task(kling_task)
            await system.advance(60, step=10)
            await system.push(kling_task.token, body)

        assert await system.alerts("callbacks_missed") == []
        assert system.inbox.missed_callbacks == 0
