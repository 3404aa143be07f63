"""Polling is the guarantee: every task ends without a callback, and polls stay within the limits."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.clock import START
from harness.fake_kling import FakeKling, refusal
from harness.stalled_tasks import FAST_POLLING, UNREACHABLE, add_stalled_tasks
from harness.task_system import IdleClock, a_task_system

from receiver.domain.errors import KlingError
from receiver.domain.model import Polling, TaskState
from receiver.kling.client import KlingResponse
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.tasks.poll_schedule import MIN_END_POLL_GAP
from receiver.tracking.poller import MAX_CONCURRENT, MAX_POLLS_PER_SECOND


def poll_gaps(kling: FakeKling, task_id: str) -> list[float]:
    moments = [moment for kling_id, moment in kling.queries if kling_id == task_id]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]


async def test_polls_in_flight_at_a_kill_are_repeated_at_the_start(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 30)
        lease = system.clock.now() + timedelta(seconds=65)
        claimed = await system.store.tasks.claim_tasks(list(TaskState), now=system.clock.now(), until=lease, limit=8)
        kling = system.kling
    for kling_task in kling.tasks.values():
        kling.finish_task(kling_task)

    async with a_task_system(tmp_path, kling=kling, clock=system.clock) as system, system.running():
        await system.settle()

        assert {(await system.task(task.id)).state for task in claimed} == {TaskState.SUCCEED}
        assert Counter(kling_id for kling_id, _ in kling.queries) == {f"k{number}": 1 for number in range(30)}


async def test_repeated_starts_respect_the_gap_between_polls(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 5)
    for _ in range(12):
        async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
            await system.advance(1)

    for number in range(5):
        assert min(poll_gaps(system.kling, f"k{number}")) >= MIN_END_POLL_GAP.total_seconds()


async def test_ends_during_a_downtime_are_known_at_once_after_the_start(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        tasks = [await system.submit() for _ in range(20)]
        for kling_task in system.kling.tasks.values():
            kling_task.status = "processing"
        await system.advance(3000, step=50)
        kling = system.kling
    for kling_task in kling.tasks.values():
        kling.finish_task(kling_task)
    system.clock.advance(timedelta(seconds=10))

    async with a_task_system(tmp_path, kling=kling, clock=system.clock) as system, system.running():
        await system.settle()

        assert {(await system.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}


@pytest.mark.parametrize("fault", [None, UNREACHABLE], ids=["well", "down"])
async def test_polling_continues_after_the_clock_is_set_back(tmp_path: Path, fault: KlingError | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        tasks = [await system.submit() for _ in range(20)]
        system.kling.query_fault = fault
        await system.advance(600, step=10)
        for kling_task in system.kling.tasks.values():
            system.kling.finish_task(kling_task)
        system.kling.query_fault = None

        system.clock.advance(timedelta(days=-1))
        system.notifiers.polls.notify()  # the clock wakes waiters only when their time is over
        await system.advance(30)

        assert {(await system.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}


async def test_without_callbacks_a_task_ends_one_interval_late_at_most(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        tasks = [await system.submit() for _ in range(20)]
        ended_at = {}
        for number, kling_task in enumerate(list(system.kling.tasks.values())):
            await system.advance(7)
            system.kling.finish_task(kling_task, "succeed" if number % 3 else "failed")
            ended_at[kling_task.id] = system.clock.now()

        await system.advance(60)

        for task in tasks:
            ended = await system.task(task.id)
            assert ended.state.is_final
            learnt_at = max(moment for kling_id, moment in system.kling.queries if kling_id == ended.kling_id)
            assert learnt_at - ended_at[ended.kling_id or ""] <= FAST_POLLING.every + timedelta(seconds=1)
        ends = [name for name in await system.event_types() if name in ("task.succeed", "task.failed")]
        assert Counter(ends) == {"task.succeed": 13, "task.failed": 7}


async def test_the_poll_interval_grows_from_after_to_every(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        await system.submit()

        await system.advance(300)

        assert poll_gaps(system.kling, "k1")[:2] == [20, 40]
        assert set(poll_gaps(system.kling, "k1")[2:]) == {40}


async def test_a_task_has_one_poll_in_flight_at_most(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.status = "processing"
        for _ in range(50):
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed"))

        await system.settle()

        assert len(system.kling.queries) == 1


async def test_thousands_of_due_tasks_are_polled_within_the_limits(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 1000)
        for kling_task in system.kling.tasks.values():
            system.kling.finish_task(kling_task)

        async with system.running():
            await system.advance(25, step=0.5)

        assert len(system.kling.queries) == 1000
        assert system.kling.max_in_flight <= MAX_CONCURRENT
        moments = sorted(moment for _, moment in system.kling.queries)
        for place, moment in enumerate(moments[MAX_POLLS_PER_SECOND:]):
            assert moment - moments[place] >= timedelta(seconds=1)
        assert Counter(await system.event_types()) == {"task.succeed": 1000}


async def test_a_pushed_end_is_polled_before_hundreds_of_due_tasks(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 600)
        async with system.running():
            task = await system.submit()
            kling_task = system.kling.tasks[(await system.task(task.id)).kling_id or ""]

            await system.push(kling_task.token, system.kling.finish_task(kling_task))
            await system.advance(2, step=0.5)

            assert (await system.task(task.id)).state is TaskState.SUCCEED
            assert len(system.kling.queries) <= 3 * MAX_POLLS_PER_SECOND
            await system.advance(12, step=0.5)
            assert {kling_id for kling_id, _ in system.kling.queries} == set(system.kling.tasks)


async def test_every_second_claim_takes_the_longest_due_tasks(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        now = system.clock.now()
        quiet = {task.kling_id for task in await add_stalled_tasks(system, 100, due_at=now - timedelta(seconds=1))}
        await add_stalled_tasks(system, 400, start=100, polling=Polling(push_at=now))
        async with system.running():
            await system.advance(4, step=0.5)

            kling_id = {kling_id for kling_id, _ in system.kling.queries}
            assert len(kling_id) >= 4 * MAX_POLLS_PER_SECOND
            assert len(kling_id & quiet) >= 80


@pytest.mark.parametrize(
    "fault", [UNREACHABLE, refusal(503, 5001), refusal(429, 1302), refusal(401, 1002)], ids=lambda error: error.code
)
async def test_polling_backs_off_in_an_outage_and_catches_up_in_a_minute(tmp_path: Path, fault: KlingError) -> None:
    async with a_task_system(tmp_path) as system:
        tasks = await add_stalled_tasks(system, 300)
        system.kling.query_fault = fault
        async with system.running():
            await system.advance(3600, step=20)
            assert len(system.kling.queries) <= 3600 / 20 + 20
            assert (await system.task(tasks[0].id)).polling.count == 0

            for kling_task in system.kling.tasks.values():
                system.kling.finish_task(kling_task)
            system.kling.query_fault = None
            await system.advance(60)

        assert Counter(await system.event_types()).get("task.succeed") == 300


def html_error(status: int) -> KlingError:
    """The error that the client makes of a page of HTML."""
    error = to_error(ErrorResponse(status=status, headers={}, document=None), is_create=False, now=START)
    assert error is not None
    return error


class BlockedKling(FakeKling):
    """A Kling that a firewall stands before: it answers every question itself, with a page of its own."""

    error: KlingResponse | None = None

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        answer = await super().query(endpoint, task_id)
        return answer if self.error is None else self.error


@pytest.mark.parametrize(
    "wall",
    [
        *(KlingResponse(status=n, headers={}, body=b"<h1>no</h1>", error=html_error(n)) for n in (403, 404, 302)),
        KlingResponse(status=403, headers={}, body=b'{"message":"Forbidden"}', error=refusal(403, None, "Forbidden")),
        KlingResponse(status=403, headers={}, body=b'{"code":403}', error=refusal(403, 403, "Forbidden")),
    ],
    ids=["403", "404", "302", "403 in JSON", "403 as a code"],
)
async def test_a_proxys_error_page_counts_as_an_outage(tmp_path: Path, wall: KlingResponse) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, kling=(kling := BlockedKling(clock)), clock=clock) as system:
        tasks = await add_stalled_tasks(system, 20)
        kling.error = wall
        async with system.running():
            await system.advance(3600, step=20)
            assert len(kling.queries) <= 3600 / 20 + 20
            assert {(await system.task(task.id)).polling.count for task in tasks} == {0}

            for kling_task in kling.tasks.values():
                kling.finish_task(kling_task)
            kling.error = None
            await system.advance(60)

        assert Counter(await system.event_types()).get("task.succeed") == 20


@pytest.mark.parametrize("status", [400, 404])
async def test_a_gateway_without_queries_is_polled_with_growing_delays(tmp_path: Path, status: int) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, kling=(kling := BlockedKling(clock)), clock=clock) as system:
        (task,) = await add_stalled_tasks(system, 1)
        kling.error = KlingResponse(status=status, headers={}, body=b'{"error":"no"}', error=refusal(status, None))
        async with system.running():
            await system.advance(3600, step=20)

        assert (
            5 < (await system.task(task.id)).polling.count == len(kling.queries) <= 24
        )  # 12 in ten minutes, then one each five minutes


async def test_in_an_outage_callbacks_are_stored_but_not_routed_unconfirmed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        tasks = [await system.submit() for _ in range(30)]
        system.kling.query_fault = UNREACHABLE
        for kling_task in system.kling.tasks.values():
            assert await system.push(kling_task.token, system.kling.finish_task(kling_task))

        await system.advance(3 * 3600, step=60)
        assert set(await system.event_types()) == {"alert.task_stuck"}

        system.kling.query_fault = None
        await system.advance(60)
        assert Counter(await system.event_types())["task.succeed"] == 30
        for task in tasks:
            assert (await system.push_outcomes(task.id))[0] == "applied"


async def test_a_task_that_makes_kling_fail_does_not_block_others(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system:
        tasks = await add_stalled_tasks(system, 20)
        system.kling.query_fault = lambda kling_id: refusal(500, 5000) if kling_id == "k0" else None
        async with system.running():
            await system.advance(100)

        kling_id = Counter(kling_id for kling_id, _ in system.kling.queries)
        assert all(kling_id[f"k{number}"] >= 3 for number in range(1, 20))
        assert kling_id["k0"] <= 12
        assert (await system.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_an_account_issue_found_by_polls_raises_one_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 20)
        system.kling.query_fault = refusal(401, 1002)
        async with system.running():
            await system.advance(300, step=10)
            assert len(await system.alerts("account")) == 1
            system.kling.query_fault = None
            await system.advance(60)

        assert len(await system.alerts("account_recovered")) == 1


async def test_a_task_unknown_to_kling_is_polled_until_it_expires(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        system.kling.tasks.clear()

        await system.advance(48 * 3600 + 300, step=900)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert await system.event_types() == ["alert.task_stuck", "task.expired"]
        poll_count = len(system.kling.queries)
        await system.advance(3600, step=300)
        assert len(system.kling.queries) == poll_count
