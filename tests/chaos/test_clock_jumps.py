"""The clock is set a day on or a day back at the worst moment: while a request is under way.

The long runs with a clock that jumps are in test_simulation.
"""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from harness import archive_system
from harness.archive_system import A_PNG, PNG, a_cdn
from harness.delivery_system import FAILED, a_lab
from harness.http_peers import response
from harness.support import until
from harness.task_system import ENDPOINT, FakeKling, IdleClock, Made, Workshop, a_workshop, no_answer, refusal

from receiver.delivery.retry import HOLD_AFTER
from receiver.domain.model import Accepted, Archiving, Task, TaskState
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside

DAY = timedelta(days=1)


JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["on", "back"])


class SlowKling(FakeKling):
    """Answers each kind of call only when its gate opens; before that it knows nothing of a task it is to make."""

    def __init__(self, clock: IdleClock) -> None:
        super().__init__(clock)
        self.calls = 0
        self.holds = self.making = asyncio.Event()
        self.asking, self.finding = asyncio.Event(), asyncio.Event()
        self.asking.set()
        self.finding.set()
        self.most_stuck = 0

    async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
        self.calls += 1
        await self.making.wait()
        return await super().create(endpoint, content, beside=beside)

    async def query(self, endpoint: str, task_id: str) -> Answer:
        await self._waits_for(self.asking)
        return await super().query(endpoint, task_id)

    async def find(self, endpoint: str, external_task_id: str) -> Answer | None:
        await self._waits_for(self.finding)
        return await super().find(endpoint, external_task_id)

    async def _waits_for(self, gate: asyncio.Event) -> None:
        self.stuck += 1
        self.most_stuck = max(self.most_stuck, self.stuck)
        await gate.wait()
        self.stuck -= 1


