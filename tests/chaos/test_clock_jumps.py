"""The clock is set a day forward or back at the worst moment: while a request is in flight.

The long runs with clock jumps are in test_simulation.
"""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import archive_system
from harness.archive_system import A_PNG, PNG, a_cdn
from harness.delivery_system import FAILED, a_delivery_system
from harness.fake_kling import FakeKling, KlingTask, no_response, refusal
from harness.http_peers import response
from harness.task_system import ENDPOINT, IdleClock, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.delivery.route_hold import HOLD_AFTER
from receiver.domain.model import Accepted, ArchiveState, Task, TaskState
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough

DAY = timedelta(days=1)


JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])


class SlowKling(FakeKling):
    """Answers each kind of call only when its gate opens. Until then it does not know a task being created."""

    def __init__(self, clock: IdleClock) -> None:
        super().__init__(clock)
        self.calls = 0
        self.create_gate = self.create_opened = asyncio.Event()
        self.query_opened, self.lookup_opened = asyncio.Event(), asyncio.Event()
        self.query_opened.set()
        self.lookup_opened.set()
        self.max_blocked = 0

    async def create(
        self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH, **more: Any
    ) -> KlingResponse:
        self.calls += 1
        await self.create_opened.wait()
        return await super().create(endpoint, content, pass_through=pass_through, **more)

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        await self._wait_for(self.query_opened)
        return await super().query(endpoint, task_id)

    async def find_by_external_id(self, endpoint: str, external_task_id: str) -> KlingResponse | None:
        await self._wait_for(self.lookup_opened)
        return await super().find_by_external_id(endpoint, external_task_id)

    async def _wait_for(self, gate: asyncio.Event) -> None:
        self.blocked += 1
        self.max_blocked = max(self.max_blocked, self.blocked)
        await gate.wait()
        self.blocked -= 1


