"""The simulator keeps to what is documented of Kling, and shows each fault it promises."""

import asyncio
import base64
import io
import json
import re
import signal
import struct
import sys
import wave
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx2 as httpx
import jwt
import pytest
from harness.clock import START, FakeClock
from harness.http_client import plain_http
from harness.waiting import wait_until
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.domain.clock import SystemClock
from receiver.kling.simulator import Options, Simulator, serve

Json: TypeAlias = dict[str, Any]
Start: TypeAlias = Callable[..., Any]

IMAGES = "/v1/images/multi-image2image"
URL_IMAGE = {"subject_image": "https://images.example.com/a.png"}
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


class CallbackReceiver:
    """Takes callbacks on a socket of its own: what came, in order, and whether to answer."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    @property
    def bodies(self) -> list[Json]:
        return [json.loads(body) for _, body in self.received]

    @property
    def statuses(self) -> list[str]:
        return [body.get("task_status") or body["status"] for body in self.bodies]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): *(.*?)\r$", head)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body))
        await self.gate.wait()
        writer.write(f"HTTP/1.1 {self.status} OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()


class SimulatorClient:
    """A client of one simulator, and the clock that simulator goes by."""

    def __init__(self, simulator: Simulator, clock: FakeClock, client: httpx.AsyncClient) -> None:
        self.simulator = simulator
        self.clock = clock
        self.client = client

    async def create(self, path: str = IMAGES, **body: object) -> Json:
        if path == IMAGES:
            body = {"subject_image_list": [URL_IMAGE]} | body
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        data: Json = answer.json()["data"]
        return data

    async def query(self, path: str, reference: str) -> Json:
        answer = await self.client.get(f"{path}/{reference}")
        assert answer.status_code == 200, answer.text
        data: Json = answer.json()["data"]
        return data

    async def set_faults(self, **given: object) -> None:
        answer = await self.client.post("/_simulator/faults", json=given)
        assert answer.status_code == 200, answer.text

    async def state(self) -> Json:
        state: Json = (await self.client.get("/_simulator/state")).json()
        return state

    async def wait_until_announced(self, count: int = 1) -> None:
        """Wait until so many tasks have come to their end and all was said of them."""
        await wait_until(lambda: sum(task["told"] for task in self.simulator.state()["tasks"]) >= count)


@pytest.fixture
async def callback_receiver() -> AsyncIterator[CallbackReceiver]:
    callback_receiver = CallbackReceiver()
    server = await asyncio.start_server(callback_receiver.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    callback_receiver.url = f"http://{host}:{port}/callbacks/t"
    async with server:
        yield callback_receiver


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start simulators whose tasks end at once, unless the options say otherwise."""
    async with AsyncExitStack() as stack:

        async def start(**given: object) -> SimulatorClient:
            quick = {"submitted_for": 0, "processing_for": 0, "seed": 7}
            clock = FakeClock()
            simulator = await stack.enter_async_context(serve(Options.parse(quick | given), clock=clock))
            headers = {"authorization": "Bearer key"}
            client = plain_http(base_url=simulator.url, headers=headers)
            return SimulatorClient(simulator, clock, await stack.enter_async_context(client))

        yield start


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Take a PNG apart, checking each chunk's sum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, place = {}, 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (total,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert zlib.crc32(kind + body) == total
        found[kind] = body
        place += 12 + length
    return found


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
    async def test_endpoints_that_are_not_documented_yet_can_be_had_on_request(
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
    async def test_the_new_generation_speaks_its_own_words(
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

    async def test_the_new_list_leads_from_page_to_page(self, start: Start) -> None:
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

    async def test_gateways_have_the_same_below_a_prefix(self, start: Start) -> None:
        caller = await start(dialect="gateway")
        body = {"subject_image_list": ["https://images.example.com/a.png"], "aspect_ratio": " 2:3"}

        created = await caller.create(f"/kling{IMAGES}", **body)

        assert (await caller.query(f"/kling{IMAGES}", created["task_id"]))["task_id"] == created["task_id"]

    async def test_times_are_milliseconds_and_each_status_lasts_its_time(
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

    async def test_a_task_without_callback_url_is_told_to_nobody(self, start: Start) -> None:
        caller = await start()

        await caller.create()
        await caller.wait_until_announced()

        assert (await caller.state())["pushes"] == []

    async def test_a_callback_for_submitted_is_sent_on_request_only(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(push_submitted=True)

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["submitted", "processing", "succeed"]

    async def test_a_callback_is_sent_once_whatever_the_answer(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()
        callback_receiver.status = 503

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing", "succeed"]
        assert [push["answer"] for push in (await caller.state())["pushes"]] == [503, 503]

    async def test_a_callback_nobody_takes_is_noted_and_forgotten(self, start: Start) -> None:
        caller = await start()

        await caller.create(callback_url="http://127.0.0.1:1/")
        await caller.wait_until_announced()

        assert [push["error"] for push in (await caller.state())["pushes"]] == ["ConnectError", "ConnectError"]

    async def test_callbacks_are_signed_as_standard_webhooks_want_it(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        secrets = ["whsec_" + base64.b64encode(part * 24).decode() for part in (b"n", b"o")]
        caller = await start(signing_secrets=secrets)
        caller.clock.advance(SystemClock().now() - START)  # the reference verifier knows the real time alone

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        headers, body = callback_receiver.received[-1]
        for secret in secrets:
            Webhook(secret).verify(body, headers)
        assert len({headers["webhook-id"] for headers, _ in callback_receiver.received}) == 2

    async def test_unsigned_callbacks_have_no_signature(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert not [name for headers, _ in callback_receiver.received for name in headers if name.startswith("webhook")]

    async def test_the_consoles_test_push_is_what_the_vendor_sends(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()

        await caller.client.post("/_simulator/test-push", json={"url": callback_receiver.url})
        await wait_until(lambda: bool(callback_receiver.received))

        assert callback_receiver.bodies[0].keys() == {
            "id",
            "status",
            "outputs",
            "message",
            "create_time",
            "update_time",
        }
        assert callback_receiver.statuses == ["submitted"]


class TestResults:
    async def test_pictures_are_real_and_no_two_are_alike(self, start: Start) -> None:
        caller = await start()
        made = [await caller.create(n=2) for _ in range(2)]
        await caller.wait_until_announced(2)

        pictures = []
        for created in made:
            for image in (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]:
                answer = await caller.client.get(image["url"])
                assert answer.headers["content-type"] == "image/png"
                pictures.append(answer.content)

        assert len(set(pictures)) == 4
        for picture in pictures:
            parts = chunks(picture)
            width, height, depth, colour = struct.unpack(">IIBB", parts[b"IHDR"][:10])
            assert min(width, height) >= 300
            assert (depth, colour, len(parts[b"PLTE"])) == (8, 3, 12)
            assert len(zlib.decompress(parts[b"IDAT"])) == (width + 1) * height

    async def test_a_film_is_a_whole_container(self, start: Start) -> None:
        caller = await start()
        created = await caller.create("/v1/videos/text2video", prompt="a cat")
        await caller.wait_until_announced()
        (video,) = (await caller.query("/v1/videos/text2video", created["task_id"]))["task_result"]["videos"]

        answer = await caller.client.get(video["url"])

        film, boxes = answer.content, []
        while film:
            (length,) = struct.unpack(">I", film[:4])
            boxes.append(film[4:8])
            assert 8 <= length <= len(film)
            film = film[length:]
        assert answer.headers["content-type"] == "video/mp4"
        assert boxes == [b"ftyp", b"moov", b"free"]
        assert re.fullmatch(r"\d+\.\d", video["duration"])

    async def test_sounds_last_as_long_as_they_say(self, start: Start) -> None:
        caller = await start()
        created = await caller.create("/v1/audio/text-to-audio", prompt="a cat")
        await caller.wait_until_announced()
        (sound,) = (await caller.query("/v1/audio/text-to-audio", created["task_id"]))["task_result"]["audios"]

        as_wav, as_mp3 = [await caller.client.get(sound[name]) for name in ("url_wav", "url_mp3")]

        with wave.open(io.BytesIO(as_wav.content)) as opened:
            assert opened.getnframes() / opened.getframerate() == float(sound["duration_wav"])
        assert as_mp3.content[:3] == b"ID3"
        assert as_mp3.content[10 + as_mp3.content[9] :][:2] == b"\xff\xfb"

    async def test_an_address_is_good_until_it_expires_and_for_nothing_else(self, start: Start) -> None:
        caller = await start(results_for="1d")
        created = await caller.create()
        await caller.wait_until_announced()
        (image,) = (await caller.query(IMAGES, created["task_id"]))["task_result"]["images"]

        altered = await caller.client.get(image["url"].replace("image-0", "image-1"))
        prolonged = await caller.client.get(re.sub(r"x-expires=\d", "x-expires=9", image["url"]))
        bare = await caller.client.get(urlsplit(image["url"]).path)
        good = await caller.client.get(image["url"])
        caller.clock.advance(timedelta(days=1))
        late = await caller.client.get(image["url"])

        assert [answer.status_code for answer in (altered, prolonged, bare, good, late)] == [403, 403, 403, 200, 403]


class TestRefusals:
    @pytest.mark.parametrize(
        ("header", "code"),
        [("", 1001), ("Basic a2V5", 1002), ("Bearer", 1002), ("Bearer other", 1000), ("Bearer a.b.c", 1002)],
    )
    async def test_a_wrong_key_is_401_and_says_why(self, start: Start, header: str, code: int) -> None:
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
            {"subject_image_list": [URL_IMAGE] * 5},
            {"subject_image_list": ["https://images.example.com/a.png"]},
            {"subject_image_list": [{"subject_image": "data:image/png;base64,AAAA"}]},
            {"subject_image_list": [{"subject_image": base64.b64encode(b"GIF89a").decode()}]},
            {"n": 0},
            {"n": 10},
            {"n": "2"},
            {"aspect_ratio": "5:4"},
            {"prompt": "x" * 2501},
            {"callback_url": "ftp://example.com"},
            {"callback_url": 7},
            {"external_task_id": 7},
        ],
        ids=str,
    )
    async def test_a_body_outside_the_documentation_is_1201(self, start: Start, changes: Json) -> None:
        caller = await start()

        answer = await caller.client.post(IMAGES, json={"subject_image_list": [URL_IMAGE]} | changes)

        assert (answer.status_code, answer.json()["code"]) == (400, 1201)

    async def test_images_in_the_body_are_taken_when_large_enough(self, start: Start) -> None:
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
    async def test_what_is_no_object_is_1200(self, start: Start, content: bytes) -> None:
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

    async def test_an_unknown_task_is_1203_and_another_endpoints_is_unknown(self, start: Start) -> None:
        caller = await start()
        created = await caller.create()

        unknown = await caller.client.get(f"{IMAGES}/nothing")
        elsewhere = await caller.client.get(f"/v1/images/generations/{created['task_id']}")

        assert [(answer.status_code, answer.json()["code"]) for answer in (unknown, elsewhere)] == [(404, 1203)] * 2

    async def test_no_model_is_refused_by_name(self, start: Start) -> None:
        caller = await start()

        assert await caller.create(model_name="kling-v99-never-heard-of")

    async def test_an_own_id_is_taken_once_in_an_account(self, start: Start) -> None:
        caller = await start()
        await caller.create(external_task_id="own")

        answer = await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat", "external_task_id": "own"})

        assert (answer.status_code, answer.json()["code"]) == (400, 1201)

    async def test_slots_are_held_to_the_end_and_an_image_task_takes_n(self, start: Start) -> None:
        caller = await start(image_slots=3, video_slots=1, processing_for="1m")
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


class TestFaults:
    async def test_drop_sends_nothing_and_the_query_knows(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(drop={"next": 1, "on": ["succeed"]})

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing"]
        assert (await caller.query(IMAGES, created["task_id"]))["task_status"] == "succeed"

    async def test_a_share_strikes_that_share_and_a_seed_repeats_it(
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

    async def test_duplicate_sends_the_same_twice(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start(duplicate="next:1")

        await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.statuses == ["processing", "processing", "succeed"]
        assert callback_receiver.received[0][1] == callback_receiver.received[1][1]

    async def test_reorder_tells_of_the_end_first(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start(reorder=True)

        await caller.create(callback_url=callback_receiver.url)
        await wait_until(lambda: len(callback_receiver.received) == 2)

        assert callback_receiver.statuses == ["succeed", "processing"]

    async def test_delay_lets_a_callback_come_later(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start(delay={"next": 1, "on": "succeed"}, delay_by="10s")
        created = await caller.create(callback_url=callback_receiver.url)
        await wait_until(lambda: len(callback_receiver.received) == 1)

        ended = await caller.query(IMAGES, created["task_id"])
        caller.clock.advance(timedelta(seconds=10))
        await caller.wait_until_announced()

        assert ended["task_status"] == "succeed"
        assert callback_receiver.statuses == ["processing", "succeed"]

    async def test_forge_lies_before_the_end_without_the_secret(
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
    async def test_a_create_may_go_unanswered_with_or_without_a_task(self, start: Start, fault: str, made: int) -> None:
        caller = await start()
        await caller.set_faults(**{fault: {"next": 1}})

        with pytest.raises(httpx.RemoteProtocolError):
            await caller.create(external_task_id="own")

        assert len((await caller.state())["tasks"]) == made
        found = await caller.client.get(f"{IMAGES}/own")
        assert found.status_code == (200 if made else 404)

    async def test_late_answers_later(self, start: Start) -> None:
        caller = await start(late=True, late_by="5s")
        creating = asyncio.create_task(caller.create())
        await caller.wait_until_announced()

        unanswered = (await caller.state())["creates"][0]["status"]
        caller.clock.advance(timedelta(seconds=5))

        assert (await creating)["task_status"] == "submitted"
        assert unanswered is None

    async def test_after_callback_answers_when_all_has_been_told(
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

    async def test_something_in_front_of_kling_answers_with_a_page(self, start: Start) -> None:
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

    async def test_result_missing_succeeds_with_nothing(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start(result_missing=True)

        created = await caller.create(callback_url=callback_receiver.url)
        await caller.wait_until_announced()

        assert callback_receiver.bodies[-1]["task_result"] == {}
        assert (await caller.query(IMAGES, created["task_id"]))["task_result"] == {}

    async def test_result_late_is_known_to_queries_alone_and_later(
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

    async def test_fresh_urls_differ_from_those_that_were_pushed(self, start: Start) -> None:
        caller = await start(fresh_urls=True)
        created = await caller.create()
        await caller.wait_until_announced()

        urls = [(await caller.query(IMAGES, created["task_id"]))["task_result"]["images"][0]["url"] for _ in range(2)]

        assert len(set(urls)) == 2
        assert len({urlsplit(url).path for url in urls}) == 1
        assert [(await caller.client.get(url)).status_code for url in urls] == [200, 200]

    async def test_stall_never_ends_and_slow_takes_its_time(self, start: Start) -> None:
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


class TestControl:
    async def test_faults_are_shown_as_they_stand_and_end_on_request(self, start: Start) -> None:
        caller = await start()

        await caller.set_faults(drop={"next": 2}, refuse=[1303], processing_for="1m")
        shown = (await caller.client.get("/_simulator/faults")).json()
        await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat"})
        ended = (await caller.client.delete("/_simulator/faults")).json()

        pace = {"submitted_for": 0.0, "processing_for": 60.0, "slow_for": 30.0}
        assert shown == pace | {"drop": {"next": 2}, "refuse": [{"code": 1303, "next": 1}]}
        assert ended == pace

    @pytest.mark.parametrize(
        "given",
        [{"dorp": 1}, {"drop": 2}, {"drop": {"next": -1}}, {"drop": {"nxt": 1}}, {"refuse": [{}]}, {"late_by": "x"}],
    )
    async def test_what_means_nothing_is_refused_and_changes_nothing(self, start: Start, given: Json) -> None:
        caller = await start()

        answer = await caller.client.post("/_simulator/faults", json={"duplicate": 1} | given)

        assert answer.status_code == 400
        assert "duplicate" not in (await caller.client.get("/_simulator/faults")).json()

    async def test_state_tells_what_was_seen_and_sent(self, start: Start, callback_receiver: CallbackReceiver) -> None:
        caller = await start()
        image = base64.b64encode(b"\xff\xd8\xff" + bytes(9000)).decode()
        body = {"subject_image_list": [{"subject_image": image}], "callback_url": callback_receiver.url}

        created = await caller.create(**body)
        await caller.wait_until_announced()
        await caller.query(IMAGES, created["task_id"])
        state = await caller.state()

        assert state["counts"]["created"] == state["counts"]["queries"] == 1
        assert state["creates"][0]["status"] == 200
        assert len(json.dumps(state["creates"][0]["body"])) < 1000
        assert [(push["status"], push["answer"]) for push in state["pushes"]] == [("processing", 200), ("succeed", 200)]
        assert state["pushes"][-1]["body"].encode() == callback_receiver.received[-1][1]

    async def test_the_oldest_tasks_are_forgotten_beyond_what_is_kept(self, start: Start) -> None:
        caller = await start(keep=5)
        made = [(await caller.create(external_task_id=f"own-{n}"))["task_id"] for n in range(8)]

        state = await caller.state()

        assert [task["id"] for task in state["tasks"]] == made[3:]
        assert len(state["creates"]) == 5
        assert (await caller.client.get(f"{IMAGES}/{made[0]}")).status_code == 404
        assert await caller.create(external_task_id="own-0")

    async def test_ids_are_not_all_numbers_and_no_two_alike(self, start: Start) -> None:
        caller = await start()

        made = [(await caller.create("/v1/videos/text2video", prompt="a cat"))["task_id"] for _ in range(40)]

        assert len(set(made)) == 40
        assert 0 < sum(task_id.isdigit() for task_id in made) < 40
        assert all(re.fullmatch(r"\d{18}|[\w-]{22}", task_id) for task_id in made)

    async def test_stopping_ends_answers_that_are_held_back(self) -> None:
        options = Options.parse({"late": True, "late_by": "1h"})
        async with AsyncExitStack() as stack:
            simulator = await stack.enter_async_context(serve(options, clock=FakeClock(), rng=Random(1)))
            client = await stack.enter_async_context(plain_http())
            headers = {"authorization": "Bearer key"}
            url = f"{simulator.url}/v1/videos/text2video"
            creating = asyncio.create_task(client.post(url, json={"prompt": "a cat"}, headers=headers))
            await wait_until(lambda: simulator.counts["created"] == 1)

            simulator.stop()

            assert (await creating).status_code == 200

    async def test_a_simulator_that_breaks_stops_and_says_so(self) -> None:
        def watch(event: str, /, **_: object) -> None:
            if event == "task.changed":
                raise RuntimeError("broken")

        async def broken() -> None:
            async with serve(Options.parse({"submitted_for": 0}), observer=watch) as simulator:
                body, headers = {"prompt": "a cat"}, {"authorization": "Bearer key"}
                async with plain_http(base_url=simulator.url) as client:
                    await client.post("/v1/videos/text2video", json=body, headers=headers)
                await asyncio.wait_for(simulator.stopping.wait(), 10)

        with pytest.raises(RuntimeError, match="broken"):
            await broken()

    @pytest.mark.parametrize(
        "given",
        [
            {"dialect": "klingon"},
            {"access_key": "ak"},
            {"dropp": 1},
            {"processing_for": "soon"},
            {"keep": 0},
            {"endpoints": "x"},
        ],
    )
    async def test_options_that_mean_nothing_are_refused_before_anything_is_bound(self, given: Json) -> None:
        with pytest.raises(ValueError, match=r"."):
            Options.parse(given)

    async def test_the_command_serves_until_it_is_told_to_stop(self) -> None:
        code = "from receiver.kling.simulator import run; run('127.0.0.1:0', drop='10%', refuse='1303:2,502')"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            async with plain_http(base_url=found[0]) as client:
                faults = (await client.get("/_simulator/faults")).json()
            process.send_signal(signal.SIGTERM)

            assert await asyncio.wait_for(process.wait(), 10) == 0
            assert faults["drop"] == {"share": 0.1}
            assert [denial["code"] for denial in faults["refuse"]] == [1303, 502]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
