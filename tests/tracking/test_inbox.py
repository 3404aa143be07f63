"""Whoever knows a callback URL can make us ask, and nothing else: no forged word is acted on, none starves another."""

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.soak_report import RecordCounts
from harness.task_system import ENDPOINT, IMAGES, KlingTask, TaskSystem, a_task_system, refusal

from receiver.domain.errors import TooManyPending
from receiver.domain.model import Task, TaskState
from receiver.settings import CallbackSettings, KlingSettings, SlotSettings, Verify
from receiver.tasks import poll_schedule
from receiver.tasks.lifecycle import CALLBACK_GRACE
from receiver.tracking import confirmations
from receiver.tracking.inbox import MAX_REDUNDANT_PUSHES

FORGED = env_int("FORGED", 1000)
NO_VERIFICATION = CallbackSettings(verify=Verify.NEVER)


async def a_running_task(system: TaskSystem, status: str = "processing") -> tuple[Task, KlingTask]:
    """A task that Kling is at work on, and says so when asked."""
    task = await system.submit()
    kling_task = system.kling.tasks[(await system.task(task.id)).kling_id or ""]
    kling_task.status = status
    return task, kling_task


def a_forged_body(rng: Random, kling_task: KlingTask) -> bytes:
    """What somebody who found the URL may post."""
    word = rng.choice(["succeed", "failed", "succeeded", "SUCCESS", "completed", "error", "processing", "simmering"])
    body: dict[str, object] = {
        "task_id": rng.choice([kling_task.id, kling_task.id, f"k{rng.randrange(10**9)}"]),
        "task_status": word,
        "task_status_msg": rng.choice(["", "out of luck"]),
        "task_result": {"images": [{"index": 0, "url": f"https://evil.example/{rng.random()}"}]},
    }
    if rng.random() < 0.5:
        body["task_info"] = {"external_task_id": rng.choice([kling_task.external_task_id, "another"])}
    if rng.random() < 0.2:
        body = {"code": 0, "data": body}
    return json.dumps(body).encode()


