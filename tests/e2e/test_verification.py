"""Verification of callbacks: a forged success never has an effect, a genuine one always does."""

import json
from pathlib import Path
from typing import Any

from harness.raw_http import http_request
from harness.running_service import (
    ENDPOINT,
    JOB,
    KEY,
    Sink,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

from receiver.kling.simulator import Simulator

SIGNING = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
OLD_SIGNING = "whsec_b2xkc2VjcmV0b2xkc2VjcmV0b2xkc2VjcmV0b2xkc2VjcmV0"


def data_of(sink: Sink) -> list[dict[str, Any]]:
    return [json.loads(body)["data"] for body in sink.bodies]


def answers(kling: Simulator, kind: str) -> list[int]:
    return [push["answer"] for push in kling.state()["pushes"] if push["kind"] == kind]


async def create_directly(kling: Simulator, callback_url: str, **more: object) -> str:
    """Create a task at Kling without the receiver. Return Kling's id."""
    body = json.dumps(JOB | {"callback_url": callback_url} | more).encode()
    answer = await http_request("POST", f"{kling.url}/v1/{ENDPOINT}", body, {"authorization": f"Bearer {KEY}"})
    task_id: str = answer.json()["data"]["task_id"]
    return task_id


async def test_a_forged_success_is_never_routed_and_a_genuine_one_is(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, forge="always", processing_for="300ms") as (sink, kling, receiver, client):
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        assert answers(kling, "forged") == [200]
        assert ended["verified"] == "api"
        await wait_until(lambda: len(sink.bodies) == 1)
        (data,) = data_of(sink)
        assert (data["verified"], data["source"]) == ("api", "callback")
        (true,) = [push for push in kling.state()["pushes"] if (push["kind"], push["status"]) == ("true", "succeed")]
        assert data["kling"] == json.loads(true["body"])
        assert b"forged.invalid" not in sink.bodies[0]
        outcomes = receiver.rows("SELECT outcome FROM pushes WHERE source = 'callback' ORDER BY id")
        assert outcomes == [("applied",), ("forged",), ("applied",)]


async def test_a_forged_success_of_a_task_that_fails_is_never_routed(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, route='on = ["*"]', forge="always", processing_for="300ms") as whole:
        sink, _, _, client = whole
        task = await submit_task(client, body=JOB | {"prompt": "[fail: too many cats]"})

        ended = await wait_for_state(client, task["id"], "failed")

        assert ended["message"] == "too many cats"
        await wait_until(lambda: len(sink.bodies) == 2)
        assert sorted(data["status"] for data in data_of(sink)) == ["failed", "processing"]


async def test_an_unconfirmed_push_survives_a_crash(tmp_path: Path) -> None:
    briefly = 'timeout = "500ms"'
    async with a_sink() as sink, a_kling() as kling:
        kling.configure({"refuse_queries": [{"code": 503, "share": 1}]})
        config = a_config(kling.url, kling_more=briefly, more=a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                task = await submit_task(client)
                await wait_until(lambda: receiver.rows("SELECT outcome FROM pushes WHERE outcome = 'pending'") != [])
            receiver.kill()
            kling.configure({"refuse_queries": []})

            await receiver.start()

            async with receiver.client() as client:
                ended = await wait_for_state(client, task["id"], "succeed")
            assert ended["verified"] == "api"
            await wait_until(lambda: len(sink.bodies) == 1)
            assert [data["source"] for data in data_of(sink)] == ["callback"]


async def test_a_minted_task_without_endpoint_needs_an_unverified_route(
    tmp_path: Path,
) -> None:
    async with a_sink() as careful, a_sink() as trusting, a_kling() as kling:
        routes = a_webhook_route(careful, name="careful") + a_webhook_route(
            trusting, name="trusting", extra="unverified = true"
        )
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver, receiver.client() as client:
            task, url = await create_callback_url(client, label="elsewhere")

            kling_id = await create_directly(kling, url)

            ended = await wait_for_state(client, task["id"], "succeed")
            assert (ended["kling_id"], ended["verified"]) == (kling_id, "none")
            await wait_until(lambda: len(trusting.bodies) == 1)
            assert [(data["verified"], data["source"]) for data in data_of(trusting)] == [("none", "callback")]
            assert receiver.rows("SELECT DISTINCT route FROM deliveries") == [("trusting",)]
            assert careful.bodies == []
            assert kling.state()["counts"]["queries"] == 0


async def test_a_minted_task_with_endpoint_is_confirmed(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path) as (sink, kling, _, client):
        task, url = await create_callback_url(client, endpoint=ENDPOINT)
        assert task["state"] == "awaiting"

        kling_id = await create_directly(kling, url, external_task_id="theirs-1")

        ended = await wait_for_state(client, task["id"], "succeed")
        assert (ended["kling_id"], ended["external_task_id"]) == (kling_id, "theirs-1")
        await wait_until(lambda: len(sink.bodies) == 1)
        assert [(data["verified"], data["source"]) for data in data_of(sink)] == [("api", "callback")]


async def test_a_minted_task_without_a_final_push_is_polled(tmp_path: Path) -> None:
    polling = '[poll]\nafter = "50ms"\nevery = "50ms"\n'
    async with a_whole_service(tmp_path, more=polling, drop={"share": 1.0, "on": ["succeed"]}) as whole:
        sink, kling, _, client = whole
        task, url = await create_callback_url(client, endpoint=ENDPOINT)

        await create_directly(kling, url)

        await wait_for_state(client, task["id"], "succeed")
        await wait_until(lambda: len(sink.bodies) == 1)
        assert [(data["verified"], data["source"]) for data in data_of(sink)] == [("api", "poll")]


async def test_a_forged_push_for_a_task_unknown_to_kling_is_never_routed(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path) as (_, _, receiver, client):
        task, url = await create_callback_url(client, endpoint=ENDPOINT)

        answer = await http_request("POST", url, a_push_body("succeed"))

        assert answer.status == 200
        await wait_until(lambda: receiver.rows("SELECT outcome FROM pushes") == [("forged",)])
        assert (await client.get(f"/api/tasks/{task['id']}")).json()["state"] == "awaiting"
        assert receiver.rows("SELECT * FROM events") == []


async def test_a_push_for_another_task_is_stored_and_not_routed(tmp_path: Path) -> None:
    more = '[callbacks]\nverify = "never"\n'
    async with a_whole_service(tmp_path, more=more) as (_, _, receiver, client):
        task, url = await create_callback_url(client)
        assert (await http_request("POST", url, a_push_body("processing", task_id="867283741759111202"))).status == 200

        answer = await http_request("POST", url, a_push_body("succeed", task_id="867283741759111203"))

        assert (answer.status, answer.body) == (200, b'{"ok":true}')
        outcomes = receiver.rows("SELECT outcome FROM pushes ORDER BY id")
        assert outcomes == [("applied",), ("mismatch",)]
        assert (await client.get(f"/api/tasks/{task['id']}")).json()["state"] == "processing"
        assert receiver.rows("SELECT count(*) FROM deliveries") == [(0,)]


async def test_a_signed_push_is_trusted_without_a_poll(tmp_path: Path) -> None:
    secrets = f'[callbacks]\nverify = "always"\nsigning_secrets = ["{SIGNING}", "{OLD_SIGNING}"]\n'
    async with a_whole_service(tmp_path, more=secrets, route='on = ["*"]', signing_secrets=OLD_SIGNING) as whole:
        sink, kling, _, client = whole
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        await wait_until(lambda: len(sink.bodies) == 2)
        assert ended["verified"] == "signature"
        assert {data["verified"] for data in data_of(sink)} == {"signature"}
        assert kling.state()["counts"]["queries"] == 0


async def test_a_push_with_a_wrong_signature_is_polled_and_not_routed(tmp_path: Path) -> None:
    secrets = f'[callbacks]\nverify = "never"\nsigning_secrets = ["{SIGNING}"]\n'
    async with a_whole_service(tmp_path, more=secrets, signing_secrets=OLD_SIGNING, processing_for="20ms") as whole:
        sink, _, receiver, client = whole
        task = await submit_task(client)

        ended = await wait_for_state(client, task["id"], "succeed")

        await wait_until(lambda: len(sink.bodies) == 1)
        assert ended["verified"] == "api"
        assert [data["source"] for data in data_of(sink)] == ["poll"]
        outcomes = receiver.rows("SELECT DISTINCT outcome FROM pushes WHERE source = 'callback'")
        assert outcomes == [("forged",)]
