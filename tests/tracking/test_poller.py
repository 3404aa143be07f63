"""Polling is the guarantee: every task comes to its end without a callback, and Kling is not run over for it."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.stalled_tasks import FAST_POLLING, UNREACHABLE, add_stalled_tasks
from harness.support import START
from harness.task_system import FakeKling, IdleClock, KlingTask, TaskSystem, a_task_system, refusal

from receiver.domain.errors import KlingError
from receiver.domain.model import TaskState
from receiver.kling.client import KlingResponse
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.settings import PollSettings, PublicSettings, RouteSettings, WebhookSettings
from receiver.tasks.callback_monitor import MIN_MISSED, WINDOW
from receiver.tasks.poll_schedule import MIN_END_POLL_GAP
from receiver.tracking.poller import MAX_CONCURRENT, MAX_POLLS_PER_SECOND


def poll_gaps(kling: FakeKling, task_id: str) -> list[float]:
    moments = [moment for asked, moment in kling.queries if asked == task_id]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]


async def test_what_was_being_asked_about_at_a_kill_is_asked_about_again_at_the_start(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 30)
        lease = system.clock.now() + timedelta(seconds=65)
        claimed = await system.store.claim_tasks(list(TaskState), now=system.clock.now(), until=lease, limit=8)
        kling = system.kling
    for kling_task in kling.tasks.values():
        kling.finish_task(kling_task)

    async with a_task_system(tmp_path, kling=kling, clock=system.clock) as system, system.running():
        await system.settle()

        assert {(await system.task(task.id)).state for task in claimed} == {TaskState.SUCCEED}
        assert Counter(asked for asked, _ in kling.queries) == {f"k{number}": 1 for number in range(30)}


async def test_starts_one_after_the_other_ask_about_no_task_more_often_than_may_be(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 5)
    for _ in range(12):
        async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
            await system.advance(1)

    for number in range(5):
        assert min(poll_gaps(system.kling, f"k{number}")) >= MIN_END_POLL_GAP.total_seconds()


async def test_what_ended_while_nobody_was_there_to_be_called_back_is_known_at_once_after_the_start(
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
async def test_a_clock_that_is_set_back_keeps_nobody_from_asking(tmp_path: Path, fault: KlingError | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        tasks = [await system.submit() for _ in range(20)]
        system.kling.query_fault = fault
        await system.advance(600, step=10)
        for kling_task in system.kling.tasks.values():
            system.kling.finish_task(kling_task)
        system.kling.query_fault = None

        system.clock.advance(timedelta(days=-1))
        system.notifiers.tasks.notify()  # the clock wakes waiters only when their time is over
        await system.advance(30)

        assert {(await system.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}


async def test_without_any_callback_each_task_reaches_its_end_one_step_late_at_most(tmp_path: Path) -> None:
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
            learnt_at = max(moment for asked, moment in system.kling.queries if asked == ended.kling_id)
            assert learnt_at - ended_at[ended.kling_id or ""] <= FAST_POLLING.every + timedelta(seconds=1)
        ends = [name for name in await system.event_types() if name in ("task.succeed", "task.failed")]
        assert Counter(ends) == {"task.succeed": 13, "task.failed": 7}


async def test_the_interval_grows_from_after_to_every(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        await system.submit()

        await system.advance(300)

        assert poll_gaps(system.kling, "k1")[:2] == [20, 40]
        assert set(poll_gaps(system.kling, "k1")[2:]) == {40}


async def test_a_task_is_asked_about_by_one_at_a_time(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.status = "processing"
        for _ in range(50):
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed"))

        await system.settle()

        assert len(system.kling.queries) == 1


async def test_thousands_that_fall_due_at_once_are_asked_about_within_bounds(tmp_path: Path) -> None:
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


async def test_an_end_that_is_pushed_does_not_wait_behind_hundreds_that_are_due(tmp_path: Path) -> None:
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
            assert {asked for asked, _ in system.kling.queries} == set(system.kling.tasks)


async def test_however_many_pushes_wait_every_other_turn_is_of_those_that_are_due_the_longest(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        now = system.clock.now()
        quiet = {task.kling_id for task in await add_stalled_tasks(system, 100, due_at=now - timedelta(seconds=1))}
        await add_stalled_tasks(system, 400, start=100, push_poll_at=now)
        async with system.running():
            await system.advance(4, step=0.5)

            asked = {asked for asked, _ in system.kling.queries}
            assert len(asked) >= 4 * MAX_POLLS_PER_SECOND
            assert len(asked & quiet) >= 80


@pytest.mark.parametrize(
    "fault", [UNREACHABLE, refusal(503, 5001), refusal(429, 1302), refusal(401, 1002)], ids=lambda error: error.code
)
async def test_while_kling_cannot_answer_it_is_left_alone_and_all_is_caught_up_with_within_a_minute(
    tmp_path: Path, fault: KlingError
) -> None:
    async with a_task_system(tmp_path) as system:
        tasks = await add_stalled_tasks(system, 300)
        system.kling.query_fault = fault
        async with system.running():
            await system.advance(3600, step=20)
            assert len(system.kling.queries) <= 3600 / 20 + 20
            assert (await system.task(tasks[0].id)).poll_count == 0

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
async def test_a_page_that_something_before_kling_answers_with_is_an_outage_and_no_word_about_a_task(
    tmp_path: Path, wall: KlingResponse
) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, kling=(kling := BlockedKling(clock)), clock=clock) as system:
        tasks = await add_stalled_tasks(system, 20)
        kling.error = wall
        async with system.running():
            await system.advance(3600, step=20)
            assert len(kling.queries) <= 3600 / 20 + 20
            assert {(await system.task(task.id)).poll_count for task in tasks} == {0}

            for kling_task in kling.tasks.values():
                kling.finish_task(kling_task)
            kling.error = None
            await system.advance(60)

        assert Counter(await system.event_types()).get("task.succeed") == 20


@pytest.mark.parametrize("status", [400, 404])
async def test_a_gateway_that_says_in_json_that_it_cannot_tell_of_a_task_is_asked_less_and_less(
    tmp_path: Path, status: int
) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, kling=(kling := BlockedKling(clock)), clock=clock) as system:
        (task,) = await add_stalled_tasks(system, 1)
        kling.error = KlingResponse(status=status, headers={}, body=b'{"error":"no"}', error=refusal(status, None))
        async with system.running():
            await system.advance(3600, step=20)

        assert 5 < (await system.task(task.id)).poll_count == len(kling.queries) <= 20


async def test_while_kling_is_down_callbacks_are_taken_and_nothing_unconfirmed_is_routed(tmp_path: Path) -> None:
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


async def test_one_task_that_kling_chokes_on_does_not_keep_it_from_the_others(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system:
        tasks = await add_stalled_tasks(system, 20)
        system.kling.query_fault = lambda asked: refusal(500, 5000) if asked == "k0" else None
        async with system.running():
            await system.advance(100)

        asked = Counter(asked for asked, _ in system.kling.queries)
        assert all(asked[f"k{number}"] >= 3 for number in range(1, 20))
        assert asked["k0"] <= 12
        assert (await system.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_trouble_with_the_account_that_questions_meet_is_told_once(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 20)
        system.kling.query_fault = refusal(401, 1002)
        async with system.running():
            await system.advance(300, step=10)
            assert len(await system.alerts("account")) == 1
            system.kling.query_fault = None
            await system.advance(60)

        assert len(await system.alerts("account_recovered")) == 1


async def test_a_task_that_kling_does_not_know_is_asked_about_until_it_is_given_up(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        system.kling.tasks.clear()

        await system.advance(48 * 3600 + 300, step=900)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert await system.event_types() == ["alert.task_stuck", "task.expired"]
        asked = len(system.kling.queries)
        await system.advance(3600, step=300)
        assert len(system.kling.queries) == asked


async def test_time_in_the_queue_does_not_count_against_a_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(429, 1102)
        task = await system.submit()
        await system.advance(47 * 3600 + 1800, step=900)
        system.kling.create_fault = None
        await system.advance(3600, step=60)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED


async def test_a_minted_urls_task_that_nobody_can_be_asked_about_is_given_up_in_time(tmp_path: Path) -> None:
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


async def test_a_task_without_an_end_is_told_of_once_through_restarts_and_then_expires(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        system.kling.tasks["k1"].status = "processing"
        await system.advance(3500, step=100)
        assert await system.alerts("task_stuck") == []
        await system.advance(500, step=100)
        (told,) = await system.alerts("task_stuck")
        assert (told["task"]["id"], told["task"]["kling_id"], told["state"]) == (task.id, "k1", "processing")

    for _ in range(3):
        async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
            await system.advance(3600, step=300)

    async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
        await system.advance(48 * 3600, step=1800)
        assert await system.event_types() == ["task.processing", "alert.task_stuck", "task.expired"]


async def test_a_task_that_kling_always_chokes_on_is_told_of_too(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit()
        system.kling.query_fault = refusal(500, 5000)

        await system.advance(4000, step=50)

        assert len(await system.alerts("task_stuck")) == 1


async def test_an_alert_of_a_task_goes_to_the_routes_of_its_endpoint(tmp_path: Path) -> None:
    here, elsewhere = (
        RouteSettings(name=name, on=frozenset(["alert"]), endpoints=globs, webhook=WebhookSettings(url="http://a/"))
        for name, globs in (("here", ("images/*",)), ("elsewhere", ("videos/*",)))
    )
    async with a_task_system(tmp_path, routes=(here, elsewhere)) as system, system.running():
        await system.submit()
        await system.advance(4000, step=100)

        promised = (await system.store.deliveries()).items
        assert [(each.delivery.route, each.event_type) for each in promised] == [("here", "alert.task_stuck")]


async def test_nobody_is_told_of_stuck_tasks_who_does_not_want_to_be(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=PollSettings(stuck_after=None)) as system, system.running():
        await system.submit()
        await system.advance(49 * 3600, step=1800)

        assert await system.event_types() == ["task.submitted", "task.expired"]


async def test_a_minted_urls_task_that_nobody_can_be_asked_about_is_told_of_when_it_is_stuck(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, url = await system.submitter.create_callback_url(endpoint=None)
        kling_task = KlingTask(id="k9", external_task_id=None, callback_url=url, status="processing")
        await system.push(kling_task.token, kling_task.status_body())

        await system.advance(3500, step=100)
        assert await system.alerts("task_stuck") == []
        await system.advance(200, step=100)

        (told,) = await system.alerts("task_stuck")
        assert told["task"]["kling_id"] == "k9"


async def an_expired_task(system: TaskSystem) -> KlingTask:
    await system.submit()
    kling_task: KlingTask = system.kling.tasks["k1"]
    kling_task.status = "processing"
    await system.advance(49 * 3600, step=1800)
    assert (await system.task(kling_task.id)).state is TaskState.EXPIRED
    return kling_task


async def test_a_success_that_is_called_back_after_the_task_expired_arrives_as_such(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        asked = len(system.kling.queries)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        assert (await system.event_types())[-2:] == ["task.expired", "task.succeed"]
        assert len(system.kling.queries) == asked + 1
        assert (await system.task(kling_task.id)).state is TaskState.SUCCEED


@pytest.mark.parametrize("how", ["succeed", "failed"])
async def test_an_end_after_the_task_expired_is_found_by_asking_though_no_callback_comes(
    tmp_path: Path, how: str
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        asked = len(system.kling.queries)
        system.kling.finish_task(kling_task, how)

        await system.advance(20 * 86400, step=6 * 3600)

        assert (await system.event_types())[-2:] == ["task.expired", f"task.{how}"]
        assert len(system.kling.queries) == asked + 1


async def test_a_task_that_expired_and_never_ends_is_asked_about_a_few_more_times(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        kling_task = await an_expired_task(system)
        asked = len(system.kling.queries)

        await system.advance(60 * 86400, step=12 * 3600)

        assert 5 <= len(system.kling.queries) - asked <= 15
        assert (await system.task(kling_task.id)).due_at is None
        assert await system.event_types() == ["task.processing", "alert.task_stuck", "task.expired"]


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


async def test_callbacks_that_stay_away_are_told_of_once_with_what_to_check_and_so_is_their_return(
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


async def test_callbacks_that_stay_away_through_restarts_are_told_of_once_and_so_is_their_return(
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
        await finish_with_callbacks(system, MIN_MISSED)
        assert len(await system.alerts("callbacks_recovered")) == 1
    async with (
        a_task_system(tmp_path, poll=FAST_POLLING, kling=system.kling, clock=system.clock) as system,
        system.running(),
    ):
        await finish_without_callbacks(system, MIN_MISSED)
        assert len(await system.alerts("callbacks_missed")) == 2


async def test_a_few_callbacks_lost_among_many_are_no_alarm(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        for _ in range(WINDOW // 10):
            await finish_with_callbacks(system, 9)
            await finish_without_callbacks(system, 1)

        assert await system.alerts("callbacks_missed") == []
        assert system.inbox.missed_callbacks == WINDOW // 10


async def test_without_a_public_address_no_callback_is_missed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING, public=PublicSettings()) as system, system.running():
        await finish_without_callbacks(system, MIN_MISSED + 1)

        assert await system.alerts("callbacks_missed") == []
        assert Counter(await system.event_types())["task.succeed"] == MIN_MISSED + 1


async def test_what_ended_while_we_were_away_is_not_held_against_the_callbacks(tmp_path: Path) -> None:
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


async def test_a_callback_that_is_only_slower_than_the_question_is_not_missed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system, system.running():
        for _ in range(2 * MIN_MISSED):
            task = await system.submit()
            kling_task = system.kling.tasks[(await system.task(task.id)).kling_id]
            body = system.kling.finish_task(kling_task)
            await system.advance(60, step=10)
            await system.push(kling_task.token, body)

        assert await system.alerts("callbacks_missed") == []
        assert system.inbox.missed_callbacks == 0