@JUMPS
async def test_a_create_that_is_under_way_is_not_made_again(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        submitting = asyncio.ensure_future(shop.submit())
        await until(lambda: kling.calls == 1)

        clock.advance(jump)
        shop.bells.ring()  # as by any other task
        await shop.settles()
        await shop.passes(120, step=10)
        kling.making.set()
        task = await submitting
        await shop.passes(120, step=10)

        assert kling.calls == len(kling.made) == 1
        assert (await shop.task(task.id)).kling_id in kling.made


@JUMPS
async def test_a_question_that_is_under_way_is_not_asked_again(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    kling.making.set()
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        task = await shop.submit()
        [made] = kling.made.values()
        kling.asking.clear()
        await shop.passes(60, step=5)
        assert kling.stuck == 1

        clock.advance(jump)
        shop.bells.ring()
        await shop.passes(600, step=10)
        kling.end(made)
        kling.asking.set()
        await shop.passes(10)

        assert kling.most_stuck == 1
        assert (await shop.task(task.id)).state is TaskState.SUCCEED


@JUMPS
async def test_a_look_up_that_is_under_way_is_not_made_again_and_nothing_is_sent_twice(
    tmp_path: Path, jump: timedelta
) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    kling.making.set()
    kling.finding.clear()
    kling.create_faults, kling.makes_anyway = [no_answer()], True
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        task = await shop.submit()
        await shop.passes(60, step=5)
        assert kling.stuck == 1

        clock.advance(jump)
        shop.bells.ring()
        await shop.passes(120, step=10)
        kling.finding.set()
        await shop.passes(120, step=10)

        assert kling.most_stuck == 1
        assert kling.calls == len(kling.made) == 1
        assert (await shop.task(task.id)).kling_id in kling.made


@JUMPS
async def test_an_attempt_that_is_under_way_is_not_made_again(tmp_path: Path, jump: timedelta) -> None:
    async with a_lab(tmp_path) as lab:
        there = lab.a_route(concurrency=2)
        there.open.clear()
        await lab.start()
        [event] = await lab.add(1)

        lab.clock.advance(jump)
        lab.bells.ring()
        await lab.go_on(timedelta(hours=1))
        there.open.set()
        await lab.settle()

        assert there.events == [event]
        assert await lab.statuses() == ["delivered"]


async def test_no_retry_waits_for_a_moment_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async with a_lab(tmp_path) as lab:
        there = lab.a_route()
        there.answer = lambda _: FAILED
        await lab.start()
        await lab.add(1)

        lab.clock.advance(-DAY)
        lab.bells.ring()
        await lab.go_on(timedelta(seconds=10))

        assert len(there.tries) == 2


@pytest.mark.parametrize("new_process", [False, True], ids=["", "by_a_new_process"])
async def test_nothing_untried_waits_for_a_moment_of_a_clock_that_was_set_back(
    tmp_path: Path, *, new_process: bool
) -> None:
    async with a_lab(tmp_path) as lab:
        there = lab.a_route()
        there.open.clear()
        await lab.start()
        events = await lab.add(5)
        assert len(there.tries) == 1, "the others wait for their turn"

        if new_process:
            await lab.crash()
            lab.clock.advance(-DAY)
            await lab.start()
        else:
            lab.clock.advance(-DAY)
        there.open.set()
        await lab.go_on(timedelta(seconds=10))

        assert there.events[-5:] == events
        assert await lab.statuses() == ["delivered"] * 5


async def test_after_a_start_retries_keep_their_pauses_where_the_clock_went_on(tmp_path: Path) -> None:
    async with a_lab(tmp_path) as lab:
        there = lab.a_route()
        there.answer = lambda _: FAILED
        await lab.start()
        await lab.add(1)
        await lab.go_on(timedelta(seconds=10))
        assert len(there.tries) == 2

        await lab.stop()
        await lab.start()
        await lab.go_on(timedelta(seconds=10))

        assert len(there.tries) == 2, "half a minute has not passed"


async def test_at_a_start_no_result_waits_for_a_moment_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async with archive_system.a_workshop(tmp_path) as shop, a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")

        shop.clock.advance(-DAY)
        shop.start()

        [asset] = await shop.settled(event)
        assert shop.content(asset) == PNG
        assert await shop.due(event) == {"publish": True}


async def test_no_result_waits_for_a_moment_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    async with archive_system.a_workshop(tmp_path) as shop, a_cdn(broken=response(500)) as cdn:
        event = await shop.succeeds(f"{cdn.url}/broken")
        shop.start()
        await until(lambda: len(cdn.requests) == 1)
        await until(lambda: not shop.archiver._visits)

        shop.clock.advance(-DAY)
        shop.bells.events.ring()  # as by any other task

        await shop.settled(event, Archiving.LATE)
        assert len(cdn.requests) == 2
        assert await shop.due(event) == {"publish": True}, "nobody knows for how long they have waited"


@pytest.mark.parametrize("back", [DAY, timedelta(hours=1)], ids=["a day", "an hour"])
async def test_no_probe_waits_for_a_moment_of_a_clock_that_was_set_back(tmp_path: Path, back: timedelta) -> None:
    async with a_lab(tmp_path) as lab:
        there = lab.a_route()
        there.answer = lambda _: FAILED
        await lab.start()
        await lab.add(HOLD_AFTER)
        await lab.go_on(timedelta(minutes=10))
        assert lab.holds.of("publish").is_held
        tried = len(there.tries)
        there.answer = lambda _: Accepted(code=204)

        lab.clock.advance(-back)
        lab.bells.ring()
        await lab.go_on(timedelta(minutes=2))

        assert len(there.tries) > tried
        assert await lab.statuses() == ["delivered"] * HOLD_AFTER


@pytest.mark.parametrize("back", [DAY, timedelta(minutes=1)], ids=["a day", "a minute"])
async def test_what_a_dead_process_was_sending_is_looked_up_at_once_though_the_clock_was_set_back(
    tmp_path: Path, back: timedelta
) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop:
        sending = asyncio.ensure_future(shop.submit())
        await until(lambda: kling.calls == 1)
        for work in (sending, *shop.submitter._owned):
            work.cancel()  # as a kill does
        await asyncio.gather(sending, *shop.submitter._owned, return_exceptions=True)
    kling.making.set()
    clock.advance(-back)

    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        await shop.passes(180, step=5)

        [task] = (await shop.store.tasks()).items
        assert task.state is TaskState.SUBMITTED
        assert list(kling.made) == [task.kling_id]


@pytest.mark.parametrize("new_process", [False, True], ids=["", "by_a_new_process"])
async def test_a_claim_that_waits_is_asked_about_though_the_clock_was_set_back(
    tmp_path: Path, *, new_process: bool
) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        made, minted = await _claimed(shop, kling)
        if not new_process:
            clock.advance(-timedelta(hours=1))
            shop.bells.ring()
            kling.query_fault = None
            await shop.passes(75, step=5)
            assert (await shop.task(minted.id)).state is TaskState.SUCCEED
            return
    clock.advance(-timedelta(hours=1))
    kling.query_fault = None
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        await shop.passes(75, step=5)
        assert ((await shop.task(minted.id)).state, made.id) == (
            TaskState.SUCCEED,
            (await shop.task(minted.id)).kling_id,
        )


async def _claimed(shop: Workshop, kling: FakeKling) -> tuple[Made, Task]:
    """Have a minted URL called while Kling cannot be asked."""
    minted, url = await shop.submitter.mint(endpoint=ENDPOINT)
    kling.query_fault = refusal(503, 5001)
    made = kling.make(json.dumps({"callback_url": url}).encode())
    await shop.push(made.token, kling.end(made))
    await shop.passes(30, step=5)
    assert (await shop.task(minted.id)).state is TaskState.AWAITING
    return made, minted
