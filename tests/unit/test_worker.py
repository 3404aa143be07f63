"""The loop that every background worker runs, and the asyncio tasks that a worker owns."""

import asyncio
from datetime import datetime, timedelta

import pytest
from harness.clock import START, FakeClock
from harness.logs import capture_logs
from harness.waiting import wait_until

from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import WakeUp
from receiver.domain.worker import TaskSet, run_worker


class Steps:
    """A step with prepared results; the last one sets *stop*."""

    def __init__(self, *results: datetime | StoreUnavailable | None) -> None:
        self.stop, self.wake = asyncio.Event(), WakeUp()
        self.count = 0
        self._results = list(results)

    async def step(self) -> datetime | None:
        self.count += 1
        result = self._results.pop(0) if self._results else None
        if isinstance(result, StoreUnavailable):
            raise result
        return result

    def end(self) -> None:
        self.stop.set()
        self.wake.set()


async def test_a_step_is_repeated_at_its_time_and_after_a_notification() -> None:
    clock, steps = FakeClock(), Steps(START + timedelta(seconds=3), None)
    worker = asyncio.create_task(run_worker(steps.step, wake=steps.wake, stop=steps.stop, clock=clock, name="tests"))
    await wait_until(lambda: steps.count == 1)

    clock.advance(timedelta(seconds=3))
    await wait_until(lambda: steps.count == 2)
    steps.wake.set()
    await wait_until(lambda: steps.count == 3)

    steps.end()
    await worker
    assert steps.count == 3


async def test_an_unavailable_store_delays_a_step_by_a_second() -> None:
    clock, steps = FakeClock(), Steps(StoreUnavailable("the disk is full"))
    with capture_logs() as logs:
        worker = asyncio.create_task(
            run_worker(steps.step, wake=steps.wake, stop=steps.stop, clock=clock, name="tests")
        )
        await wait_until(lambda: len(logs) == 1)
        clock.advance(timedelta(seconds=0.9))
        assert steps.count == 1

        clock.advance(timedelta(seconds=0.1))
        await wait_until(lambda: steps.count == 2)
        steps.end()
        await worker

    assert logs == [{"event": "tests.delayed", "log_level": "warning", "reason": "the disk is full"}]


async def test_any_other_error_ends_the_worker() -> None:
    async def step() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await run_worker(step, wake=WakeUp(), stop=asyncio.Event(), clock=FakeClock(), name="tests")


async def test_draining_waits_for_tasks_spawned_during_it() -> None:
    tasks, ended = TaskSet("test.failed"), []

    async def second() -> None:
        await asyncio.sleep(0)

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.spawn(second(), on_done=lambda: ended.append("second"))

    tasks.spawn(first(), on_done=lambda: ended.append("first"))
    await tasks.drain()

    assert ended == ["first", "second"]
    assert len(tasks) == 0


async def test_draining_for_a_limited_time_leaves_the_other_tasks_running() -> None:
    tasks, ended = TaskSet("test.failed"), []
    tasks.spawn(asyncio.sleep(0), on_done=lambda: ended.append("short"))
    late = tasks.spawn(asyncio.sleep(60), on_done=lambda: ended.append("long"))

    await tasks.drain(within=timedelta(seconds=0.01))
    assert (ended, list(tasks)) == (["short"], [late])

    tasks.cancel()
    await tasks.drain()
    assert (ended, late.cancelled()) == (["short", "long"], True)


async def test_an_owned_task_that_fails_is_logged_and_a_cancelled_one_is_not() -> None:
    tasks, ended = TaskSet("test.failed"), []

    async def fail() -> None:
        raise ValueError("a defect")

    with capture_logs() as logs:
        tasks.spawn(fail(), on_done=lambda: ended.append("failed"), task="tsk_1")
        tasks.spawn(asyncio.sleep(60), on_done=lambda: ended.append("cancelled")).cancel()
        await tasks.drain()

    assert sorted(ended) == ["cancelled", "failed"]
    assert [(line["event"], line["log_level"], line["task"]) for line in logs] == [("test.failed", "error", "tsk_1")]
