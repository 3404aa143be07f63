"""The simulator answers creates, queries and lists as Kling documents them."""

from datetime import timedelta

import pytest
from harness.clock import START
from harness.simulator_caller import IMAGES, URL_IMAGE, CallbackReceiver, Json, Start
from harness.waiting import wait_until

LEGACY_BODIES: dict[str, Json] = {
    "videos/text2video": {"prompt": "a cat"},
    "videos/image2video": {"image": "https://images.example.com/a.png"},
    "videos/multi-image2video": {"image_list": [{"image": "https://images.example.com/a.png"}]},
    "videos/omni-video": {"prompt": "a cat"},
    "videos/motion-control": {"image_url": "https://images.example.com/a.png"},
    "videos/multi-elements": {"session_id": "s"},
    "videos/video-extend": {"video_id": "v"},
    "videos/lip-sync": {"input": {"video_id": "v", "mode": "text2video"}},
    "videos/advanced-lip-sync": {"session_id": "s"},
    "videos/avatar/image2video": {"image": "https://images.example.com/a.png"},
    "videos/effects": {"effect_scene": "squish", "input": {"image": "https://images.example.com/a.png"}},
    "images/generations": {"prompt": "a cat"},
    "images/multi-image2image": {"subject_image_list": [URL_IMAGE]},
    "images/editing/expand": {"image": "https://images.example.com/a.png"},
    "images/omni-image": {"prompt": "a cat", "result_type": "series", "series_amount": 3},
    "images/kolors-virtual-try-on": {"human_image": "https://images.example.com/a.png"},
    "audio/text-to-audio": {"prompt": "a cat"},
    "audio/video-to-audio": {"video_id": "v"},
    "general/advanced-custom-elements": {"element_name": "cat"},
    "general/custom-voices": {"voice_name": "cat"},
    "general/ai-multi-shot": {"element_frontal_image": "https://images.example.com/a.png"},
}
RESULT_KINDS = {
    "videos": "videos",
    "images": "images",
    "images/omni-image": "series_images",
    "audio": "audios",
    "general/advanced-custom-elements": "elements",
    "general/custom-voices": "voices",
    "general/ai-multi-shot": "images",
}


