"""Each endpoint of Kling's the whole way: submitted, called back or asked about, delivered with what it made.

One receiver and one simulated Kling do it for all of them at the same time; each case then looks at its own.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import Sink, a_config, a_kling, a_receiver, a_sink, a_webhook_route
from harness.support import until
from httpx2 import AsyncClient

from receiver.domain.model import Generation, Json
from receiver.kling.endpoints import CATALOGUE, Endpoint, fill_images, resolve
from receiver.settings import Dialect

IMAGE = "https://images.example.com/a.png"
WANTS_TOO: Mapping[str, Json] = {"videos/video-extend": {"video_id": "v"}}

# What Kling may have tomorrow, one of each form. The receiver has never heard of them.
UNHEARD_OF = {
    "videos/text2dance": "videos",
    "videos/3d-effects": "videos",
    "videos/text_to_video": "videos",
    "videos/user-avatar": "videos",
    "videos/a/b/c/d": "videos",
    "v1/worlds/text2world": "elements",
    "v1/3d/generations": "elements",
    "text-to-dance/kling-5": "videos",
    "posters/kling-image-9": "images",
    "dance/hailuo-2": "videos",
}
TOMORROW = [
    f"v1/{path.removeprefix('v1/')}={kind}"
    if path.startswith(("v1/", "videos/"))
    else f"{path.partition('/')[0]}={kind}"
    for path, kind in UNHEARD_OF.items()
]
MODELS = ("kling-3.0-turbo", "o3")
MAKES = {
    path.replace("{model}", model): each.result
    for path, each in CATALOGUE.items()
    for model in MODELS
    if each.asynchronous
} | UNHEARD_OF
BY_GATEWAY = [
    "images/multi-image2image",
    "videos/text2video",
    "audio/text-to-audio",
    "general/custom-voices",
    "text-to-video/kling-3.0-turbo",
    "omni-image/kling-3.0-turbo",
    *(path for path in MAKES if path.endswith("/o3")),
    *UNHEARD_OF,
]
CASES = [(way, path) for way in ("pushed", "polled") for path in MAKES] + [("gateway", path) for path in BY_GATEWAY]


@dataclass(kw_only=True)
class Came:
    """What came of everything: events by the name each task was given, and what was answered through the gateway."""

    events: dict[str, Json] = field(default_factory=dict)
    told: dict[str, Json] = field(default_factory=dict)
    spoken: Json = field(default_factory=dict)
    callbacks: set[str] = field(default_factory=set)
    tasks: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> Came:
    """Have everything done, once."""
    return asyncio.run(everything(tmp_path_factory.mktemp("endpoints")))


async def everything(folder: Path) -> Came:
    made = Came()
    async with a_sink() as sink, a_kling(endpoints=TOMORROW, submitted_for="0s") as kling:
        route = a_webhook_route(sink)
        patient = a_config(kling.url, more='[poll]\nafter = "10m"\nevery = "10m"\n' + route)
        eager = a_config(kling.url, more='[poll]\nafter = "200ms"\nevery = "1s"\n' + route)
        async with a_receiver(folder, patient) as receiver:
            async with receiver.client() as client:
                await asyncio.gather(*(submit(client, "pushed", path) for path in MAKES))
                await asyncio.gather(*(relay(client, path) for path in BY_GATEWAY))
                made.spoken = (await client.post("/kling/v1/audio/tts", json={"text": "a cat"})).json()
                await delivered(sink, len(MAKES) + len(BY_GATEWAY))
                for path in BY_GATEWAY:
                    made.told[path] = await told_of(client, path)
            made.callbacks = {push["task_id"] for push in kling.state()["pushes"] if push["answer"] == 200}
            kling.change({"drop": "always"})
            await receiver.restart(eager)
            async with receiver.client() as client:
                await asyncio.gather(*(submit(client, "polled", path) for path in MAKES))
                await delivered(sink, len(CASES))
            made.tasks = receiver.rows("SELECT state, count(*) FROM tasks GROUP BY state")
    events = [json.loads(body) for body in sink.bodies]
    made.events = {event["data"]["task"]["external_task_id"]: event for event in events}
    return made


def name_of(way: str, path: str) -> str:
    return f"{way} {path.replace('/', ' ')}"


def body_for(way: str, path: str) -> Json:
    endpoint = known(path)
    body: Json = {"prompt": "a cat", "n": 2} if endpoint.pack == "image" else {"prompt": "a cat"}
    own: Json = {"external_task_id": name_of(way, path)}
    body |= WANTS_TOO.get(path, {}) | (own if endpoint.generation is Generation.LEGACY else {"options": own})
    return fill_images(endpoint, body, [IMAGE] if endpoint.images is not None else [], Dialect.OFFICIAL)


def known(path: str) -> Endpoint:
    endpoint = resolve(path)
    assert endpoint is not None, path
    return endpoint


async def submit(client: AsyncClient, way: str, path: str) -> None:
    answer = await client.post("/api/tasks", json={"endpoint": path, "body": body_for(way, path)})
    assert answer.status_code == 202, answer.text


async def relay(client: AsyncClient, path: str) -> None:
    answer = await client.post(f"/kling{known(path).url_path}", json=body_for("gateway", path))
    assert (answer.status_code, answer.json()["code"]) == (200, 0), answer.text


async def told_of(client: AsyncClient, path: str) -> Json:
    """Ask Kling through the gateway, as a client of its does: about the task by its own id, and for a list."""
    endpoint, name = known(path), name_of("gateway", path)
    one = (await client.get(f"/kling{endpoint.query(name, external=True)}")).json()["data"]
    if endpoint.generation is Generation.NEW:
        some = (await client.post("/kling/tasks", json={"limit": 500})).json()["data"]["result"]
        return {"one": one[0], "some": [each["external_id"] for each in some]}
    some = (await client.get(f"/kling{endpoint.url_path}?pageNum=1&pageSize=500")).json()["data"]
    return {"one": one, "some": [each["task_info"]["external_task_id"] for each in some]}


async def delivered(sink: Sink, number: int) -> None:
    await until(lambda: len(sink.received) >= number, within=60)


def urls_in(entry: Mapping[str, Any]) -> Sequence[str]:
    return [value for value in entry.values() if isinstance(value, str) and value.startswith("http")]


@pytest.mark.parametrize(("way", "path"), CASES, ids=[name_of(*case) for case in CASES])
def test_a_task_comes_home_with_what_its_endpoint_makes(came: Came, way: str, path: str) -> None:
    event = came.events[name_of(way, path)]

    data, kind = event["data"], MAKES[path]
    assert (event["type"], data["verified"]) == ("task.succeed", "api")
    assert (data["task"]["endpoint"], data["source"]) == (path, "poll" if way == "polled" else "callback")
    assert (data["task"]["kling_id"] in came.callbacks) is (way != "polled")
    assert kind in data["result"]
    assert all(urls_in(entry) for entry in data["result"][kind])
    assert len(data["result"][kind]) == (2 if known(path).pack == "image" and kind == "images" else 1)
    word = data["kling"].get("task_status") or data["kling"].get("status")
    assert word == ("succeeded" if known(path).generation is Generation.NEW else "succeed")


@pytest.mark.parametrize("path", BY_GATEWAY)
def test_a_client_of_the_gateway_can_ask_kling_about_its_task_and_list_it(came: Came, path: str) -> None:
    told, name = came.told[path], name_of("gateway", path)

    task = came.events[name]["data"]["task"]
    assert (told["one"].get("task_id") or told["one"].get("id")) == task["kling_id"]
    assert name in told["some"]


def test_each_task_was_made_and_told_of_once_and_a_synchronous_call_left_none(came: Came) -> None:
    assert len(came.events) == len(CASES)
    assert came.tasks == [("succeed", len(CASES))]
    assert came.spoken["data"]["task_result"]["audios"]
