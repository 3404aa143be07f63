"""Each intent is created once, whichever call the process dies at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness.fake_kling import FakeKling, no_response, refusal
from harness.sqlite_template import open_store
from harness.submitted_tasks import CERTAIN_AFTER, submit_by_gateway
from harness.task_system import IdleClock, TaskSystem, a_configuration, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import KlingError
from receiver.domain.model import TaskState
from receiver.store.sqlite.tasks import SqliteTaskStore

# -- a crash at every step


class Crash(BaseException):
    """The process is gone."""


class CrashingProxy:
    """Stands before a store or a Kling; the process dies before or after a certain call, and no other is made."""

    _CALLS = frozenset(
        {"add", "apply", "apply_all", "claim_tasks", "add_events", "create", "find_by_external_id", "query"}
    )

    def __init__(self, real: Any, counter: "CrashCounter") -> None:
        self._real = real
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if isinstance(real, SqliteTaskStore):
            return CrashingProxy(real, self._counter)
        if name not in self._CALLS:
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._counter.count_down()
            result = await real(*args, **kwargs)
            self._counter.count_down()
            return result

        return call


class CrashCounter:
    """Burns down with each call's begin and end; at zero the process is gone."""

    def __init__(self, length: int) -> None:
        self.left = length

    def count_down(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


@contextlib.asynccontextmanager
async def a_crashing_system(
    folder: Path, kling: FakeKling, clock: IdleClock, counter: CrashCounter
) -> AsyncIterator[TaskSystem]:
    store = await open_store(folder / "receiver.db")
    async with contextlib.aclosing(store):
        yield TaskSystem(CrashingProxy(store, counter), CrashingProxy(kling, counter), a_configuration(), clock)  # type: ignore[arg-type] # it is one


async def run_until_crash(system: TaskSystem, counter: CrashCounter) -> None:
    """Hand jobs in on both ways while all parts work."""
    stop = asyncio.Event()
    parts = [part.run(stop) for part in (system.recovery, system.poller, system.submitter)]
    works = [asyncio.create_task(part) for part in parts]
    jobs = [asyncio.create_task(job) for job in (submit_by_gateway(system), system.submit(), system.submit())]

    def under_way() -> list[asyncio.Task[Any]]:
        return [
            *system.submitter._queue._spawned,
            *system.recovery._in_flight.values(),
            *system.poller._in_flight.values(),
        ]

    def is_over() -> bool:
        is_idle = system.clock.idle_waiters == len(works) and not under_way() and all(job.done() for job in jobs)
        return counter.left < 0 or is_idle

    await wait_until(is_over, interval=0.001)
    left = [*works, *jobs, *under_way()]
    for work in left:
        work.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.timeout(600)  # a hundred starts: on a busy machine they take minutes
@pytest.mark.parametrize("fault", [None, no_response(), refusal(500, 5000, creates=True)], ids=["well", "lost", "5000"])
async def test_each_intent_is_created_once_at_every_crash_point(tmp_path: Path, fault: KlingError | None) -> None:
    length, was_cut = 0, True
    while was_cut:
        clock = IdleClock()
        kling, counter = FakeKling(clock), CrashCounter(length)
        kling.create_faults, kling.create_despite_fault = [fault], fault is not None
        async with a_crashing_system(tmp_path / str(length), kling, clock, counter) as system:
            await run_until_crash(system, counter)
        was_cut = counter.left < 0

        async with a_task_system(tmp_path / str(length), kling=kling, clock=clock) as system, system.running():
            await system.advance(2 * CERTAIN_AFTER, step=10)
            tasks = (await system.store.catalog.tasks()).items

        sent = [task for task in tasks if task.state is not TaskState.REJECTED]
        assert {task.state for task in sent} <= {TaskState.SUBMITTED}, length
        assert {task.kling_id: task.external_task_id for task in sent} == {
            kling_task.id: kling_task.external_task_id for kling_task in kling.tasks.values()
        }, length
        assert all(task.origin == "gateway" for task in tasks if task not in sent)
        length += 1
    assert length > 12  # every call to the store and to Kling is a place to die in