@JUMPS
async def test_a_create_in_flight_is_not_sent_again(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        submitting = asyncio.ensure_future(system.submit())
        await wait_until(lambda: kling.calls == 1)

        clock.advance(jump)
        system.notifiers.notify_all()  # as another task's work would do
        await system.settle()
        await system.advance(120, step=10)
        kling.create_opened.set()
        task = await submitting
        await system.advance(120, step=10)

        assert kling.calls == len(kling.tasks) == 1
        assert (await system.task(task.id)).kling_id in kling.tasks


@JUMPS
async def test_a_poll_in_flight_is_not_repeated(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    kling.create_opened.set()
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        task = await system.submit()
        [kling_task] = kling.tasks.values()
        kling.query_opened.clear()
        await system.advance(60, step=5)
        assert kling.blocked == 1

        clock.advance(jump)
        system.notifiers.notify_all()
        await system.advance(600, step=10)
        kling.finish_task(kling_task)
        kling.query_opened.set()
        await system.advance(10)

        assert kling.max_blocked == 1
        assert (await system.task(task.id)).state is TaskState.SUCCEED


@JUMPS
async def test_a_lookup_in_flight_is_not_repeated_and_nothing_is_sent_twice(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    kling.create_opened.set()
    kling.lookup_opened.clear()
    kling.create_faults, kling.create_despite_fault = [no_response()], True
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        task = await system.submit()
        await system.advance(60, step=5)
        assert kling.blocked == 1

        clock.advance(jump)
        system.notifiers.notify_all()
        await system.advance(120, step=10)
        kling.lookup_opened.set()
        await system.advance(120, step=10)

        assert kling.max_blocked == 1
        assert kling.calls == len(kling.tasks) == 1
        assert (await system.task(task.id)).kling_id in kling.tasks


@JUMPS
async def test_an_attempt_in_flight_is_not_repeated(tmp_path: Path, jump: timedelta) -> None:
    async with a_delivery_system(tmp_path) as system:
        there = system.add_route(concurrency=2)
        there.gate.clear()
        await system.start()
        [event] = await system.add_events(1)

        system.clock.advance(jump)
        system.notifiers.notify_all()
        await system.advance(timedelta(hours=1))
        there.gate.set()
        await system.settle()

        assert there.event_ids == [event]
        assert await system.statuses() == ["delivered"]


async def test_a_clock_set_back_delays_no_retry(tmp_path: Path) -> None:
    async with a_delivery_system(tmp_path) as system:
        there = system.add_route()
        there.respond = lambda _: FAILED
        await system.start()
        await system.add_events(1)

        system.clock.advance(-DAY)
        system.notifiers.notify_all()
        await system.advance(timedelta(seconds=10))

        assert len(there.attempts) == 2


@pytest.mark.parametrize("new_process", [False, True], ids=["", "by_a_new_process"])
async def test_a_clock_set_back_delays_no_first_attempt(tmp_path: Path, *, new_process: bool) -> None:
    async with a_delivery_system(tmp_path) as system:
        there = system.add_route()
        there.gate.clear()
        await system.start()
        events = await system.add_events(5)
        assert len(there.attempts) == 1, "the others wait for their turn"

        if new_process:
            await system.crash()
            system.clock.advance(-DAY)
            await system.start()
        else:
            system.clock.advance(-DAY)
        there.gate.set()
        await system.advance(timedelta(seconds=10))

        assert there.event_ids[-5:] == events
        assert await system.statuses() == ["delivered"] * 5


async def test_retries_keep_their_delays_after_a_restart(tmp_path: Path) -> None:
    async with a_delivery_system(tmp_path) as system:
        there = system.add_route()
        there.respond = lambda _: FAILED
        await system.start()
        await system.add_events(1)
        await system.advance(timedelta(seconds=10))
        assert len(there.attempts) == 2

        await system.stop()
        await system.start()
        await system.advance(timedelta(seconds=10))

        assert len(there.attempts) == 2, "half a minute has not passed"


async def test_a_clock_set_back_delays_no_result_at_a_start(tmp_path: Path) -> None:
    async with archive_system.an_archive_system(tmp_path) as system, a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")

        system.clock.advance(-DAY)
        system.start()

        [asset] = await system.wait_for_assets(event)
        assert system.content(asset) == PNG
        assert await system.due_by_route(event) == {"publish": True}


async def test_a_clock_set_back_delays_no_result(tmp_path: Path) -> None:
    async with archive_system.an_archive_system(tmp_path) as system, a_cdn(broken=response(500)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/broken")
        system.start()
        await wait_until(lambda: len(cdn.requests) == 1)
        await wait_until(lambda: not system.archiver._jobs)

        system.clock.advance(-DAY)
        system.notifiers.events.notify()  # as another task's work would do

        await system.wait_for_assets(event, ArchiveState.LATE)
        assert len(cdn.requests) == 2
        assert await system.due_by_route(event) == {"publish": True}, "the waiting time is unknown after the jump"


@pytest.mark.parametrize("back", [DAY, timedelta(hours=1)], ids=["a day", "an hour"])
async def test_a_clock_set_back_delays_no_probe(tmp_path: Path, back: timedelta) -> None:
    async with a_delivery_system(tmp_path) as system:
        there = system.add_route()
        there.respond = lambda _: FAILED
        await system.start()
        await system.add_events(HOLD_AFTER)
        await system.advance(timedelta(minutes=10))
        assert system.route_states.get("publish").is_held
        tried = len(there.attempts)
        there.respond = lambda _: Accepted(code=204)

        system.clock.advance(-back)
        system.notifiers.notify_all()
        await system.advance(timedelta(minutes=2))

        assert len(there.attempts) > tried
        assert await system.statuses() == ["delivered"] * HOLD_AFTER


@pytest.mark.parametrize("back", [DAY, timedelta(minutes=1)], ids=["a day", "a minute"])
async def test_a_clock_set_back_delays_no_lookup_after_a_crash(tmp_path: Path, back: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system:
        sending = asyncio.ensure_future(system.submit())
        await wait_until(lambda: kling.calls == 1)
        for work in (sending, *system.submitter._queue._spawned):
            work.cancel()  # like a kill
        await asyncio.gather(sending, *system.submitter._queue._spawned, return_exceptions=True)
    kling.create_opened.set()
    clock.advance(-back)

    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        await system.advance(180, step=5)

        [task] = (await system.store.catalog.tasks()).items
        assert task.state is TaskState.SUBMITTED
        assert list(kling.tasks) == [task.kling_id]


@pytest.mark.parametrize("new_process", [False, True], ids=["", "by_a_new_process"])
async def test_a_clock_set_back_delays_no_confirmation(tmp_path: Path, *, new_process: bool) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        kling_task, minted = await _claimed(system, kling)
        if not new_process:
            clock.advance(-timedelta(hours=1))
            system.notifiers.notify_all()
            kling.query_fault = None
            await system.advance(75, step=5)
            assert (await system.task(minted.id)).state is TaskState.SUCCEED
            return
    clock.advance(-timedelta(hours=1))
    kling.query_fault = None
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        await system.advance(75, step=5)
        assert ((await system.task(minted.id)).state, kling_task.id) == (
            TaskState.SUCCEED,
            (await system.task(minted.id)).kling_id,
        )


async def _claimed(system: TaskSystem, kling: FakeKling) -> tuple[KlingTask, Task]:
    """Push to a minted URL while Kling is unreachable."""
    minted, url = await system.submitter.create_callback_url(endpoint=ENDPOINT)
    kling.query_fault = refusal(503, 5001)
    kling_task = kling.add_task(json.dumps({"callback_url": url}).encode())
    await system.push(kling_task.token, kling.finish_task(kling_task))
    await system.advance(30, step=5)
    assert (await system.task(minted.id)).state is TaskState.AWAITING
    return kling_task, minted
