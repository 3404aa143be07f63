"""Whoever knows a callback URL can make us ask, and nothing else: no forged word is acted on, none starves another."""

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import fresh_seed, number
from harness.soak_report import Tell
from harness.task_system import ENDPOINT, IMAGES, Made, Workshop, a_workshop, refusal

from receiver.domain.errors import Crowded
from receiver.domain.model import Task, TaskState
from receiver.settings import CallbackSettings, KlingSettings, SlotSettings, Verify
from receiver.tasks import poll_schedule
from receiver.tasks.lifecycle import GRACE
from receiver.tracking import confirmations
from receiver.tracking.inbox import KEPT_PUSHES

FORGED = number("FORGED", 1000)
NEVER = CallbackSettings(verify=Verify.NEVER)


async def a_running_task(shop: Workshop, status: str = "processing") -> tuple[Task, Made]:
    """A task that Kling is at work on, and says so when asked."""
    task = await shop.submit()
    made = shop.kling.made[(await shop.task(task.id)).kling_id or ""]
    made.status = status
    return task, made


def forgery(rng: Random, made: Made) -> bytes:
    """What somebody who found the URL may post."""
    word = rng.choice(["succeed", "failed", "succeeded", "SUCCESS", "completed", "error", "processing", "simmering"])
    body: dict[str, object] = {
        "task_id": rng.choice([made.id, made.id, f"k{rng.randrange(10**9)}"]),
        "task_status": word,
        "task_status_msg": rng.choice(["", "out of luck"]),
        "task_result": {"images": [{"index": 0, "url": f"https://evil.example/{rng.random()}"}]},
    }
    if rng.random() < 0.5:
        body["task_info"] = {"external_task_id": rng.choice([made.external_task_id, "another"])}
    if rng.random() < 0.2:
        body = {"code": 0, "data": body}
    return json.dumps(body).encode()