class TestProtocol:
    @pytest.mark.parametrize("endpoint", LEGACY_BODIES)
    async def test_each_legacy_endpoint_creates_calls_back_and_answers_queries(
        self, start: Start, callback_receiver: CallbackReceiver, endpoint: str
    ) -> None:
        caller = await start()
        path = f"/v1/{endpoint}"

        created = await caller.create(
            path, callback_url=callback_receiver.url, external_task_id="own", **LEGACY_BODIES[endpoint]
        )
        await caller.wait_until_announced()

        assert created["task_status"] == "submitted"
        assert created["task_info"] == {"external_task_id": "own"}
        assert callback_receiver.statuses == ["processing", "succeed"]
        assert callback_receiver.received[0][0]["content-type"] == "application/json; charset=utf-8"
        end = callback_receiver.bodies[-1]
        assert end["task_id"] == created["task_id"]
        assert end["task_info"]["external_task_id"] == "own"
        assert end["final_unit_deduction"].isdigit()
        made = RESULT_KINDS.get(endpoint) or RESULT_KINDS[endpoint.partition("/")[0]]
        assert end["task_result"][made]
        by_id, by_own = await caller.query(path, created["task_id"]), await caller.query(path, "own")
        assert by_id == by_own == end
        listed = (await caller.client.get(path, params={"pageNum": 1, "pageSize": 500})).json()
        assert listed["data"] == [end]

    @pytest.mark.parametrize(
        ("path", "made"),
        [("/v1/videos/text2dance", "videos"), ("/v1/worlds/text2world", "elements"), ("/posters/kling-9", "image")],
    )
    async def test_undocumented_endpoints_are_available_on_request(
        self, start: Start, callback_receiver: CallbackReceiver, path: str, made: str
    ) -> None:
        more = ("v1/videos/text2dance=videos", "v1/worlds/text2world=elements", "posters=images")
        caller = await start(endpoints=more)
        ours = {"callback_url": callback_receiver.url}

        await caller.create(path, **ours, options=ours)
        await caller.wait_until_announced()

        end = callback_receiver.bodies[-1]
        assert end["task_result"][made] if "task_id" in end else end["outputs"][0]["type"] == made

    @pytest.mark.parametrize("capability", ["text-to-video", "image-to-video", "omni-video", "text-to-image"])
    async def test_the_new_api_uses_its_own_field_names_and_statuses(
        self, start: Start, callback_receiver: CallbackReceiver, capability: str
    ) -> None:
        caller = await start()
        options = {"callback_url": callback_receiver.url, "external_task_id": "own"}

        created = await caller.create(f"/{capability}/kling-9.9-any", prompt="a cat", options=options)
        await caller.wait_until_announced()

        assert created["status"] == "submitted"
        assert created["external_id"] == "own"
        assert callback_receiver.statuses == ["processing", "succeeded"]
        end = callback_receiver.bodies[-1]
        assert end["id"] == created["id"]
        assert {output["type"] for output in end["outputs"]} == {capability.rpartition("-")[2]}
        assert end["billing"]
        for query in ({"task_ids": f"{created['id']},unknown"}, {"external_task_ids": "own"}):
            assert (await caller.client.get("/tasks", params=query)).json()["data"] == [end]

    async def test_the_new_list_is_paged_by_cursor(self, start: Start) -> None:
        caller = await start()
        made = [(await caller.create("/text-to-video/any", prompt="a cat"))["id"] for _ in range(3)]

        first = (await caller.client.post("/tasks", json={"limit": 2})).json()["data"]
        second = (await caller.client.post("/tasks", json={"limit": 2, "cursor": first["next_cursor"]})).json()["data"]

        assert first["has_more"] is True
        assert second["has_more"] is False
        assert [task["id"] for task in first["result"] + second["result"]] == made[::-1]

    async def test_lists_are_paged_newest_first(self, start: Start) -> None:
        caller = await start()
        made = [(await caller.create())["task_id"] for _ in range(3)]

        second = (await caller.client.get(IMAGES, params={"pageNum": 2, "pageSize": 2})).json()["data"]
        wrong = await caller.client.get(IMAGES, params={"pageSize": 501})

        assert [task["task_id"] for task in second] == made[:1]
        assert (wrong.status_code, wrong.json()["code"]) == (400, 1201)

    async def test_synchronous_endpoints_answer_with_the_result(self, start: Start) -> None:
        caller = await start()

        answer = await caller.create("/v1/audio/tts", text="hello")

        assert answer["task_status"] == "succeed"
        assert answer["task_result"]["audios"]

    async def test_a_gateway_serves_the_same_paths_below_a_prefix(self, start: Start) -> None:
        caller = await start(dialect="gateway")
        body = {"subject_image_list": ["https://images.example.com/a.png"], "aspect_ratio": " 2:3"}

        created = await caller.create(f"/kling{IMAGES}", **body)

        assert (await caller.query(f"/kling{IMAGES}", created["task_id"]))["task_id"] == created["task_id"]

    async def test_times_are_in_milliseconds_and_each_status_has_its_duration(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(submitted_for="300ms", processing_for="1s")
        created = await caller.create(callback_url=callback_receiver.url)

        caller.clock.advance(timedelta(milliseconds=300))
        await wait_until(lambda: len(callback_receiver.received) == 1)
        caller.clock.advance(timedelta(milliseconds=999))
        still = await caller.query(IMAGES, created["task_id"])
        caller.clock.advance(timedelta(milliseconds=1))
        await caller.wait_until_announced()

        started = int(START.timestamp() * 1000)
        assert still["task_status"] == "processing"
        assert [body["updated_at"] - started for body in callback_receiver.bodies] == [300, 1300]
        assert all(body["created_at"] == started for body in callback_receiver.bodies)
