"""The simulator refuses wrong requests with Kling's documented errors."""

import base64
import struct
from datetime import timedelta

import jwt
import pytest
from harness.clock import START
from harness.simulator_caller import IMAGES, URL_IMAGE, Json, Start
from harness.waiting import wait_until


class TestRefusals:
    @pytest.mark.parametrize(
        ("header", "code"),
        [("", 1001), ("Basic a2V5", 1002), ("Bearer", 1002), ("Bearer other", 1000), ("Bearer a.b.c", 1002)],
    )
    async def test_a_wrong_key_is_401_with_its_reason(self, start: Start, header: str, code: int) -> None:
        caller = await start(api_key="key", access_key="ak", secret_key="sk")

        answer = await caller.client.get(IMAGES, headers={"authorization": header})

        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.json().keys() == {"code", "message", "request_id"}

    @pytest.mark.parametrize(
        ("claims", "secret", "code"),
        [
            ({}, "s" * 32, 0),
            ({"exp": -1}, "s" * 32, 1004),
            ({"nbf": 5}, "s" * 32, 1003),
            ({"iss": "other"}, "s" * 32, 1000),
            ({}, "t" * 32, 1000),
        ],
    )
    async def test_tokens_are_checked_for_signature_and_time(
        self, start: Start, claims: Json, secret: str, code: int
    ) -> None:
        caller = await start(access_key="ak", secret_key="s" * 32)
        now = int(START.timestamp())
        times = {"exp": now + claims.get("exp", 1800), "nbf": now + claims.get("nbf", -5)}
        token = jwt.encode({"iss": claims.get("iss", "ak")} | times, secret, headers={"typ": "JWT"})
        headers = {"authorization": f"Bearer {token}"}

        legacy = await caller.client.get(IMAGES, headers=headers)
        new = await caller.client.get("/tasks?task_ids=1", headers=headers)

        assert (legacy.status_code, legacy.json()["code"]) == (401 if code else 200, code)
        assert (new.status_code, new.json()["code"]) == (401, 1000)

    @pytest.mark.parametrize(
        "changes",
        [
            {"subject_image_list": None},
            {"subject_image_list": []},
            pytest.param({"subject_image_list": [URL_IMAGE] * 5}, id="five pictures"),
            {"subject_image_list": ["https://images.example.com/a.png"]},
            {"subject_image_list": [{"subject_image": "data:image/png;base64,AAAA"}]},
            {"subject_image_list": [{"subject_image": base64.b64encode(b"GIF89a").decode()}]},
            {"n": 0},
            {"n": 10},
            {"n": "2"},
            {"aspect_ratio": "5:4"},
            pytest.param({"prompt": "x" * 2501}, id="a prompt of 2501 characters"),
            {"callback_url": "ftp://example.com"},
            {"callback_url": 7},
            {"external_task_id": 7},
        ],
        ids=str,
    )
    async def test_a_body_with_undocumented_values_is_1201(self, start: Start, changes: Json) -> None:
        caller = await start()

        answer = await caller.client.post(IMAGES, json={"subject_image_list": [URL_IMAGE]} | changes)

        assert (answer.status_code, answer.json()["code"]) == (400, 1201)

    async def test_images_in_the_body_must_have_a_minimum_size(self, start: Start) -> None:
        caller = await start()
        created = await caller.create()
        await caller.wait_until_announced()
        (image,) = (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]
        good = (await caller.client.get(image["url"])).content
        small = good[:16] + struct.pack(">II", 299, 320) + good[24:]

        taken, refused = [
            await caller.client.post(
                IMAGES, json={"subject_image_list": [{"subject_image": base64.b64encode(picture).decode()}]}
            )
            for picture in (good, small)
        ]

        assert taken.status_code == 200
        assert (refused.status_code, refused.json()["message"]) == (400, "Image pixel is invalid")

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff"])
    async def test_a_body_that_is_not_an_object_is_1200(self, start: Start, content: bytes) -> None:
        caller = await start()

        answer = await caller.client.post(IMAGES, content=content)

        assert (answer.status_code, answer.json()["code"]) == (400, 1200)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v1/images/nothing"),
            ("GET", "/v1/images/nothing/7"),
            ("POST", f"{IMAGES}/7"),
            ("PUT", IMAGES),
            ("GET", "/v2"),
            ("POST", "/text-to-smell/kling-3.0"),
        ],
    )
    async def test_an_unknown_method_is_1202(self, start: Start, method: str, path: str) -> None:
        caller = await start()

        answer = await caller.client.request(method, path, json={})

        assert (answer.status_code, answer.json()["code"]) == (404, 1202)

    async def test_an_unknown_task_or_one_of_another_endpoint_is_1203(self, start: Start) -> None:
        caller = await start()
        created = await caller.create()

        unknown = await caller.client.get(f"{IMAGES}/nothing")
        elsewhere = await caller.client.get(f"/v1/images/generations/{created['task_id']}")

        assert [(answer.status_code, answer.json()["code"]) for answer in (unknown, elsewhere)] == [(404, 1203)] * 2

    @pytest.mark.parametrize("fields", [{"series_amount": 10}, {"series_amount": 0}, {"n": 10**30}])
    @pytest.mark.parametrize(
        ("path", "is_new"), [("/v1/images/omni-image", False), ("/omni-image/kling-3.0", True)], ids=["legacy", "new"]
    )
    async def test_a_create_of_more_images_than_kling_makes_is_1201(
        self, start: Start, path: str, fields: dict[str, int], *, is_new: bool
    ) -> None:
        caller = await start()
        options = fields | {"result_type": "series"}
        body = {"prompt": "a cat"} | ({"settings": options} if is_new else options)

        answer = await caller.client.post(path, json=body)

        assert (answer.status_code, answer.json()["code"]) == (400, 1201)
        assert "must be an integer from 1 to 9" in answer.json()["message"]

    async def test_any_model_name_is_accepted(self, start: Start) -> None:
        caller = await start()

        assert await caller.create(model_name="kling-v99-never-heard-of")

    async def test_an_external_id_is_accepted_once_per_account(self, start: Start) -> None:
        caller = await start()
        await caller.create(external_task_id="own")

        answer = await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat", "external_task_id": "own"})

        assert (answer.status_code, answer.json()["code"]) == (400, 1201)

    async def test_a_task_uses_its_slots_to_its_end_and_an_image_task_uses_n(self, start: Start) -> None:
        caller = await start(slots=["image=3", "video=1"], processing_for="1m")
        await caller.create(n=2)
        await caller.create("/v1/videos/text2video", prompt="a cat")

        full = await caller.client.post(IMAGES, json={"subject_image_list": [URL_IMAGE], "n": 2})
        await caller.create(n=1)
        await wait_until(lambda: all(task["status"] == "processing" for task in caller.simulator.state()["tasks"]))
        caller.clock.advance(timedelta(minutes=1))
        await caller.wait_until_announced(3)

        assert (full.status_code, full.json()["code"]) == (429, 1303)
        assert "data" not in full.json()
        await caller.create(n=3)

    async def test_too_many_creates_in_a_second_are_1302(self, start: Start) -> None:
        caller = await start(rate=2)

        codes = [
            (await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat"})).json()["code"]
            for _ in range(3)
        ]
        caller.clock.advance(timedelta(seconds=1))

        assert codes == [0, 0, 1302]
        await caller.create()
