"""Each endpoint of Kling the whole way: submitted, called back or polled, and delivered with its results.

One receiver and one simulated Kling run all endpoints at the same time. Each case then checks its own.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import Sink, a_config, a_kling, a_receiver, a_sink, a_webhook_route
from harness.waiting import wait_until
from httpx2 import AsyncClient

from receiver.domain.model import Generation, Json
from receiver.kling.endpoints import CATALOGUE, Endpoint, resolve
from receiver.kling.images import fill_images
from receiver.settings import Dialect

IMAGE = "https://images.example.com/a.png"
EXTRA_FIELDS: Mapping[str, Json] = {"videos/video-extend": {"video_id": "v"}}

# Possible future endpoints, one of each form. The receiver does not know them.
UNKNOWN_ENDPOINTS = {
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
FUTURE_ENDPOINTS = [
    f"v1/{path.removeprefix('v1/')}={kind}"
    if path.startswith(("v1/", "videos/"))
    else f"{path.partition('/')[0]}={kind}"
    for path, kind in UNKNOWN_ENDPOINTS.items()
]
MODELS = ("kling-3.0-turbo", "o3")
RESULT_KINDS = {
    path.replace("{model}", model): each.result
    for path, each in CATALOGUE.items()
    for model in MODELS
    if each.asynchronous
} | UNKNOWN_ENDPOINTS
BY_GATEWAY = [
    "images/multi-image2image",
    "videos/text2video",
    "audio/text-to-audio",
    "general/custom-voices",
    "text-to-video/kling-3.0-turbo",
    "omni-image/kling-3.0-turbo",
    *(path for path in RESULT_KINDS if path.endswith("/o3")),
    *UNKNOWN_ENDPOINTS,
]
CASES = [(way, path) for way in ("pushed", "polled") for path in RESULT_KINDS] + [
    ("gateway", path) for path in BY_GATEWAY
]


@dataclass(kw_only=True)
class Results:
    """All results: events by the name of each task, and the gateway's answers."""

    events: dict[str, Json] = field(default_factory=dict)
    gateway_answers: dict[str, Json] = field(default_factory=dict)
    speech_answer: Json = field(default_factory=dict)
    callbacks: set[str] = field(default_factory=set)
    tasks: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run all endpoints once."""
    return asyncio.run(run_everything(tmp_path_factory.mktemp("endpoints")))


async def run_everything(folder: Path) -> Results:
    results = Results()
    async with a_sink() as sink, a_kling(endpoints=FUTURE_ENDPOINTS, submitted_for="0s") as kling:
        route = a_webhook_route(sink)
        patient = a_config(kling.url, more='[poll]\nafter = "10m"\nevery = "10m"\n' + route)
        eager = a_config(kling.url, more='[poll]\nafter = "200ms"\nevery = "1s"\n' + route)
        async with a_receiver(folder, patient) as receiver:
            async with receiver.client() as client:
                await asyncio.gather(*(submit(client, "pushed", path) for path in RESULT_KINDS))
                await asyncio.gather(*(create_by_gateway(client, path) for path in BY_GATEWAY))
                results.speech_answer = (await client.post("/kling/v1/audio/tts", json={"text": "a cat"})).json()
                await wait_until_delivered(sink, len(RESULT_KINDS) + len(BY_GATEWAY))
                for path in BY_GATEWAY:
                    results.gateway_answers[path] = await query_by_gateway(client, path)
            results.callbacks = {push["task_id"] for push in kling.state()["pushes"] if push["answer"] == 200}
            kling.configure({"drop": "always"})
            await receiver.restart(eager)
            async with receiver.client() as client:
                await asyncio.gather(*(submit(client, "polled", path) for path in RESULT_KINDS))
                await wait_until_delivered(sink, len(CASES))
            results.tasks = receiver.rows("SELECT state, count(*) FROM tasks GROUP BY state")
    events = [json.loads(body) for body in sink.bodies]
    results.events = {event["data"]["task"]["external_task_id"]: event for event in events}
    return results


def name_of(way: str, path: str) -> str:
    return f"{way} {path.replace('/', ' ')}"


def body_for(way: str, path: str) -> Json:
    endpoint = endpoint_of(path)
    body: Json = {"prompt": "a cat", "n": 2} if endpoint.pack == "image" else {"prompt": "a cat"}
    own: Json = {"external_task_id": name_of(way, path)}
    body |= EXTRA_FIELDS.get(path, {}) | (own if endpoint.generation is Generation.LEGACY else {"options": own})
    return fill_images(endpoint, body, [IMAGE] if endpoint.images is not None else [], Dialect.OFFICIAL)


def endpoint_of(path: str) -> Endpoint:
    endpoint = resolve(path)
    assert endpoint is not None, path
    return endpoint


async def submit(client: AsyncClient, way: str, path: str) -> None:
    answer = await client.post("/api/tasks", json={"endpoint": path, "body": body_for(way, path)})
    assert answer.status_code == 202, answer.text


async def create_by_gateway(client: AsyncClient, path: str) -> None:
    answer = await client.post(f"/kling{endpoint_of(path).url_path}", json=body_for("gateway", path))
    assert (answer.status_code, answer.json()["code"]) == (200, 0), answer.text


async def query_by_gateway(client: AsyncClient, path: str) -> Json:
    """Query Kling through the gateway as a client does: one task by external id, and the list."""
    endpoint, name = endpoint_of(path), name_of("gateway", path)
    one = (await client.get(f"/kling{endpoint.query_path(name, external=True)}")).json()["data"]
    if endpoint.generation is Generation.NEW:
        some = (await client.post("/kling/tasks", json={"limit": 500})).json()["data"]["result"]
        return {"one": one[0], "some": [each["external_id"] for each in some]}
    some = (await client.get(f"/kling{endpoint.url_path}?pageNum=1&pageSize=500")).json()["data"]
    return {"one": one, "some": [each["task_info"]["external_task_id"] for each in some]}


async def wait_until_delivered(sink: Sink, number: int) -> None:
    await wait_until(lambda: len(sink.received) >= number, seconds=60)


def urls_in(entry: Mapping[str, Any]) -> Sequence[str]:
    return [value for value in entry.values() if isinstance(value, str) and value.startswith("http")]


@pytest.mark.parametrize(("way", "path"), CASES, ids=[name_of(*case) for case in CASES])
def test_each_endpoint_delivers_its_results(results: Results, way: str, path: str) -> None:
    event = results.events[name_of(way, path)]

    data, kind = event["data"], RESULT_KINDS[path]
    assert (event["type"], data["verified"]) == ("task.succeed", "api")
    assert (data["task"]["endpoint"], data["source"]) == (path, "poll" if way == "polled" else "callback")
    assert (data["task"]["kling_id"] in results.callbacks) is (way != "polled")
    assert kind in data["result"]
    assert all(urls_in(entry) for entry in data["result"][kind])
    assert len(data["result"][kind]) == (2 if endpoint_of(path).pack == "image" and kind == "images" else 1)
    word = data["kling"].get("task_status") or data["kling"].get("status")
    assert word == ("succeeded" if endpoint_of(path).generation is Generation.NEW else "succeed")


@pytest.mark.parametrize("path", BY_GATEWAY)
def test_a_gateway_client_can_query_and_list_its_task(results: Results, path: str) -> None:
    answer, name = results.gateway_answers[path], name_of("gateway", path)

    task = results.events[name]["data"]["task"]
    assert (answer["one"].get("task_id") or answer["one"].get("id")) == task["kling_id"]
    assert name in answer["some"]


def test_each_task_is_created_and_reported_once(results: Results) -> None:
    assert len(results.events) == len(CASES)
    assert results.tasks == [("succeed", len(CASES))]
    assert results.speech_answer["data"]["task_result"]["audios"]
