"""A caller that takes the first request as the end gets one request, with the confirmed end, also through kills."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_receiver, wait_for_state
from harness.waiting import wait_until
from harness.waitpoint import Waitpoints, waitpoints

CREATE = f"/kling/v1/{ENDPOINT}"
FINAL = {"kling-receiver-callbacks": "final"}
LOOPBACK = '[network]\nallow = ["127.0.0.0/8"]\n'
SHAPES = {
    "n8n": "/webhook-waiting/4711?signature=3f%2Bab%2Fcd%3D&x=a+b",
    "trigger.dev": "/api/v1/waitpoints/tokens/waitpoint_c01/callback/9f86d081884c7d65",
    "Windmill": "/api/w/demo/jobs_u/resume/0190-ab/2859338102/5f3e?approver=kling%40example.com",
    "Make": "/7bq8xk2m1c?order=17&note=&note=;%2C",
    "Zapier": "/hooks/catch/123/abc/?run=%7B%22id%22%3A1%7D",
}


async def create(client: httpx2.AsyncClient, url: str, **headers: str) -> Mapping[str, Any]:
    answer = await client.post(CREATE, json=JOB | {"callback_url": url}, headers=headers)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def wait_for_output(service: Waitpoints, target: str) -> Mapping[str, Any]:
    await wait_until(lambda: target in service.outputs)
    return service.output(target)


async def test_each_form_of_resume_url_is_called_once_with_klings_final_body(tmp_path: Path) -> None:
    async with (
        waitpoints() as service,
        a_kling(push_submitted=True, duplicate=1) as kling,
        a_receiver(tmp_path, a_config(kling.url, more=LOOPBACK)) as receiver,
        receiver.client() as client,
    ):
        ids = {target: (await create(client, service.url + target, **FINAL))["task_id"] for target in SHAPES.values()}
        await wait_until(lambda: len(service.outputs) == len(SHAPES))
        for task_id in ids.values():
            await wait_for_state(client, task_id, "succeed")
        await wait_until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status = 'pending'") == [(0,)])

        assert sorted(service.requests) == sorted(SHAPES.values())
        pushed = [push["body"].encode() for push in kling.state()["pushes"] if push["status"] == "succeed"]
        for target, task_id in ids.items():
            assert service.output(target)["task_id"] == task_id
            assert service.outputs[target] in pushed


async def test_a_callback_url_receives_every_end_that_kling_does_not_report(tmp_path: Path) -> None:
    more = LOOPBACK + '[gateway]\ncallbacks = "final"\n[poll]\ngive_up_after = "1s"\nevery = "200ms"\nafter = "100ms"\n'
    slots = "slots = { image = 1 }"
    async with (
        waitpoints() as service,
        a_kling(processing_for="1h") as kling,
        a_receiver(tmp_path, a_config(kling.url, kling_more=slots, more=more)) as receiver,
        receiver.client() as client,
    ):
        endless = {"endpoint": ENDPOINT, "body": JOB | {"callback_url": f"{service.url}/expired?a=%2F"}}
        queued = {"endpoint": ENDPOINT, "body": JOB | {"callback_url": f"{service.url}/cancelled"}}
        (await client.post("/api/tasks", json=endless)).raise_for_status()
        task = (await client.post("/api/tasks", json=queued, headers={"prefer": "respond-async"})).json()
        (await client.post(f"/api/tasks/{task['id']}/cancel", json={"why": "wrong prompt"})).raise_for_status()

        cancelled = await wait_for_output(service, "/cancelled")
        expired = await wait_for_output(service, "/expired?a=%2F")

        assert (cancelled["task_status"], cancelled["task_id"]) == ("failed", "")
        assert "wrong prompt" in cancelled["task_status_msg"]
        assert cancelled["task_info"] == {"external_task_id": task["id"]}
        assert cancelled["kling_receiver"]["type"] == "task.rejected"
        assert (expired["task_status"], expired["kling_receiver"]["type"]) == ("failed", "task.expired")
        assert expired["task_status_msg"] == "expired: Kling did not end the task in time."
        assert len(service.requests) == 2


async def test_header_reply_member_and_configuration_choose_the_callbacks_of_a_client(tmp_path: Path) -> None:
    async with (
        waitpoints() as service,
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=LOOPBACK + '[gateway]\ncallbacks = "final"\n')) as receiver,
        receiver.client() as client,
    ):
        body = JOB | {"callback_url": f"{service.url}/api-all"}
        await create(client, f"{service.url}/all", **{"kling-receiver-callbacks": "all"})
        await create(client, f"{service.url}/configured")
        (await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": body, "reply": "all"})).raise_for_status()
        run = await receiver.run_cli_async(
            "submit", ENDPOINT, "--body", json.dumps(body | {"callback_url": f"{service.url}/cli"}), "--reply", "final"
        )
        wrong = await client.post(CREATE, json=JOB, headers={"kling-receiver-callbacks": "last"})
        wrong_reply = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB, "reply": "last"})

        assert run.returncode == 0, run.stderr
        await wait_until(lambda: len(service.requests) >= 6)
        assert sorted(service.requests) == ["/all", "/all", "/api-all", "/api-all", "/cli", "/configured"]
        assert "must be all or final; found 'last'" in wrong.text
        assert "'reply' must be all or final; found 'last'" in wrong_reply.text


async def test_reply_without_a_callback_url_is_refused_before_the_create(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=LOOPBACK)) as receiver,
        receiver.client() as client,
    ):
        refused = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB, "reply": "final"})
        shown = await receiver.run_cli_async("submit", ENDPOINT, "--body", json.dumps(JOB), "--reply", "final")
        everything = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB, "reply": "all"})

        assert refused.status_code == 400
        assert "has no `callback_url`" in refused.json()["detail"]
        assert shown.returncode == 2
        assert "Add `callback_url` to the body" in shown.stderr
        assert everything.status_code == 202
        assert kling.counts["created"] == 1


async def test_a_create_that_kling_refuses_leaves_the_resume_url_for_the_next_try(tmp_path: Path) -> None:
    async with (
        waitpoints() as service,
        a_kling(refuse="1201") as kling,
        a_receiver(tmp_path, a_config(kling.url, more=LOOPBACK)) as receiver,
        receiver.client() as client,
    ):
        body = JOB | {"callback_url": f"{service.url}/wait"}
        refused = await client.post(CREATE, json=body, headers=FINAL)
        assert refused.status_code == 400

        task = await create(client, f"{service.url}/wait", **FINAL)

        assert (await wait_for_output(service, "/wait"))["task_id"] == task["task_id"]
        assert service.requests == ["/wait"]


async def test_a_kill_during_the_request_repeats_it_under_the_same_delivery_id_and_nothing_else(tmp_path: Path) -> None:
    async with (
        waitpoints() as service,
        a_kling(push_submitted=True) as kling,
        a_receiver(tmp_path, a_config(kling.url, more=LOOPBACK)) as receiver,
    ):
        killed = asyncio.Event()

        def kill_once() -> None:
            if not killed.is_set():
                killed.set()
                receiver.kill()

        service.before_answer = kill_once
        async with receiver.client() as client:
            await create(client, f"{service.url}/wait?t=1", **FINAL)
            await asyncio.wait_for(killed.wait(), 20)
        await receiver.start()
        await wait_until(lambda: len(service.requests) >= 2)

        def attempts() -> list[tuple[int, int]]:
            return receiver.rows("SELECT attempts.code, count(DISTINCT delivery_id) FROM attempts GROUP BY code")

        await wait_until(lambda: attempts() == [(409, 1)])
        assert set(service.requests) == {"/wait?t=1"}
        assert len(set(service.deliveries)) == 1
        assert service.output("/wait?t=1")["task_status"] == "succeed"
