"""The simulator can produce each documented fault."""

import asyncio
import base64
import json
import re
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from harness.clock import START
from harness.simulator_caller import IMAGES, URL_IMAGE, CallbackReceiver, Start
from harness.waiting import wait_until
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.domain.clock import SystemClock


class TestFaults:
    async def test_drop_sends_no_callback_but_a_query_has_the_result(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(drop={"next": 1, "on": ["succeed"]})

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing"]
        assert (await caller.query(IMAGES, created["task_id"]))["task_status"] == "succeed"

    async def test_a_share_applies_to_that_share_and_a_seed_repeats_it(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        runs = []
        for _ in range(2):
            caller = await start(drop=0.5, seed=3)
            for _ in range(40):
                await caller.create(callback_url=callback_receiver.url)
            await caller.wait_until_announced(40)
            state = await caller.state()
            runs.append([push["kind"] for push in sorted(state["pushes"], key=lambda push: push["task_id"])])
            assert state["counts"]["callbacks_dropped"] == runs[-1].count("dropped")

        assert runs[0] == runs[1]
        assert 20 < runs[0].count("dropped") < 60

    async def test_duplicate_sends_the_same_callback_twice(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(duplicate="next:1")

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing", "processing", "succeed"]
        assert callback_receiver.received[0][1] == callback_receiver.received[1][1]

    async def test_reorder_sends_the_final_callback_first(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(reorder=True)

        await caller.create(callback_url=callback_receiver.url)
        await wait_until(lambda: len(callback_receiver.received) == 2)

        assert callback_receiver.statuses == ["succeed", "processing"]

    async def test_delay_sends_a_callback_later(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start(delay={"next": 1, "on": "succeed"}, delay_by="10s")
        created = await caller.create(callback_url=callback_receiver.url)
        await wait_until(lambda: len(callback_receiver.received) == 1)

        ended = await caller.query(IMAGES, created["task_id"])
        caller.clock.advance(timedelta(seconds=10))
        await caller.wait_until_announced()

        assert ended["task_status"] == "succeed"
        assert callback_receiver.statuses == ["processing", "succeed"]

    async def test_forge_sends_a_false_success_without_a_valid_signature(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        secret = "whsec_" + base64.b64encode(b"s" * 24).decode()
        caller = await start(forge=True, fail=True, signing_secrets=[secret])
        caller.clock.advance(SystemClock().now() - START)  # the reference verifier knows the real time alone

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing", "succeed", "failed"]
        assert "forged.invalid" in callback_receiver.bodies[1]["task_result"]["images"][0]["url"]
        headers, body = callback_receiver.received[1]
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)

    async def test_truncate_cuts_the_body(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start(truncate={"next": 1, "on": ["succeed"]})

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        with pytest.raises(json.JSONDecodeError):
            json.loads(callback_receiver.received[-1][1])

    async def test_wrap_puts_the_body_into_a_gateways_envelope(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(wrap=True, wrap_code="success")

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.bodies[-1]["code"] == "success"
        assert callback_receiver.bodies[-1]["data"]["task_status"] == "succeed"

    @pytest.mark.parametrize(("fault", "made"), [("lose", 0), ("hang_up", 1)])
    async def test_a_create_may_get_no_answer_with_or_without_a_task(self, start: Start, fault: str, made: int) -> None:
        caller = await start()
        await caller.set_faults(**{fault: {"next": 1}})

        with pytest.raises(httpx.RemoteProtocolError):
            await caller.create(external_task_id="own")

        assert len((await caller.state())["tasks"]) == made
        found = await caller.client.get(f"{IMAGES}/own")
        assert found.status_code == (200 if made else 404)

    async def test_late_delays_the_answer(self, start: Start) -> None:
        caller = await start(late=True, late_by="5s")
        creating = asyncio.create_task(caller.create())
        await caller.wait_until_announced()

        unanswered = (await caller.state())["creates"][0]["status"]
        caller.clock.advance(timedelta(seconds=5))

        assert (await creating)["task_status"] == "submitted"
        assert unanswered is None

    async def test_after_callback_answers_after_the_final_callback(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(after_callback=True)
        callback_receiver.gate.clear()
        creating = asyncio.create_task(caller.create(callback_url=callback_receiver.url))
        await wait_until(lambda: len(callback_receiver.received) == 1)

        assert not creating.done()
        callback_receiver.gate.set()
        await creating

        assert callback_receiver.statuses == ["processing", "succeed"]

    @pytest.mark.parametrize(
        ("code", "status"),
        [(1303, 429), (1302, 429), (1102, 429), (1103, 403), (1304, 429), (5000, 500), (5001, 503), (5002, 504)],
    )
    async def test_refuse_answers_the_next_creates_with_an_error(self, start: Start, code: int, status: int) -> None:
        caller = await start()
        await caller.set_faults(refuse=[{"code": code, "next": 2, "retry_after": 3}])

        answers = [await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat"}) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [status, status, 200]
        assert answers[0].json()["code"] == code
        assert answers[0].headers["retry-after"] == "3"
        assert len((await caller.state())["tasks"]) == 1

    async def test_an_error_may_hide_a_task_that_was_made(self, start: Start) -> None:
        caller = await start(refuse=[{"code": 5002, "created": True}])

        answer = await caller.client.post(IMAGES, json={"subject_image_list": [URL_IMAGE], "external_task_id": "own"})

        assert answer.status_code == 504
        assert (await caller.query(IMAGES, "own"))["task_id"]

    async def test_a_502_is_a_proxys_html_page(self, start: Start) -> None:
        caller = await start(refuse="502")

        answer = await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat"})

        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("text/html")

    async def test_refuse_queries_answers_queries_with_an_error(self, start: Start) -> None:
        caller = await start(refuse_queries="5001:1")
        created = await caller.create()

        first = await caller.client.get(f"{IMAGES}/{created['task_id']}")

        assert (first.status_code, first.json()["code"]) == (503, 5001)
        assert await caller.query(IMAGES, created["task_id"])

    async def test_gateway_ids_differ_between_create_and_callback(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(gateway_ids=True)

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert re.fullmatch(r"task_01[0-9A-Z]{24}", created["task_id"])
        assert callback_receiver.bodies[-1]["task_id"] != created["task_id"]
        for reference in (created["task_id"], callback_receiver.bodies[-1]["task_id"]):
            assert (await caller.query(IMAGES, reference))["task_id"] == created["task_id"]

    async def test_drop_external_forgets_the_clients_id(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(drop_external=True)

        created = await caller.create(callback_url=callback_receiver.url, external_task_id="own")
        await caller.wait_until_announced()

        assert created["task_info"] == callback_receiver.bodies[-1]["task_info"] == {}
        assert (await caller.client.get(f"{IMAGES}/own")).status_code == 404

    async def test_result_missing_succeeds_without_a_result(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(result_missing=True)

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.bodies[-1]["task_result"] == {}
        assert (await caller.query(IMAGES, created["task_id"]))["task_result"] == {}

    async def test_result_late_appears_only_in_queries_and_later(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(result_late=True, result_late_by="5s")

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()
        early = await caller.query(IMAGES, created["task_id"])
        caller.clock.advance(timedelta(seconds=5))

        assert callback_receiver.bodies[-1]["task_result"] == early["task_result"] == {}
        assert (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]

    async def test_listed_answers_a_query_with_a_list(self, start: Start) -> None:
        caller = await start(listed=True)

        created = await caller.create()

        answer = await caller.client.get(f"{IMAGES}/{created['task_id']}")
        assert [task["task_id"] for task in answer.json()["data"]] == [created["task_id"]]

    async def test_fresh_urls_make_each_query_return_new_urls(self, start: Start) -> None:
        caller = await start(fresh_urls=True)
        created = await caller.create()
        await caller.wait_until_announced()

        urls = [(await caller.query(IMAGES, created["task_id"]))["task_result"]["images"][0]["url"] for _ in range(2)]

        assert len(set(urls)) == 2
        assert len({urlsplit(url).path for url in urls}) == 1
        assert [(await caller.client.get(url)).status_code for url in urls] == [200, 200]

    async def test_stall_never_ends_a_task_and_slow_delays_its_end(self, start: Start) -> None:
        caller = await start(slow="next:1", slow_for="30s")
        await caller.create()
        await wait_until(lambda: caller.simulator.state()["tasks"][0]["status"] == "processing")
        await caller.set_faults(stall=True)
        await caller.create()
        await wait_until(lambda: caller.simulator.state()["tasks"][1]["status"] == "processing")

        caller.clock.advance(timedelta(days=30))
        await caller.wait_until_announced()

        assert [task["status"] for task in (await caller.state())["tasks"]] == ["succeed", "processing"]

    @pytest.mark.parametrize(
        ("prompt", "status", "message"),
        [
            ("a cat [fail]", "failed", "Image pixel is invalid"),
            ("a cat [fail: no cats]", "failed", "no cats"),
            ("a cat [empty]", "succeed", ""),
            ("a cat", "succeed", ""),
        ],
    )
    async def test_a_prompt_decides_how_its_task_ends(
        self, start: Start, callback_receiver: CallbackReceiver, prompt: str, status: str, message: str
    ) -> None:
        caller = await start()

        await caller.create(callback_url=callback_receiver.url, prompt=prompt)
        await caller.wait_until_announced()

        end = callback_receiver.bodies[-1]
        assert (end["task_status"], end["task_status_msg"]) == (status, message)
        assert bool(end.get("task_result")) is (prompt == "a cat")

    async def test_a_prompt_may_be_slow_stuck_or_unsafe(self, start: Start) -> None:
        caller = await start()
        for prompt in ("[slow]", "[stuck]"):
            await caller.create(prompt=prompt)

        unsafe = await caller.client.post(IMAGES, json={"subject_image_list": [URL_IMAGE], "prompt": "[unsafe]"})
        await wait_until(lambda: all(task["status"] == "processing" for task in caller.simulator.state()["tasks"]))
        caller.clock.advance(timedelta(seconds=30))
        await caller.wait_until_announced()

        assert (unsafe.status_code, unsafe.json()["code"]) == (400, 1301)
        assert [task["status"] for task in (await caller.state())["tasks"]] == ["succeed", "processing"]
