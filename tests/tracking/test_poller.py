"""Polling is the guarantee: every task comes to its end without a callback, and Kling is not run over for it."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.stalled_tasks import DOWN, QUICK, with_tasks
from harness.support import START
from harness.task_system import FakeKling, IdleClock, Made, Workshop, a_workshop, refusal

from receiver.domain.errors import KlingError
from receiver.domain.model import TaskState
from receiver.kling.client import Answer
from receiver.kling.error_codes import Said, error_of
from receiver.settings import PollSettings, PublicSettings, RouteSettings, WebhookSettings
from receiver.tasks.callback_monitor import FEWEST, LATEST
from receiver.tasks.poll_schedule import END_APART
from receiver.tracking.poller import AT_ONCE, PER_SECOND


def gaps(kling: FakeKling, task_id: str) -> list[float]:
    moments = [moment for asked, moment in kling.queries if asked == task_id]
    return [(later - earlier).total_seconds() for earlier, later in pairwise(moments)]


async def test_what_was_being_asked_about_at_a_kill_is_asked_about_again_at_the_start(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 30)
        lease = shop.clock.now() + timedelta(seconds=65)
        claimed = await shop.store.claim_tasks(list(TaskState), now=shop.clock.now(), until=lease, limit=8)
        kling = shop.kling
    for made in kling.made.values():
        kling.end(made)

    async with a_workshop(tmp_path, kling=kling, clock=shop.clock) as shop, shop.working():
        await shop.settles()

        assert {(await shop.task(task.id)).state for task in claimed} == {TaskState.SUCCEED}
        assert Counter(asked for asked, _ in kling.queries) == {f"k{number}": 1 for number in range(30)}


async def test_starts_one_after_the_other_ask_about_no_task_more_often_than_may_be(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 5)
    for _ in range(12):
        async with a_workshop(tmp_path, kling=shop.kling, clock=shop.clock) as shop, shop.working():
            await shop.passes(1)

    for number in range(5):
        assert min(gaps(shop.kling, f"k{number}")) >= END_APART.total_seconds()


async def test_what_ended_while_nobody_was_there_to_be_called_back_is_known_at_once_after_the_start(
    tmp_path: Path,
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        tasks = [await shop.submit() for _ in range(20)]
        for made in shop.kling.made.values():
            made.status = "processing"
        await shop.passes(3000, step=50)
        kling = shop.kling
    for made in kling.made.values():
        kling.end(made)
    shop.clock.advance(timedelta(seconds=10))

    async with a_workshop(tmp_path, kling=kling, clock=shop.clock) as shop, shop.working():
        await shop.settles()

        assert {(await shop.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}


@pytest.mark.parametrize("fault", [None, DOWN], ids=["well", "down"])
async def test_a_clock_that_is_set_back_keeps_nobody_from_asking(tmp_path: Path, fault: KlingError | None) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        tasks = [await shop.submit() for _ in range(20)]
        shop.kling.query_fault = fault
        await shop.passes(600, step=10)
        for made in shop.kling.made.values():
            shop.kling.end(made)
        shop.kling.query_fault = None

        shop.clock.advance(timedelta(days=-1))
        shop.bells.tasks.ring()  # a clock of the system's wakes who waits when the time is over, whatever it says then
        await shop.passes(30)

        assert {(await shop.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}


async def test_without_any_callback_each_task_reaches_its_end_one_step_late_at_most(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        tasks = [await shop.submit() for _ in range(20)]
        ended_at = {}
        for number, made in enumerate(list(shop.kling.made.values())):
            await shop.passes(7)
            shop.kling.end(made, "succeed" if number % 3 else "failed")
            ended_at[made.id] = shop.clock.now()

        await shop.passes(60)

        for task in tasks:
            ended = await shop.task(task.id)
            assert ended.state.is_final
            learnt_at = max(moment for asked, moment in shop.kling.queries if asked == ended.kling_id)
            assert learnt_at - ended_at[ended.kling_id or ""] <= QUICK.every + timedelta(seconds=1)
        ends = [name for name in await shop.types() if name in ("task.succeed", "task.failed")]
        assert Counter(ends) == {"task.succeed": 13, "task.failed": 7}


async def test_the_interval_grows_from_after_to_every(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        await shop.submit()

        await shop.passes(300)

        assert gaps(shop.kling, "k1")[:2] == [20, 40]
        assert set(gaps(shop.kling, "k1")[2:]) == {40}


async def test_a_task_is_asked_about_by_one_at_a_time(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        await shop.submit()
        made = shop.kling.made["k1"]
        made.status = "processing"
        for _ in range(50):
            await shop.push(made.token, made.told(task_status="succeed"))

        await shop.settles()

        assert len(shop.kling.queries) == 1


async def test_thousands_that_fall_due_at_once_are_asked_about_within_bounds(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 1000)
        for made in shop.kling.made.values():
            shop.kling.end(made)

        async with shop.working():
            await shop.passes(25, step=0.5)

        assert len(shop.kling.queries) == 1000
        assert shop.kling.most_under_way <= AT_ONCE
        moments = sorted(moment for _, moment in shop.kling.queries)
        for place, moment in enumerate(moments[PER_SECOND:]):
            assert moment - moments[place] >= timedelta(seconds=1)
        assert Counter(await shop.types()) == {"task.succeed": 1000}


async def test_an_end_that_is_pushed_does_not_wait_behind_hundreds_that_are_due(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 600)
        async with shop.working():
            task = await shop.submit()
            made = shop.kling.made[(await shop.task(task.id)).kling_id or ""]

            await shop.push(made.token, shop.kling.end(made))
            await shop.passes(2, step=0.5)

            assert (await shop.task(task.id)).state is TaskState.SUCCEED
            assert len(shop.kling.queries) <= 3 * PER_SECOND
            await shop.passes(12, step=0.5)
            assert {asked for asked, _ in shop.kling.queries} == set(shop.kling.made)


async def test_however_many_pushes_wait_every_other_turn_is_of_those_that_are_due_the_longest(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        now = shop.clock.now()
        quiet = {task.kling_id for task in await with_tasks(shop, 100, due_at=now - timedelta(seconds=1))}
        await with_tasks(shop, 400, start=100, prompted_at=now)
        async with shop.working():
            await shop.passes(4, step=0.5)

            asked = {asked for asked, _ in shop.kling.queries}
            assert len(asked) >= 4 * PER_SECOND
            assert len(asked & quiet) >= 80


@pytest.mark.parametrize(
    "fault", [DOWN, refusal(503, 5001), refusal(429, 1302), refusal(401, 1002)], ids=lambda error: error.code
)
async def test_while_kling_cannot_answer_it_is_left_alone_and_all_is_caught_up_with_within_a_minute(
    tmp_path: Path, fault: KlingError
) -> None:
    async with a_workshop(tmp_path) as shop:
        tasks = await with_tasks(shop, 300)
        shop.kling.query_fault = fault
        async with shop.working():
            await shop.passes(3600, step=20)
            assert len(shop.kling.queries) <= 3600 / 20 + 20
            assert (await shop.task(tasks[0].id)).asks == 0

            for made in shop.kling.made.values():
                shop.kling.end(made)
            shop.kling.query_fault = None
            await shop.passes(60)

        assert Counter(await shop.types()).get("task.succeed") == 300


def page(status: int) -> KlingError:
    """The error that the client makes of a page of HTML."""
    error = error_of(Said(status=status, headers={}, document=None), creates=False, now=START)
    assert error is not None
    return error


class BehindAWall(FakeKling):
    """A Kling that a firewall stands before: it answers every question itself, with a page of its own."""

    wall: Answer | None = None

    async def query(self, endpoint: str, task_id: str) -> Answer:
        answer = await super().query(endpoint, task_id)
        return answer if self.wall is None else self.wall


@pytest.mark.parametrize(
    "wall",
    [
        *(Answer(status=n, headers={}, body=b"<h1>no</h1>", error=page(n)) for n in (403, 404, 302)),
        Answer(status=403, headers={}, body=b'{"message":"Forbidden"}', error=refusal(403, None, "Forbidden")),
        Answer(status=403, headers={}, body=b'{"code":403}', error=refusal(403, 403, "Forbidden")),
    ],
    ids=["403", "404", "302", "403 in JSON", "403 as a code"],
)
async def test_a_page_that_something_before_kling_answers_with_is_an_outage_and_no_word_about_a_task(
    tmp_path: Path, wall: Answer
) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := BehindAWall(clock)), clock=clock) as shop:
        tasks = await with_tasks(shop, 20)
        kling.wall = wall
        async with shop.working():
            await shop.passes(3600, step=20)
            assert len(kling.queries) <= 3600 / 20 + 20
            assert {(await shop.task(task.id)).asks for task in tasks} == {0}

            for made in kling.made.values():
                kling.end(made)
            kling.wall = None
            await shop.passes(60)

        assert Counter(await shop.types()).get("task.succeed") == 20


@pytest.mark.parametrize("status", [400, 404])
async def test_a_gateway_that_says_in_json_that_it_cannot_tell_of_a_task_is_asked_less_and_less(
    tmp_path: Path, status: int
) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := BehindAWall(clock)), clock=clock) as shop:
        (task,) = await with_tasks(shop, 1)
        kling.wall = Answer(status=status, headers={}, body=b'{"error":"no"}', error=refusal(status, None))
        async with shop.working():
            await shop.passes(3600, step=20)

        assert 5 < (await shop.task(task.id)).asks == len(kling.queries) <= 20


async def test_while_kling_is_down_callbacks_are_taken_and_nothing_unconfirmed_is_routed(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        tasks = [await shop.submit() for _ in range(30)]
        shop.kling.query_fault = DOWN
        for made in shop.kling.made.values():
            assert await shop.push(made.token, shop.kling.end(made))

        await shop.passes(3 * 3600, step=60)
        assert set(await shop.types()) == {"alert.task_stuck"}

        shop.kling.query_fault = None
        await shop.passes(60)
        assert Counter(await shop.types())["task.succeed"] == 30
        for task in tasks:
            assert (await shop.outcomes_of(task.id))[0] == "settled"


async def test_one_task_that_kling_chokes_on_does_not_keep_it_from_the_others(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop:
        tasks = await with_tasks(shop, 20)
        shop.kling.query_fault = lambda asked: refusal(500, 5000) if asked == "k0" else None
        async with shop.working():
            await shop.passes(100)

        asked = Counter(asked for asked, _ in shop.kling.queries)
        assert all(asked[f"k{number}"] >= 3 for number in range(1, 20))
        assert asked["k0"] <= 12
        assert (await shop.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_trouble_with_the_account_that_questions_meet_is_told_once(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 20)
        shop.kling.query_fault = refusal(401, 1002)
        async with shop.working():
            await shop.passes(300, step=10)
            assert len(await shop.alerts("account")) == 1
            shop.kling.query_fault = None
            await shop.passes(60)

        assert len(await shop.alerts("account_recovered")) == 1


async def test_a_task_that_kling_does_not_know_is_asked_about_until_it_is_given_up(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = await shop.submit()
        shop.kling.made.clear()

        await shop.passes(48 * 3600 + 300, step=900)

        assert (await shop.task(task.id)).state is TaskState.EXPIRED
        assert await shop.types() == ["alert.task_stuck", "task.expired"]
        asked = len(shop.kling.queries)
        await shop.passes(3600, step=300)
        assert len(shop.kling.queries) == asked


async def test_time_in_the_queue_does_not_count_against_a_task(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_fault = refusal(429, 1102)
        task = await shop.submit()
        await shop.passes(47 * 3600 + 1800, step=900)
        shop.kling.create_fault = None
        await shop.passes(3600, step=60)

        assert (await shop.task(task.id)).state is TaskState.SUBMITTED


async def test_a_minted_urls_task_that_nobody_can_be_asked_about_is_given_up_in_time(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, url = await shop.submitter.mint(endpoint=None)
        await shop.passes(24 * 3600, step=3600)
        made = Made(id="k9", external_task_id=None, callback_url=url, status="processing")
        await shop.push(made.token, made.told())

        await shop.passes(47 * 3600, step=3600)
        assert (await shop.task(task.id)).state is TaskState.PROCESSING
        await shop.passes(2 * 3600, step=3600)

        assert (await shop.task(task.id)).state is TaskState.EXPIRED
        assert shop.kling.queries == []


# -- tasks that do not end


async def test_a_task_without_an_end_is_told_of_once_through_restarts_and_then_expires(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = await shop.submit()
        shop.kling.made["k1"].status = "processing"
        await shop.passes(3500, step=100)
        assert await shop.alerts("task_stuck") == []
        await shop.passes(500, step=100)
        (told,) = await shop.alerts("task_stuck")
        assert (told["task"]["id"], told["task"]["kling_id"], told["state"]) == (task.id, "k1", "processing")

    for _ in range(3):
        async with a_workshop(tmp_path, kling=shop.kling, clock=shop.clock) as shop, shop.working():
            await shop.passes(3600, step=300)

    async with a_workshop(tmp_path, kling=shop.kling, clock=shop.clock) as shop, shop.working():
        await shop.passes(48 * 3600, step=1800)
        assert await shop.types() == ["task.processing", "alert.task_stuck", "task.expired"]


async def test_a_task_that_kling_always_chokes_on_is_told_of_too(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        await shop.submit()
        shop.kling.query_fault = refusal(500, 5000)

        await shop.passes(4000, step=50)

        assert len(await shop.alerts("task_stuck")) == 1


async def test_an_alert_of_a_task_goes_to_the_routes_of_its_endpoint(tmp_path: Path) -> None:
    here, elsewhere = (
        RouteSettings(name=name, on=frozenset(["alert"]), endpoints=globs, webhook=WebhookSettings(url="http://a/"))
        for name, globs in (("here", ("images/*",)), ("elsewhere", ("videos/*",)))
    )
    async with a_workshop(tmp_path, routes=(here, elsewhere)) as shop, shop.working():
        await shop.submit()
        await shop.passes(4000, step=100)

        promised = (await shop.store.deliveries()).items
        assert [(each.delivery.route, each.event_type) for each in promised] == [("here", "alert.task_stuck")]


async def test_nobody_is_told_of_stuck_tasks_who_does_not_want_to_be(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=PollSettings(stuck_after=None)) as shop, shop.working():
        await shop.submit()
        await shop.passes(49 * 3600, step=1800)

        assert await shop.types() == ["task.submitted", "task.expired"]


async def test_a_minted_urls_task_that_nobody_can_be_asked_about_is_told_of_when_it_is_stuck(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        _, url = await shop.submitter.mint(endpoint=None)
        made = Made(id="k9", external_task_id=None, callback_url=url, status="processing")
        await shop.push(made.token, made.told())

        await shop.passes(3500, step=100)
        assert await shop.alerts("task_stuck") == []
        await shop.passes(200, step=100)

        (told,) = await shop.alerts("task_stuck")
        assert told["task"]["kling_id"] == "k9"


async def expired(shop: Workshop) -> Made:
    await shop.submit()
    made: Made = shop.kling.made["k1"]
    made.status = "processing"
    await shop.passes(49 * 3600, step=1800)
    assert (await shop.task(made.id)).state is TaskState.EXPIRED
    return made


async def test_a_success_that_is_called_back_after_the_task_expired_arrives_as_such(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        made = await expired(shop)
        asked = len(shop.kling.queries)

        await shop.push(made.token, shop.kling.end(made))
        await shop.settles()

        assert (await shop.types())[-2:] == ["task.expired", "task.succeed"]
        assert len(shop.kling.queries) == asked + 1
        assert (await shop.task(made.id)).state is TaskState.SUCCEED


@pytest.mark.parametrize("how", ["succeed", "failed"])
async def test_an_end_after_the_task_expired_is_found_by_asking_though_no_callback_comes(
    tmp_path: Path, how: str
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        made = await expired(shop)
        asked = len(shop.kling.queries)
        shop.kling.end(made, how)

        await shop.passes(20 * 86400, step=6 * 3600)

        assert (await shop.types())[-2:] == ["task.expired", f"task.{how}"]
        assert len(shop.kling.queries) == asked + 1


async def test_a_task_that_expired_and_never_ends_is_asked_about_a_few_more_times(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        made = await expired(shop)
        asked = len(shop.kling.queries)

        await shop.passes(60 * 86400, step=12 * 3600)

        assert 5 <= len(shop.kling.queries) - asked <= 15
        assert (await shop.task(made.id)).due_at is None
        assert await shop.types() == ["task.processing", "alert.task_stuck", "task.expired"]


# -- callbacks that stay away


async def ends_unheard(shop: Workshop, count: int) -> None:
    for _ in range(count):
        task = await shop.submit()
        kling_id = (await shop.task(task.id)).kling_id
        shop.kling.end(shop.kling.made[kling_id])
        await shop.passes(60, step=10)


async def ends_heard(shop: Workshop, count: int) -> None:
    for _ in range(count):
        task = await shop.submit()
        made = shop.kling.made[(await shop.task(task.id)).kling_id]
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(10, step=10)


async def test_callbacks_that_stay_away_are_told_of_once_with_what_to_check_and_so_is_their_return(
    tmp_path: Path,
) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        await ends_unheard(shop, FEWEST - 1)
        assert await shop.alerts("callbacks_missed") == []

        await ends_unheard(shop, 10)
        (alert,) = await shop.alerts("callbacks_missed")
        assert alert["missed"] == alert["of"] == FEWEST
        for word in ("https://hooks.example.com", "tunnel", "proxy", "413"):
            assert word in alert["remedy"]
        assert shop.inbox.missed == FEWEST + 9

        await ends_heard(shop, FEWEST)
        assert len(await shop.alerts("callbacks_recovered")) == 1
        await ends_unheard(shop, FEWEST)
        assert len(await shop.alerts("callbacks_missed")) == 2


async def test_callbacks_that_stay_away_through_restarts_are_told_of_once_and_so_is_their_return(
    tmp_path: Path,
) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        await ends_unheard(shop, FEWEST)
    for _ in range(2):
        async with a_workshop(tmp_path, poll=QUICK, kling=shop.kling, clock=shop.clock) as shop, shop.working():
            await ends_unheard(shop, FEWEST)
            assert len(await shop.alerts("callbacks_missed")) == 1

    async with a_workshop(tmp_path, poll=QUICK, kling=shop.kling, clock=shop.clock) as shop, shop.working():
        await ends_heard(shop, FEWEST)
        assert len(await shop.alerts("callbacks_recovered")) == 1
    async with a_workshop(tmp_path, poll=QUICK, kling=shop.kling, clock=shop.clock) as shop, shop.working():
        await ends_unheard(shop, FEWEST)
        assert len(await shop.alerts("callbacks_missed")) == 2


async def test_a_few_callbacks_lost_among_many_are_no_alarm(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        for _ in range(LATEST // 10):
            await ends_heard(shop, 9)
            await ends_unheard(shop, 1)

        assert await shop.alerts("callbacks_missed") == []
        assert shop.inbox.missed == LATEST // 10


async def test_without_a_public_address_no_callback_is_missed(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK, public=PublicSettings()) as shop, shop.working():
        await ends_unheard(shop, FEWEST + 1)

        assert await shop.alerts("callbacks_missed") == []
        assert Counter(await shop.types())["task.succeed"] == FEWEST + 1


async def test_what_ended_while_we_were_away_is_not_held_against_the_callbacks(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        kling = shop.kling
        tasks = [await shop.submit() for _ in range(FEWEST + 1)]
    for made in kling.made.values():
        kling.end(made)
    shop.clock.advance(timedelta(hours=1))

    async with a_workshop(tmp_path, poll=QUICK, kling=kling, clock=shop.clock) as shop, shop.working():
        await shop.passes(10)

        assert {(await shop.task(task.id)).state for task in tasks} == {TaskState.SUCCEED}
        assert await shop.alerts("callbacks_missed") == []


async def test_a_callback_that_is_only_slower_than_the_question_is_not_missed(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop, shop.working():
        for _ in range(2 * FEWEST):
            task = await shop.submit()
            made = shop.kling.made[(await shop.task(task.id)).kling_id]
            body = shop.kling.end(made)
            await shop.passes(60, step=10)
            await shop.push(made.token, body)

        assert await shop.alerts("callbacks_missed") == []
        assert shop.inbox.missed == 0