@pytest.mark.soak("forged callbacks with a leaked URL", minutes=2)
@pytest.mark.timeout(120 + FORGED // 10)
async def test_a_thousand_forged_pushes_start_no_route_and_cost_a_question_every_five_seconds(
    tmp_path: Path, tell: Tell
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    tell(seed=seed, forged=FORGED)
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop)
        begun = shop.clock.now()
        for number in range(FORGED):
            assert await shop.push(made.token, forgery(rng, made))
            if number % 20 == 0:
                await shop.passes(1)

        moments = [moment for asked, moment in shop.kling.queries if asked == made.id]
        tell(questions_asked=len(moments), events_started=len(await shop.types()) - 1)
        took = shop.clock.now() - begun
        assert len(moments) <= took / poll_schedule.ASK_APART + 1
        assert all(later - earlier >= poll_schedule.ASK_APART for earlier, later in pairwise(moments))
        assert {asked for asked, _ in shop.kling.queries} == {made.id}
        assert await shop.types() == ["task.processing"]

        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(6)

        page = await shop.store.events(types=["task.succeed"])
        data = json.loads(page.items[0].envelope)["data"]
        assert (data["verified"], data["result"]) == ("api", IMAGES)
        assert b"evil" not in page.items[0].body
        assert (await shop.task(task.id)).surplus >= FORGED - 5


async def test_of_forged_bodies_the_newest_are_kept_and_the_rest_are_counted(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        task, made = await a_running_task(shop)

        for _ in range(300):
            await shop.push(made.token, made.told(task_status="succeed"))

        kept = await shop.store.pushes(task.id)
        assert KEPT_PUSHES <= len(kept) < KEPT_PUSHES + 10
        assert (await shop.task(task.id)).surplus == 300


async def test_a_flood_for_one_task_starves_no_other(tmp_path: Path) -> None:
    rng = Random(7)
    async with a_workshop(tmp_path) as shop, shop.working():
        _, flooded = await a_running_task(shop)
        others = [await a_running_task(shop) for _ in range(20)]
        for _, made in others:
            body = shop.kling.end(made)
            for _ in range(20):
                await shop.push(flooded.token, forgery(rng, flooded))
            await shop.push(made.token, body)
        await shop.passes(1)

        assert {(await shop.task(task.id)).state for task, _ in others} == {TaskState.SUCCEED}


async def test_polls_that_say_nothing_new_are_bounded_too(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, _ = await a_running_task(shop)

        await shop.passes(40 * 3600, step=300)

        assert len(await shop.store.pushes(task.id)) <= KEPT_PUSHES + 10 + 1


# -- tokens


@pytest.mark.parametrize("status", ["succeed", "failed"])
async def test_a_callback_url_outlives_its_tasks_end_by_its_grace(tmp_path: Path, status: str) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        _, made = await a_running_task(shop)
        body = shop.kling.end(made, status)
        await shop.push(made.token, body)
        await shop.settles()

        shop.clock.advance(GRACE - timedelta(seconds=1))
        assert await shop.push(made.token, body)
        shop.clock.advance(timedelta(seconds=1))
        assert not await shop.push(made.token, body)


async def a_refused_task(shop: Workshop) -> tuple[Task, Made]:
    """A task that Kling refused for good, and what would be said of it had it been made."""
    shop.kling.create_faults, shop.kling.makes_anyway = [refusal(400, 1201)], True
    task = await shop.submit()
    return task, shop.kling.made.popitem()[1]


async def test_a_refused_tasks_callback_url_outlives_it_by_its_grace(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        _, made = await a_refused_task(shop)

        shop.clock.advance(GRACE - timedelta(seconds=1))
        assert await shop.push(made.token, made.told())
        shop.clock.advance(timedelta(seconds=1))
        assert not await shop.push(made.token, made.told())


@pytest.mark.parametrize("body", [b'{"task_status":"processing"}', None], ids=["nameless", "named"])
async def test_an_unsigned_push_revives_no_task_that_kling_refused_and_takes_no_slot(
    tmp_path: Path, body: bytes | None
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_refused_task(shop)

        assert await shop.push(made.token, body or made.told(task_status="processing"))
        assert await shop.store.occupancy() == {}
        await shop.passes(24 * 3600, step=900)

        refused = await shop.task(task.id)
        assert (refused.state, refused.due_at) == (TaskState.REJECTED, None)
        assert await shop.outcomes_of(task.id) == ["forged"]
        assert await shop.types() == ["task.rejected"]
        assert len(shop.kling.queries) <= 2


async def test_a_callback_url_lasts_no_longer_than_it_was_made_for(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=CallbackSettings(expire_after=timedelta(hours=1))) as shop:
        _, made = await a_running_task(shop)

        shop.clock.advance(timedelta(minutes=59))
        assert await shop.push(made.token, made.told())
        shop.clock.advance(timedelta(minutes=1))
        assert not await shop.push(made.token, made.told())


async def test_a_callback_url_lasts_from_when_its_job_is_sent_not_from_when_it_was_handed_in(tmp_path: Path) -> None:
    hour = CallbackSettings(expire_after=timedelta(hours=1))
    one_slot = KlingSettings(slots=SlotSettings(image=1))
    async with a_workshop(tmp_path, callbacks=hour, kling_settings=one_slot) as shop, shop.working():
        _, first = await a_running_task(shop)
        waiting = await shop.submit()
        await shop.passes(2 * 3600, step=600)
        shop.kling.end(first)
        await shop.passes(600, step=60)
        made = shop.kling.made[(await shop.task(waiting.id)).kling_id or ""]

        assert await shop.push(made.token, made.told())
        shop.clock.advance(timedelta(hours=1))
        assert not await shop.push(made.token, made.told())


# -- minted URLs


async def a_minted(shop: Workshop, endpoint: str | None = ENDPOINT, **more: str | None) -> tuple[Task, Made]:
    """A minted URL, and the task at Kling that was made with it elsewhere."""
    task, url = await shop.submitter.mint(endpoint=endpoint)
    made = Made(id="true", external_task_id=more.get("external_task_id"), callback_url=url, status="processing")
    shop.kling.made[made.id] = made
    return task, made


async def test_a_forged_first_push_binds_no_id(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)

        await shop.push(made.token, made.told(task_id="forged", task_status="succeed"))
        await shop.settles()
        assert (await shop.task(task.id)).state is TaskState.AWAITING
        assert (await shop.task(task.id)).kling_id is None
        assert await shop.outcomes_of(task.id) == ["forged"]

        await shop.push(made.token, made.told())
        await shop.passes(6)
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(6)

        ended = await shop.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert await shop.types() == ["task.processing", "task.succeed"]


@pytest.mark.parametrize("forgeries", [1, 30])
async def test_among_many_that_name_an_id_the_one_that_kling_confirms_is_found(tmp_path: Path, forgeries: int) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)
        for number in range(forgeries):
            await shop.push(made.token, made.told(task_id=f"forged{number}", task_status="succeed"))
        await shop.push(made.token, shop.kling.end(made))

        await shop.passes(5 * (forgeries + 2), step=5)

        ended = await shop.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert Counter(await shop.outcomes_of(task.id))["settled"] == 1
        assert await shop.types() == ["task.succeed"]


async def push_many(shop: Workshop, made: Made, count: int, *, start: int = 0) -> int:
    """Have many claims come that name ids of nobody; tell how many were refused."""
    refused = 0
    for name in range(start, start + count):
        try:
            assert await shop.push(made.token, made.told(task_id=f"forged{name}", task_status="succeed"))
        except Crowded:
            refused += 1
    return refused


async def test_no_flood_makes_a_claim_forgotten_that_was_acknowledged_or_keeps_it_from_its_turn(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)
        assert await push_many(shop, made, 30) == 0
        body = shop.kling.end(made)
        assert await shop.push(made.token, body)
        refused = await push_many(shop, made, 200, start=30)
        for second in range(40):
            await shop.passes(5, step=5)
            refused += await push_many(shop, made, 3, start=300 + 3 * second)

        ended = await shop.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert refused >= 150
        page = await shop.store.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]
        assert Counter(Counter(asked for asked, _ in shop.kling.queries if asked != "true").values()).keys() == {1}


async def test_a_claim_that_is_refused_has_a_place_again_when_another_was_asked_about(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        _, made = await a_minted(shop)
        await push_many(shop, made, confirmations.MOST + 1)  # of the first Kling is asked at once
        body = shop.kling.end(made)
        with pytest.raises(Crowded):
            await shop.push(made.token, body)

        await shop.passes(6)

        assert await shop.push(made.token, body)


async def test_a_claim_that_nothing_is_said_of_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)
        shop.kling.query_fault = lambda asked: refusal(500, 5000) if asked.startswith("forged") else None
        await push_many(shop, made, 3)
        await shop.push(made.token, shop.kling.end(made))

        await shop.passes(300, step=5)

        assert (await shop.task(task.id)).kling_id == "true"


async def test_of_many_pushes_that_say_the_same_the_newest_waits(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        task, made = await a_running_task(shop)

        for url in ("a", "b", "b"):
            result = {"images": [{"index": 0, "url": f"https://cdn.example.com/{url}"}]}
            await shop.push(made.token, made.told(task_status="succeed", task_result=result))

        assert await shop.outcomes_of(task.id) == ["pending", "duplicate", "pending"]


async def test_however_many_lies_wait_about_a_task_that_is_known_the_true_push_is_taken(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        task, made = await a_running_task(shop)

        for lie in range(2 * confirmations.MOST):
            await shop.push(made.token, made.told(task_status="succeed", task_status_msg=f"lie {lie}"))
        await shop.push(made.token, shop.kling.end(made))

        assert 0 < Counter(await shop.outcomes_of(task.id))["pending"] <= confirmations.MOST


async def test_what_goes_out_is_never_the_body_of_a_push_that_names_another_id(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)
        shop.kling.query_fault = lambda asked: refusal(404, 1203) if asked == "forged" else None
        body = shop.kling.end(made)
        await shop.push(made.token, made.told(task_id="forged"))
        await shop.push(made.token, body)

        await shop.passes(15, step=5)

        page = await shop.store.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]


async def test_an_endpoint_nobody_knows_binds_the_first_push_and_vouches_for_nothing(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop, endpoint=None)

        await shop.push(made.token, shop.kling.end(made))

        page = await shop.store.events(task_id=task.id)
        assert [event.verified for event in page.items] == ["none"]
        assert (await shop.task(task.id)).kling_id == "true"


async def test_trusting_the_token_alone_binds_the_first_push_at_once(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=NEVER) as shop:
        task, made = await a_minted(shop)

        await shop.push(made.token, shop.kling.end(made))

        assert (await shop.task(task.id)).state is TaskState.SUCCEED


async def test_claims_that_kling_cannot_be_asked_about_wait_and_are_confirmed_later(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_minted(shop)
        shop.kling.query_fault = refusal(503, 5001)
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(3600, step=20)
        assert (await shop.task(task.id)).state is TaskState.AWAITING

        shop.kling.query_fault = None
        await shop.passes(60, step=5)

        assert (await shop.task(task.id)).state is TaskState.SUCCEED


async def test_through_a_gateway_with_ids_of_its_own_our_external_id_says_that_a_callback_belongs(
    tmp_path: Path,
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop)
        body = shop.kling.end(made)

        await shop.push(made.token, made.told(task_id="klings-own"))
        await shop.settles()

        assert body
        assert (await shop.task(task.id)).state is TaskState.SUCCEED
        assert await shop.outcomes_of(task.id) == ["settled", "duplicate"]


async def test_a_push_about_another_task_makes_us_ask_and_nothing_more(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=NEVER) as shop, shop.working():
        task, made = await a_running_task(shop)

        await shop.push(made.token, made.told(task_id="other", task_info={}, task_status="succeed"))
        await shop.settles()

        assert (await shop.task(task.id)).state is TaskState.PROCESSING
        assert (await shop.outcomes_of(task.id))[0] == "mismatch"
        assert shop.kling.queries[-1][0] == made.id


async def test_an_answer_about_another_task_changes_nothing(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop, "submitted")
        stranger = Made(id=made.id, external_task_id="another", callback_url=None)
        shop.kling.end(stranger)
        shop.kling.made[made.id] = stranger

        await shop.passes(31)

        assert (await shop.task(task.id)).state is TaskState.SUBMITTED
        assert await shop.outcomes_of(task.id) == ["mismatch"]


# -- contradictions and empty results


@pytest.mark.parametrize("verify", Verify)
async def test_a_contradiction_of_the_end_is_asked_about_and_flagged_once(tmp_path: Path, verify: Verify) -> None:
    async with a_workshop(tmp_path, callbacks=CallbackSettings(verify=verify)) as shop, shop.working():
        task, made = await a_running_task(shop)
        await shop.push(made.token, shop.kling.end(made))
        await shop.settles()
        asked = len(shop.kling.queries)

        for _ in range(3):
            await shop.push(made.token, shop.kling.end(made, "failed"))
            await shop.passes(10, step=5)

        assert len(shop.kling.queries) > asked
        (alert,) = await shop.alerts("task_contradicted")
        assert (alert["task"]["id"], alert["state"]) == (task.id, "succeed")
        assert (await shop.task(task.id)).state is TaskState.SUCCEED
        assert Counter(await shop.types())["task.failed"] == 0


async def test_a_forged_contradiction_is_no_alarm(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop)
        await shop.push(made.token, shop.kling.end(made))
        await shop.settles()

        await shop.push(made.token, made.told(task_status="failed"))
        await shop.passes(6)

        assert await shop.alerts("task_contradicted") == []
        assert (await shop.outcomes_of(task.id))[-2:] == ["forged", "duplicate"]


async def test_a_succeed_without_a_result_is_asked_about_a_few_times_and_then_taken(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop)
        await shop.passes(300, step=10)
        asked = len(shop.kling.queries)

        await shop.push(made.token, shop.kling.end(made, result={}))
        await shop.passes(70, step=5)
        assert (await shop.task(task.id)).state is TaskState.PROCESSING
        await shop.passes(120, step=5)

        assert (await shop.task(task.id)).state is TaskState.SUCCEED
        assert len(shop.kling.queries) - asked == poll_schedule.HOLLOW_ASKS
        await shop.passes(3600, step=300)
        assert len(shop.kling.queries) - asked == poll_schedule.HOLLOW_ASKS


async def test_a_result_that_comes_after_the_succeed_goes_out_with_it(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task, made = await a_running_task(shop)
        await shop.push(made.token, shop.kling.end(made, result={}))
        await shop.passes(3)

        shop.kling.end(made)
        await shop.passes(20)

        page = await shop.store.events(task_id=task.id, types=["task.succeed"])
        assert json.loads(page.items[0].envelope)["data"]["result"] == IMAGES
        assert "forged" not in await shop.outcomes_of(task.id)
