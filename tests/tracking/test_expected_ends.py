"""Polls follow how long past tasks took, if no callback reports the ends. The numbers of the aim hold."""

from datetime import timedelta
from pathlib import Path

import pytest
from harness.clock import START, FakeClock
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system

from receiver.domain.model import Origin, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.kling.durations import duration_kind
from receiver.settings import PollSettings, PublicSettings
from receiver.tasks.expected_ends import MAX_SAMPLES, ExpectedEnds
from receiver.tracking.callback_health import CallbackHealth
from receiver.tracking.duration_keeper import DurationKeeper

NO_URL = PublicSettings(url="")
VIDEO = "videos/text2video"


async def run_task(system: TaskSystem, duration: float, *, model: str = "kling-v2") -> tuple[float, int]:
    """Run a task that takes this long. Return how late its end was seen, and after how many polls."""
    kling = system.kling
    task = await system.submit(endpoint=VIDEO, body=JOB | {"model_name": model})
    await system.advance(duration, step=0.5)
    made = kling.tasks[(await system.task(task.id)).kling_id or ""]
    kling.finish_task(made)
    ended_at = system.clock.now()
    while (await system.task(task.id)).state is not TaskState.SUCCEED:
        await system.advance(0.5, step=0.5)
    moments = [moment for name, moment in kling.queries if name == made.id]
    return (moments[-1] - ended_at).total_seconds(), len(moments)


async def test_an_end_is_detected_within_a_tenth_of_the_duration_with_at_most_12_polls(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, public=NO_URL) as system, system.running():
        for duration in (60, 52, 66):
            await run_task(system, duration)

        for duration in (50, 57, 63, 70):
            late, polls = await run_task(system, duration)
            assert late <= duration / 10
            assert polls <= 12


async def test_each_model_has_its_own_durations(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, public=NO_URL) as system, system.running():
        for _ in range(3):
            await run_task(system, 20, model="fast")
            await run_task(system, 100, model="slow")

        fast, slow = await run_task(system, 21, model="fast"), await run_task(system, 103, model="slow")

        assert fast[0] <= 2.5
        assert slow[0] <= 10.3
        assert max(fast[1], slow[1]) <= 12


async def test_running_tasks_are_replanned_when_the_first_of_their_kind_ends(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, public=NO_URL) as system, system.running():
        first = await system.submit(endpoint=VIDEO)
        await system.advance(20, step=1)
        second = await system.submit(endpoint=VIDEO)
        await system.advance(20, step=1)
        system.kling.finish_task(system.kling.tasks["k1"])
        while (await system.task(first.id)).state is not TaskState.SUCCEED:
            await system.advance(1)

        planned = await system.task(second.id)

        assert planned.due_at is not None
        assert planned.due_at - system.clock.now() <= timedelta(seconds=10)


async def test_a_task_of_an_unknown_kind_waits_while_an_older_one_still_runs(tmp_path: Path) -> None:
    def polls(name: str) -> int:
        return sum(polled == name for polled, _ in system.kling.queries)

    async with a_task_system(tmp_path, public=NO_URL) as system, system.running():
        await system.submit(endpoint=VIDEO)
        await system.advance(140, step=2)
        alone = polls("k1")
        await system.advance(160, step=2)
        await system.submit(endpoint=VIDEO)

        await system.advance(140, step=2)

        assert alone >= 5
        assert polls("k2") <= 2


async def test_running_tasks_still_replan_each_other_after_a_restart(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, public=NO_URL, clock=clock) as system, system.running():
        first, second = await system.submit(endpoint=VIDEO), await system.submit(endpoint=VIDEO)
        kling = system.kling
    async with a_task_system(tmp_path, public=NO_URL, clock=clock, kling=kling) as system, system.running():
        await system.advance(40, step=1)
        kling.finish_task(kling.tasks["k1"])
        while (await system.task(first.id)).state is not TaskState.SUCCEED:
            await system.advance(1)

        planned = await system.task(second.id)

        assert planned.due_at is not None
        assert planned.due_at - system.clock.now() <= timedelta(seconds=10)


async def test_a_task_with_a_callback_url_is_polled_rarely(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit(endpoint=VIDEO)

        await system.advance(300, step=5)

        assert len(system.kling.queries) == 3


def ends_without_callbacks() -> ExpectedEnds:
    return ExpectedEnds(PollSettings(), has_callbacks=False)


async def test_durations_survive_a_restart_and_are_bounded(tmp_path: Path) -> None:
    clock = FakeClock()
    async with a_task_system(tmp_path, public=NO_URL, clock=IdleClock()) as system:
        store, task = system.store, a_finished_task()
        first = ends_without_callbacks()
        for number in range(MAX_SAMPLES + 10):
            seen_at = START + timedelta(seconds=100 + number)
            first.record_end(task, ended_at=None, seen_at=seen_at)
        health = CallbackHealth(store.tasks, first, None, notifiers=Notifiers(), clock=clock)
        await DurationKeeper(store.durations, first, health, clock=clock).save()

        stored = await store.durations.load()
        second = ends_without_callbacks()
        second.restore(stored)

        assert set(stored) == {VIDEO}
        assert list(stored[VIDEO]) == [float(100 + number) for number in range(10, MAX_SAMPLES + 10)]
        assert second.policy(task) == first.policy(task)
        assert second.policy(task).first_within is None


async def test_only_the_kinds_that_changed_last_are_kept(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        durations = system.store.durations
        for number in range(4):
            at = START + timedelta(seconds=number)
            await durations.save({f"kind {number}": [1.5, 2.0]}, now=at, keep=3)

        assert await durations.load() == {f"kind {number}": [1.5, 2.0] for number in (1, 2, 3)}


def a_finished_task() -> Task:
    return Task(
        id="tsk_1",
        origin=Origin.API,
        state=TaskState.SUCCEED,
        endpoint=VIDEO,
        created_at=START,
        started_at=START,
        updated_at=START,
    )


@pytest.mark.parametrize(
    ("ended", "known"),
    [(60.0, 60.0), (-5.0, 90.0), (500.0, 90.0), (None, 90.0)],
    ids=["kling's time", "before the start", "in the future", "unknown"],
)
def test_klings_end_time_counts_if_it_is_plausible(ended: float | None, known: float) -> None:
    ends = ends_without_callbacks()
    ended_at = None if ended is None else START.timestamp() + ended

    ends.record_end(a_finished_task(), ended_at=ended_at, seen_at=START + timedelta(seconds=90))

    assert ends.take_changed() == {VIDEO: [known]}


def test_the_duration_kind_has_only_members_that_affect_the_duration() -> None:
    assert (
        duration_kind({"model_name": "kling-v2", "mode": "pro", "duration": "10", "prompt": "x"}) == "kling-v2 pro 10"
    )
    assert duration_kind({"prompt": "x", "settings": {"duration": 5, "resolution": "720p"}}) == "5 720p"
    assert duration_kind({"model_name": {"odd": 1}}) == ""