@pytest.mark.soak("forged callbacks with a leaked URL", minutes=2)
@pytest.mark.timeout(120 + FORGED // 10)
async def test_a_thousand_forged_pushes_start_no_route_and_cost_a_question_every_five_seconds(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, forged=FORGED)
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        begun = system.clock.now()
        for number in range(FORGED):
            assert await system.push(kling_task.token, a_forged_body(rng, kling_task))
            if number % 20 == 0:
                await system.advance(1)

        moments = [moment for asked, moment in system.kling.queries if asked == kling_task.id]
        record_counts(questions_asked=len(moments), events_started=len(await system.event_types()) - 1)
        took = system.clock.now() - begun
        assert len(moments) <= took / poll_schedule.MIN_POLL_GAP + 1
        assert all(later - earlier >= poll_schedule.MIN_POLL_GAP for earlier, later in pairwise(moments))
        assert {asked for asked, _ in system.kling.queries} == {kling_task.id}
        assert await system.event_types() == ["task.processing"]

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(6)

        page = await system.store.events(types=["task.succeed"])
        data = json.loads(page.items[0].envelope)["data"]
        assert (data["verified"], data["result"]) == ("api", IMAGES)
        assert b"evil" not in page.items[0].body
        assert (await system.task(task.id)).redundant_push_count >= FORGED - 5


async def test_of_forged_bodies_the_newest_are_kept_and_the_rest_are_counted(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for _ in range(300):
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed"))

        kept = await system.store.pushes(task.id)
        assert MAX_REDUNDANT_PUSHES <= len(kept) < MAX_REDUNDANT_PUSHES + 10
        assert (await system.task(task.id)).redundant_push_count == 300


async def test_a_flood_for_one_task_starves_no_other(tmp_path: Path) -> None:
    rng = Random(7)
    async with a_task_system(tmp_path) as system, system.running():
        _, flooded = await a_running_task(system)
        others = [await a_running_task(system) for _ in range(20)]
        for _, kling_task in others:
            body = system.kling.finish_task(kling_task)
            for _ in range(20):
                await system.push(flooded.token, a_forged_body(rng, flooded))
            await system.push(kling_task.token, body)
        await system.advance(1)

        assert {(await system.task(task.id)).state for task, _ in others} == {TaskState.SUCCEED}


async def test_polls_that_say_nothing_new_are_bounded_too(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, _ = await a_running_task(system)

        await system.advance(40 * 3600, step=300)

        assert len(await system.store.pushes(task.id)) <= MAX_REDUNDANT_PUSHES + 10 + 1


# -- tokens


@pytest.mark.parametrize("status", ["succeed", "failed"])
async def test_a_callback_url_outlives_its_tasks_end_by_its_grace(tmp_path: Path, status: str) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_running_task(system)
        body = system.kling.finish_task(kling_task, status)
        await system.push(kling_task.token, body)
        await system.settle()

        system.clock.advance(CALLBACK_GRACE - timedelta(seconds=1))
        assert await system.push(kling_task.token, body)
        system.clock.advance(timedelta(seconds=1))
        assert not await system.push(kling_task.token, body)


async def a_refused_task(system: TaskSystem) -> tuple[Task, KlingTask]:
    """A task that Kling refused for good, and what would be said of it had it been made."""
    system.kling.create_faults, system.kling.create_despite_fault = [refusal(400, 1201)], True
    task = await system.submit()
    return task, system.kling.tasks.popitem()[1]


async def test_a_refused_tasks_callback_url_outlives_it_by_its_grace(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_refused_task(system)

        system.clock.advance(CALLBACK_GRACE - timedelta(seconds=1))
        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(seconds=1))
        assert not await system.push(kling_task.token, kling_task.status_body())


@pytest.mark.parametrize("body", [b'{"task_status":"processing"}', None], ids=["nameless", "named"])
async def test_an_unsigned_push_revives_no_task_that_kling_refused_and_takes_no_slot(
    tmp_path: Path, body: bytes | None
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_refused_task(system)

        assert await system.push(kling_task.token, body or kling_task.status_body(task_status="processing"))
        assert await system.store.slots_in_use() == {}
        await system.advance(24 * 3600, step=900)

        refused = await system.task(task.id)
        assert (refused.state, refused.due_at) == (TaskState.REJECTED, None)
        assert await system.push_outcomes(task.id) == ["forged"]
        assert await system.event_types() == ["task.rejected"]
        assert len(system.kling.queries) <= 2


async def test_a_callback_url_lasts_no_longer_than_it_was_made_for(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=CallbackSettings(expire_after=timedelta(hours=1))) as system:
        _, kling_task = await a_running_task(system)

        system.clock.advance(timedelta(minutes=59))
        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(minutes=1))
        assert not await system.push(kling_task.token, kling_task.status_body())


async def test_a_callback_url_lasts_from_when_its_job_is_sent_not_from_when_it_was_handed_in(tmp_path: Path) -> None:
    hour = CallbackSettings(expire_after=timedelta(hours=1))
    one_slot = KlingSettings(slots=SlotSettings(image=1))
    async with a_task_system(tmp_path, callbacks=hour, kling_settings=one_slot) as system, system.running():
        _, first = await a_running_task(system)
        waiting = await system.submit()
        await system.advance(2 * 3600, step=600)
        system.kling.finish_task(first)
        await system.advance(600, step=60)
        kling_task = system.kling.tasks[(await system.task(waiting.id)).kling_id or ""]

        assert await system.push(kling_task.token, kling_task.status_body())
        system.clock.advance(timedelta(hours=1))
        assert not await system.push(kling_task.token, kling_task.status_body())


# -- minted URLs


async def a_callback_url_task(
    system: TaskSystem, endpoint: str | None = ENDPOINT, **more: str | None
) -> tuple[Task, KlingTask]:
    """A minted URL, and the task at Kling that was made with it elsewhere."""
    task, url = await system.submitter.create_callback_url(endpoint=endpoint)
    kling_task = KlingTask(
        id="true", external_task_id=more.get("external_task_id"), callback_url=url, status="processing"
    )
    system.kling.tasks[kling_task.id] = kling_task
    return task, kling_task


async def test_a_forged_first_push_binds_no_id(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)

        await system.push(kling_task.token, kling_task.status_body(task_id="forged", task_status="succeed"))
        await system.settle()
        assert (await system.task(task.id)).state is TaskState.AWAITING
        assert (await system.task(task.id)).kling_id is None
        assert await system.push_outcomes(task.id) == ["forged"]

        await system.push(kling_task.token, kling_task.status_body())
        await system.advance(6)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(6)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert await system.event_types() == ["task.processing", "task.succeed"]


@pytest.mark.parametrize("forgeries", [1, 30])
async def test_among_many_that_name_an_id_the_one_that_kling_confirms_is_found(tmp_path: Path, forgeries: int) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        for number in range(forgeries):
            await system.push(
                kling_task.token, kling_task.status_body(task_id=f"forged{number}", task_status="succeed")
            )
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        await system.advance(5 * (forgeries + 2), step=5)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert Counter(await system.push_outcomes(task.id))["applied"] == 1
        assert await system.event_types() == ["task.succeed"]


async def push_many(system: TaskSystem, kling_task: KlingTask, count: int, *, start: int = 0) -> int:
    """Have many claims come that name ids of nobody; tell how many were refused."""
    refused = 0
    for name in range(start, start + count):
        try:
            assert await system.push(
                kling_task.token, kling_task.status_body(task_id=f"forged{name}", task_status="succeed")
            )
        except TooManyPending:
            refused += 1
    return refused


async def test_no_flood_makes_a_claim_forgotten_that_was_acknowledged_or_keeps_it_from_its_turn(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        assert await push_many(system, kling_task, 30) == 0
        body = system.kling.finish_task(kling_task)
        assert await system.push(kling_task.token, body)
        refused = await push_many(system, kling_task, 200, start=30)
        for second in range(40):
            await system.advance(5, step=5)
            refused += await push_many(system, kling_task, 3, start=300 + 3 * second)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert refused >= 150
        page = await system.store.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]
        assert Counter(Counter(asked for asked, _ in system.kling.queries if asked != "true").values()).keys() == {1}


async def test_a_claim_that_is_refused_has_a_place_again_when_another_was_asked_about(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_callback_url_task(system)
        await push_many(system, kling_task, confirmations.MAX_PENDING + 1)  # of the first Kling is asked at once
        body = system.kling.finish_task(kling_task)
        with pytest.raises(TooManyPending):
            await system.push(kling_task.token, body)

        await system.advance(6)

        assert await system.push(kling_task.token, body)


async def test_a_claim_that_nothing_is_said_of_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = lambda asked: refusal(500, 5000) if asked.startswith("forged") else None
        await push_many(system, kling_task, 3)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        await system.advance(300, step=5)

        assert (await system.task(task.id)).kling_id == "true"


async def test_of_many_pushes_that_say_the_same_the_newest_waits(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for url in ("a", "b", "b"):
            result = {"images": [{"index": 0, "url": f"https://cdn.example.com/{url}"}]}
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed", task_result=result))

        assert await system.push_outcomes(task.id) == ["pending", "duplicate", "pending"]


async def test_however_many_lies_wait_about_a_task_that_is_known_the_true_push_is_taken(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for lie in range(2 * confirmations.MAX_PENDING):
            await system.push(
                kling_task.token, kling_task.status_body(task_status="succeed", task_status_msg=f"lie {lie}")
            )
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        assert 0 < Counter(await system.push_outcomes(task.id))["pending"] <= confirmations.MAX_PENDING


async def test_what_goes_out_is_never_the_body_of_a_push_that_names_another_id(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = lambda asked: refusal(404, 1203) if asked == "forged" else None
        body = system.kling.finish_task(kling_task)
        await system.push(kling_task.token, kling_task.status_body(task_id="forged"))
        await system.push(kling_task.token, body)

        await system.advance(15, step=5)

        page = await system.store.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]


async def test_an_endpoint_nobody_knows_binds_the_first_push_and_vouches_for_nothing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system, endpoint=None)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        page = await system.store.events(task_id=task.id)
        assert [event.verified for event in page.items] == ["none"]
        assert (await system.task(task.id)).kling_id == "true"


async def test_trusting_the_token_alone_binds_the_first_push_at_once(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=NO_VERIFICATION) as system:
        task, kling_task = await a_callback_url_task(system)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        assert (await system.task(task.id)).state is TaskState.SUCCEED


async def test_claims_that_kling_cannot_be_asked_about_wait_and_are_confirmed_later(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = refusal(503, 5001)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(3600, step=20)
        assert (await system.task(task.id)).state is TaskState.AWAITING

        system.kling.query_fault = None
        await system.advance(60, step=5)

        assert (await system.task(task.id)).state is TaskState.SUCCEED


async def test_through_a_gateway_with_ids_of_its_own_our_external_id_says_that_a_callback_belongs(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        body = system.kling.finish_task(kling_task)

        await system.push(kling_task.token, kling_task.status_body(task_id="klings-own"))
        await system.settle()

        assert body
        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert await system.push_outcomes(task.id) == ["applied", "duplicate"]


async def test_a_push_about_another_task_makes_us_ask_and_nothing_more(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=NO_VERIFICATION) as system, system.running():
        task, kling_task = await a_running_task(system)

        await system.push(
            kling_task.token, kling_task.status_body(task_id="other", task_info={}, task_status="succeed")
        )
        await system.settle()

        assert (await system.task(task.id)).state is TaskState.PROCESSING
        assert (await system.push_outcomes(task.id))[0] == "mismatch"
        assert system.kling.queries[-1][0] == kling_task.id


async def test_an_answer_about_another_task_changes_nothing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system, "submitted")
        stranger = KlingTask(id=kling_task.id, external_task_id="another", callback_url=None)
        system.kling.finish_task(stranger)
        system.kling.tasks[kling_task.id] = stranger

        await system.advance(31)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert await system.push_outcomes(task.id) == ["mismatch"]


# -- contradictions and empty results


@pytest.mark.parametrize("verify", Verify)
async def test_a_contradiction_of_the_end_is_asked_about_and_flagged_once(tmp_path: Path, verify: Verify) -> None:
    async with a_task_system(tmp_path, callbacks=CallbackSettings(verify=verify)) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()
        asked = len(system.kling.queries)

        for _ in range(3):
            await system.push(kling_task.token, system.kling.finish_task(kling_task, "failed"))
            await system.advance(10, step=5)

        assert len(system.kling.queries) > asked
        (alert,) = await system.alerts("task_contradicted")
        assert (alert["task"]["id"], alert["state"]) == (task.id, "succeed")
        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert Counter(await system.event_types())["task.failed"] == 0


async def test_a_forged_contradiction_is_no_alarm(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        await system.push(kling_task.token, kling_task.status_body(task_status="failed"))
        await system.advance(6)

        assert await system.alerts("task_contradicted") == []
        assert (await system.push_outcomes(task.id))[-2:] == ["forged", "duplicate"]


async def test_a_succeed_without_a_result_is_asked_about_a_few_times_and_then_taken(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.advance(300, step=10)
        asked = len(system.kling.queries)

        await system.push(kling_task.token, system.kling.finish_task(kling_task, result={}))
        await system.advance(70, step=5)
        assert (await system.task(task.id)).state is TaskState.PROCESSING
        await system.advance(120, step=5)

        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert len(system.kling.queries) - asked == poll_schedule.EMPTY_RESULT_RETRIES
        await system.advance(3600, step=300)
        assert len(system.kling.queries) - asked == poll_schedule.EMPTY_RESULT_RETRIES


async def test_a_result_that_comes_after_the_succeed_goes_out_with_it(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task, result={}))
        await system.advance(3)

        system.kling.finish_task(kling_task)
        await system.advance(20)

        page = await system.store.events(task_id=task.id, types=["task.succeed"])
        assert json.loads(page.items[0].envelope)["data"]["result"] == IMAGES
        assert "forged" not in await system.push_outcomes(task.id)
