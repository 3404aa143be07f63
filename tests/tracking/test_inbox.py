"""A leaked callback URL permits polls and nothing else: forged pushes have no effect and starve no other task."""

import json
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.fake_kling import IMAGES, KlingTask
from harness.soak_report import RecordCounts
from harness.submitted_tasks import a_running_task
from harness.task_system import a_task_system

from receiver.domain.errors import TooManyPending
from receiver.domain.model import Json, TaskState
from receiver.settings import CallbackSettings, Verify
from receiver.tasks import lifecycle, poll_schedule
from receiver.tracking.redundant_push_limit import MAX_REDUNDANT_PUSHES

FORGED = env_int("FORGED", 1000)
NO_VERIFICATION = CallbackSettings(verify=Verify.NEVER)


def a_forged_body(rng: Random, kling_task: KlingTask) -> bytes:
    """What a client that found the URL may post."""
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
async def test_forged_pushes_reach_no_route_and_cost_a_poll_every_five_seconds(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, forged=FORGED)
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        begun, refused = system.clock.now(), 0
        for number in range(FORGED):
            with suppress(TooManyPending):
                refused += 1
                assert await system.push(kling_task.token, a_forged_body(rng, kling_task))
                refused -= 1
            if number % 20 == 0:
                await system.advance(1)

        moments = [moment for kling_id, moment in system.kling.queries if kling_id == kling_task.id]
        record_counts(questions_asked=len(moments), events_started=len(await system.event_types()) - 1)
        assert refused < FORGED / 2
        took = system.clock.now() - begun
        assert len(moments) <= took / poll_schedule.MIN_POLL_GAP + 1
        assert all(later - earlier >= poll_schedule.MIN_POLL_GAP for earlier, later in pairwise(moments))
        assert {kling_id for kling_id, _ in system.kling.queries} == {kling_task.id}
        assert await system.event_types() == ["task.processing"]

        with suppress(TooManyPending):  # then a poll finds the end
            await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(6)

        page = await system.store.catalog.events(types=["task.succeed"])
        data = json.loads(page.items[0].envelope)["data"]
        assert (data["verified"], data["result"]) == ("api", IMAGES)
        assert b"evil" not in page.items[0].body
        assert (await system.task(task.id)).redundant_push_count >= FORGED - refused - 5


async def test_the_newest_forged_pushes_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for _ in range(300):
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed"))

        kept = await system.store.catalog.pushes(task.id)
        assert MAX_REDUNDANT_PUSHES <= len(kept) < MAX_REDUNDANT_PUSHES + 10
        assert (await system.task(task.id)).redundant_push_count == 300


async def test_a_flood_of_pushes_for_one_task_delays_no_other(tmp_path: Path) -> None:
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


async def test_stored_polls_without_a_change_are_limited(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, _ = await a_running_task(system)

        await system.advance(40 * 3600, step=300)

        assert len(await system.store.catalog.pushes(task.id)) <= MAX_REDUNDANT_PUSHES + 10 + 1


async def test_the_external_id_matches_a_callback_with_a_gateways_id(
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


async def test_a_push_about_another_task_only_causes_a_poll(tmp_path: Path) -> None:
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
async def test_a_contradicted_end_is_polled_and_raises_one_alert(tmp_path: Path, verify: Verify) -> None:
    async with a_task_system(tmp_path, callbacks=CallbackSettings(verify=verify)) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()
        poll_count = len(system.kling.queries)

        for _ in range(3):
            await system.push(kling_task.token, system.kling.finish_task(kling_task, "failed"))
            await system.advance(10, step=5)

        assert len(system.kling.queries) > poll_count
        (alert,) = await system.alerts("task_contradicted")
        assert (alert["task"]["id"], alert["state"]) == (task.id, "succeed")
        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert Counter(await system.event_types())["task.failed"] == 0


async def test_a_forged_contradiction_raises_no_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        await system.push(kling_task.token, kling_task.status_body(task_status="failed"))
        await system.advance(6)

        assert await system.alerts("task_contradicted") == []
        assert (await system.push_outcomes(task.id))[-2:] == ["forged", "duplicate"]


@pytest.mark.parametrize(
    "result", [{}, {"images": [{"index": 0, "url": None}]}, {"videos": [{"id": "1", "duration": "5"}]}]
)
async def test_a_success_without_a_result_is_polled_again_before_it_counts(tmp_path: Path, result: Json) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.advance(300, step=10)
        poll_count = len(system.kling.queries)

        await system.push(kling_task.token, system.kling.finish_task(kling_task, result=result))
        await system.advance(70, step=5)
        assert (await system.task(task.id)).state is TaskState.PROCESSING
        await system.advance(120, step=5)

        ended = await system.task(task.id)
        assert (ended.state, ended.message) == (TaskState.SUCCEED, lifecycle.NO_RESULT)
        assert len(system.kling.queries) - poll_count == 5
        await system.advance(3600, step=300)
        assert len(system.kling.queries) - poll_count == 5


async def test_a_result_that_follows_a_success_is_delivered_with_it(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_running_task(system)
        await system.push(kling_task.token, system.kling.finish_task(kling_task, result={}))
        await system.advance(3)

        system.kling.finish_task(kling_task)
        await system.advance(20)

        page = await system.store.catalog.events(task_id=task.id, types=["task.succeed"])
        assert json.loads(page.items[0].envelope)["data"]["result"] == IMAGES
        assert "forged" not in await system.push_outcomes(task.id)
