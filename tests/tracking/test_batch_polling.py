"""Tasks of the new generation share questions, twenty to one, and none pays for the company it is in."""

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.factories import a_task
from harness.stalled_tasks import DOWN, QUICK, a_shop_with_simulator, with_tasks
from harness.support import until
from harness.task_system import Workshop, a_workshop, refusal

from receiver.domain.model import TaskState
from receiver.kling.client import TOGETHER
from receiver.tasks.poll_schedule import ASK_APART
from receiver.tracking.poller import AT_ONCE, PER_SECOND

NEW = ("text-to-video/kling-3.0-turbo", "image-to-video/kling-4.0")
JOB = {"endpoint": NEW[0], "body": {"prompt": "a cat"}}
A_JOB = (
    b'{"contents": [{"type": "prompt", "text": "a cat"}, {"type": "first_frame", "url": "https://a.example/a.png"}]}'
)


async def with_new_tasks(shop: Workshop, count: int) -> None:
    for number in range(count):
        await with_tasks(shop, 1, start=number, endpoint=NEW[number % 2], pack="video")


def sizes(shop: Workshop) -> Counter[int]:
    return Counter(len(asked) for asked in shop.kling.questions)


async def test_two_hundred_silent_tasks_are_caught_up_with_by_ten_questions(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_new_tasks(shop, 200)
        for made in shop.kling.made.values():
            shop.kling.end(made)

        async with shop.working():
            await shop.settles()

        assert sizes(shop) == {TOGETHER: 10}
        assert Counter(await shop.types()) == {"task.succeed": 200}


async def test_two_hundred_silent_tasks_of_the_older_endpoints_are_asked_about_one_by_one(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_tasks(shop, 200)

        async with shop.working():
            await shop.passes(5, step=0.5)

        assert sizes(shop) == {1: 200}


async def test_a_shared_question_counts_once_and_no_more_are_asked_than_may_be(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_new_tasks(shop, 1500)
        await with_tasks(shop, 100, start=1500)

        async with shop.working():
            await shop.settles()
            assert len(shop.kling.questions) == PER_SECOND
            await shop.passes(5, step=0.5)

        assert sizes(shop)[1] >= 100
        assert sum(sizes(shop).values()) <= 100 + 1500 // TOGETHER + AT_ONCE * 15
        assert Counter(asked for asked, _ in shop.kling.queries) == {f"k{number}": 1 for number in range(1600)}
        assert shop.kling.most_under_way <= AT_ONCE


async def test_what_an_answer_leaves_out_is_asked_about_alone_at_once_and_from_then_on(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop:
        await with_new_tasks(shop, 20)
        shop.kling.hides = {"k3"}
        del shop.kling.made["k7"]

        async with shop.working():
            await shop.settles()
            assert shop.kling.questions[1:] in ([["k3"], ["k7"]], [["k7"], ["k3"]])
            assert {(await shop.task(f"k{number}")).asks for number in range(20) if number != 7} == {1}
            await shop.passes(60)

        assert ["k3"] in shop.kling.questions[3:]
        assert ["k7"] in shop.kling.questions[3:]
        assert not [asked for asked in shop.kling.questions[1:] if len(asked) > 1 and {"k3", "k7"} & set(asked)]


@pytest.mark.parametrize("fault", [refusal(400, 1201), refusal(404, None)], ids=["one bad id", "no such method"])
async def test_when_a_shared_question_is_refused_each_is_asked_about_alone(tmp_path: Path, fault: Exception) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop:
        await with_new_tasks(shop, 60)
        for made in shop.kling.made.values():
            shop.kling.end(made)
        bad = shop.kling.made["k5"]
        shop.kling.query_fault = lambda asked: fault if asked == bad.id else None

        async with shop.working():
            await shop.passes(3)

        assert sizes(shop) == {TOGETHER: 3, 1: 20}
        assert Counter(await shop.types()) == {"task.succeed": 59}


async def test_one_task_that_kling_chokes_on_costs_its_company_a_second_once(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, poll=QUICK) as shop:
        await with_new_tasks(shop, 20)
        shop.kling.query_fault = lambda asked: refusal(500, 5000) if asked == "k0" else None

        async with shop.working():
            await shop.passes(2)
            alone = Counter(asked[0] for asked in shop.kling.questions if len(asked) == 1)
            assert set(alone) == {f"k{number}" for number in range(20)}
            await shop.passes(100)

        assert not [asked for asked in shop.kling.questions[1:] if len(asked) > 1 and "k0" in asked]
        assert max(map(len, shop.kling.questions[1:])) >= 18


async def test_while_kling_is_down_a_probe_is_one_task_and_all_share_again_once_it_is_back(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_new_tasks(shop, 400)
        shop.kling.query_fault = DOWN
        async with shop.working():
            await shop.passes(3500, step=20)
            assert sum(size > 1 for size in map(len, shop.kling.questions)) <= AT_ONCE
            assert sum(sizes(shop).values()) <= 3600 / 20 + 20

            shop.kling.query_fault = None
            shop.kling.questions.clear()
            for made in shop.kling.made.values():
                shop.kling.end(made)
            await shop.passes(60)

        assert sum(sizes(shop).values()) <= 400 / TOGETHER + 5
        assert Counter(await shop.types()) == {"task.succeed": 400}


async def test_a_push_that_waits_for_its_confirmation_waits_for_no_company(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = await shop.submit(**JOB)
        for _ in range(5):
            await shop.submit(**JOB)
        made = shop.kling.made["k1"]
        await shop.passes(6)

        await shop.push(made.token, shop.kling.end(made))
        await shop.settles()

        assert [asked for asked, _ in shop.kling.queries] == ["k1"]
        assert (await shop.task(task.id)).state is TaskState.SUCCEED


async def test_forged_pushes_for_many_cost_a_question_each_now_and_then_at_the_most(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        for _ in range(10):
            await shop.submit(**JOB)
        for made in shop.kling.made.values():
            made.status = "processing"
        for _ in range(40):
            for made in shop.kling.made.values():
                await shop.push(made.token, made.told(task_status="succeed"))
            await shop.passes(1)

        for kling_id in shop.kling.made:
            moments = [moment for asked, moment in shop.kling.queries if asked == kling_id]
            assert len(moments) > 5
            assert all(later - earlier >= ASK_APART for earlier, later in pairwise(moments))
        assert "task.succeed" not in await shop.types()


async def test_a_task_whose_id_would_read_as_two_is_asked_about_alone(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        await with_new_tasks(shop, 3)
        for odd in ("a,b", "x" * 65):
            made = shop.kling.made["k0"]
            shop.kling.made[odd] = made
            await shop.store.add(a_task(id=f"tsk_{odd}", endpoint=NEW[0], kling_id=odd, due_at=shop.clock.now()), b"{}")

        async with shop.working():
            await shop.settles()

        assert sorted(map(len, shop.kling.questions)) == [1, 1, 3]


@pytest.mark.parametrize("unknown", [0, 3])
async def test_over_http_two_hundred_silent_tasks_are_ten_requests_and_what_kling_forgot_a_few_more(
    tmp_path: Path, unknown: int
) -> None:
    async with a_shop_with_simulator(tmp_path, submitted_for="0s", processing_for="0s") as (shop, simulator):
        soon = shop.clock.now() + timedelta(seconds=10)
        for number in range(200):
            endpoint, name = NEW[number % 2], f"tsk_{number:03}"
            answer = await shop.kling.create(endpoint, A_JOB)
            assert answer.reading is not None, answer.error
            kling_id = f"forgotten{number}" if number < unknown else answer.reading.kling_id
            given = {"id": name, "external_task_id": name, "kling_id": kling_id, "endpoint": endpoint, "due_at": soon}
            await shop.store.add(a_task(**given), b"{}")
        await until(lambda: {task["status"] for task in simulator.state()["tasks"]} == {"succeed"})
        shop.bells.tasks.ring()
        await shop.settles()

        await shop.passes(10, step=10)

        assert 0 <= simulator.state()["counts"]["queries"] - (200 / TOGETHER + 2 * unknown) <= unknown
        assert Counter(await shop.types()) == {"task.succeed": 200 - unknown}
        [push] = await shop.store.pushes("tsk_199")
        assert json.loads(push.body)["id"] == (await shop.task("tsk_199")).kling_id
