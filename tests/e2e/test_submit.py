"""Kling creates each submitted job once, within the slots, for every kind of answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import (
    ENDPOINT,
    JOB,
    a_config,
    a_kling,
    a_receiver,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

FAST_POLLING = '[poll]\nafter = "50ms"\nevery = "1s"\n'
BRIEFLY = 'timeout = "1s"'
"""How long a call to Kling may take; a lost answer is looked up soon after."""


async def test_jobs_beyond_the_slots_wait_for_a_free_slot(tmp_path: Path) -> None:
    slots = "slots = { image = 2 }"
    async with a_whole_service(tmp_path, kling_more=slots, slots="image=2", processing_for="1s") as (
        sink,
        kling,
        _,
        client,
    ):
        tasks = [await submit_task(client, body=JOB | {"n": 2}) for _ in range(3)]
        assert [task["state"] for task in tasks] == ["submitted", "queued", "queued"]

        await asyncio.gather(*(wait_for_state(client, task["id"], "succeed") for task in tasks))

        await wait_until(lambda: len(sink.bodies) == 3)
        assert [create["code"] for create in kling.state()["creates"]] == [0, 0, 0]


async def test_the_slot_limit_is_learned_from_1303(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, slots="image=1", processing_for="1s") as (sink, kling, _, client):
        tasks = [await submit_task(client) for _ in range(3)]
        assert {task["state"] for task in tasks} <= {"submitted", "processing", "queued"}
        assert tasks[2]["state"] == "queued"

        await asyncio.gather(*(wait_for_state(client, task["id"], "succeed") for task in tasks))

        await wait_until(lambda: len(sink.bodies) == 3)
        codes = [create["code"] for create in kling.state()["creates"]]
        assert codes.count(0) == 3
        assert 1303 in codes


async def test_1302_delays_the_next_create(tmp_path: Path) -> None:
    async with (
        a_kling(refuse="1302:2") as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        task = await submit_task(client)
        assert task["state"] == "queued"

        await wait_for_state(client, task["id"], "succeed")

        assert [create["code"] for create in kling.state()["creates"]] == [1302, 1302, 0]


async def test_a_job_refused_by_kling_is_rejected(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, route='on = ["rejected"]') as (sink, kling, _, client):
        answer = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB | {"prompt": "[unsafe]"}})

        assert answer.status_code == 422
        assert answer.json()["task"]["state"] == "rejected"
        await wait_until(lambda: len(sink.bodies) == 1)
        data = json.loads(sink.bodies[0])["data"]
        assert data["status"] == "rejected"
        assert data["message"]
        assert len(kling.state()["creates"]) == 1


async def test_an_idempotency_key_creates_one_task(tmp_path: Path) -> None:
    async with a_kling(late="always", late_by="200ms") as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        async with receiver.client() as client:
            at_once = [submit_task(client, idempotency_key="order-7") for _ in range(5)]
            tasks = await asyncio.gather(*at_once)
            await wait_for_state(client, tasks[0]["id"], "succeed")

        await receiver.restart()
        async with receiver.client() as client:
            tasks.append(await submit_task(client, idempotency_key="order-7"))

        assert len({task["id"] for task in tasks}) == 1
        assert tasks[-1]["state"] == "succeed"
        assert len(kling.state()["creates"]) == 1


async def test_callbacks_before_the_creates_answer_count(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, route='on = ["*"]', after_callback="always") as (sink, kling, _, client):
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        assert kling.state()["creates"][0]["answered_after_told"]
        assert ended["kling_id"] == kling.state()["tasks"][0]["id"]
        await wait_until(lambda: sorted(sink.types) == ["task.processing", "task.succeed"])


async def test_callbacks_find_their_task_through_a_gateway_with_its_own_ids(tmp_path: Path) -> None:
    async with a_whole_service(
        tmp_path, kling_path="/kling", gateway_ids="always", wrap="always", wrap_code="success"
    ) as whole:
        sink, _, _, client = whole
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        assert ended["kling_id"].startswith("task_01")
        assert ended["verified"] == "api"
        await wait_until(lambda: len(sink.bodies) == 1)


@pytest.mark.parametrize(
    "fault",
    [
        {"refuse": [{"code": 5000, "created": True}]},
        {"refuse": [{"code": 5002, "created": True}]},
        {"hang_up": "next:1"},
    ],
    ids=["5000", "5002", "hung up"],
)
async def test_a_task_created_despite_an_error_is_not_created_twice(tmp_path: Path, fault: dict[str, Any]) -> None:
    async with a_whole_service(tmp_path, kling_more=BRIEFLY, **fault) as (sink, kling, _, client):
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        assert ended["kling_id"] == kling.state()["tasks"][0]["id"]
        assert len(kling.state()["creates"]) == 1
        await wait_until(lambda: len(sink.bodies) == 1)


async def test_a_lost_create_is_sent_again_after_a_not_found(tmp_path: Path) -> None:
    async with a_kling() as kling:
        config = a_config(kling.url, kling_more=BRIEFLY)
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            await submit_task(client)  # Kling finds it by its external id, so a later not found is trusted
            kling.configure({"lose": "next:1"})
            task = await submit_task(client)

            await wait_for_state(client, task["id"], "succeed")

            assert [create["code"] for create in kling.state()["creates"]] == [0, None, 0]


async def test_a_create_interrupted_by_a_crash_is_looked_up_first(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, more=FAST_POLLING, late="next:1", late_by="5s") as (sink, kling, receiver, _):
        async with receiver.client() as client:
            asking = asyncio.create_task(client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB}))
            await wait_until(lambda: kling.state()["counts"].get("created") == 1)
            receiver.kill()
            (answer,) = await asyncio.gather(asking, return_exceptions=True)
            assert isinstance(answer, Exception)

        await receiver.start()

        async with receiver.client() as client:
            (task,) = (await client.get("/api/tasks")).json()["items"]
            await wait_for_state(client, task["id"], "succeed")
        await wait_until(lambda: len(sink.bodies) == 1)
        assert len(kling.state()["creates"]) == 1


async def test_a_create_in_flight_is_bound_before_a_stop_ends(tmp_path: Path) -> None:
    async with (
        a_kling(late="always", late_by="1s") as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        asking = asyncio.create_task(submit_task(client))
        await wait_until(lambda: kling.state()["counts"].get("created") == 1)

        receiver.terminate()

        task = await asking
        assert await receiver.wait_for_exit() == 0
        assert task["kling_id"] == kling.state()["tasks"][0]["id"]
        assert receiver.rows("SELECT state <> 'submitting' FROM tasks") == [(1,)]


async def test_requests_to_kling_carry_a_signed_token(tmp_path: Path) -> None:
    keys = 'access_key = "an-access-key"\nsecret_key = "a-secret-key-of-32-characters-ok"'
    given = {"api_key": "", "access_key": "an-access-key", "secret_key": "a-secret-key-of-32-characters-ok"}
    async with a_whole_service(tmp_path, kling_more=keys, **given) as (sink, _, _, client):
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        assert ended["verified"] == "api"
        await wait_until(lambda: len(sink.bodies) == 1)
