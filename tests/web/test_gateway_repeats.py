"""A gateway client's retries over real sockets create one task."""

import asyncio
from collections.abc import Callable

import httpx2 as httpx
import pytest
from harness.logs import capture_logs
from harness.waiting import wait_until
from harness.web_app import WebApp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CREATE = "/kling/v1/images/multi-image2image"
BODY = {"prompt": "a cat"}


def numbered() -> Callable[[Request], Response]:
    """Answer each create with another id."""
    made = 0

    def answer(_: Request) -> Response:
        nonlocal made
        made += 1
        return JSONResponse({"code": 0, "data": {"task_id": f"k{made}", "task_status": "submitted"}})

    return answer


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "order-17"}])
async def test_a_client_that_times_out_and_retries_makes_one_task(web: WebApp, headers: dict[str, str]) -> None:
    web.kling.answer, web.kling.gate = numbered(), asyncio.Event()

    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await web.client.post(CREATE, json=BODY, headers=headers, timeout=0.3)
            await wait_until(lambda: bool(web.kling.requests))
        last = asyncio.create_task(web.client.post(CREATE, json=BODY, headers=headers))
        await wait_until(lambda: [line["event"] for line in logs].count("create.repeated") == 2)
    web.kling.gate.set()

    assert (await last).json()["data"]["task_id"] == "k1"
    assert len(web.kling.requests) == 1


async def test_a_key_with_another_body_is_answered_422_in_klings_shape(web: WebApp) -> None:
    headers = {"Idempotency-Key": "order-17"}
    await web.client.post(CREATE, json=BODY, headers=headers)

    answer = await web.client.post(CREATE, json={"prompt": "a dog"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (422, 1201)
    assert "'order-17' belongs to task tsk_" in answer.json()["message"]
    assert len(web.kling.requests) == 1


@pytest.mark.parametrize("key", ["x" * 257, "a\tb"])
async def test_a_key_that_cannot_be_stored_is_refused(web: WebApp, key: str) -> None:
    answer = await web.client.post(CREATE, json=BODY, headers={"Idempotency-Key": key})

    assert answer.status_code == 400
    assert "at most 256 printable characters" in answer.json()["message"]
    assert web.kling.requests == []


async def test_the_api_answers_409_for_a_reused_key_unless_reuse_is_set(web: WebApp) -> None:
    job = {"endpoint": "images/multi-image2image", "body": BODY, "idempotency_key": "order-17"}
    first = (await web.client.post("/api/tasks", json=job)).json()
    other = job | {"body": {"prompt": "a dog"}}

    refused = await web.client.post("/api/tasks", json=other)
    reused = await web.client.post("/api/tasks", json=other | {"reuse": True})

    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
    assert f"'order-17' belongs to task {first['id']}" in refused.json()["detail"]
    assert (reused.status_code, reused.json()["id"], reused.json()["existing"]) == (202, first["id"], True)
