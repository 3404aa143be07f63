"""The client and the simulator share no code, so each checks the other's reading of Kling's documentation."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from harness.clock import FakeClock
from harness.waiting import wait_until

from receiver.domain.errors import (
    AccountBlocked,
    AuthenticationFailed,
    InvalidParameters,
    KlingUncertain,
    ServerError,
    SlotsFull,
    TokenRejected,
    UnknownResource,
)
from receiver.domain.model import Generation, Json, TaskState
from receiver.domain.secret import Secret
from receiver.kling import create_body, endpoints, protocol
from receiver.kling import images as kling_images
from receiver.kling.client import KlingClient
from receiver.kling.simulator import Options, Simulator, serve
from receiver.net.http_client import HttpClient
from receiver.settings import Dialect, KlingSettings

IMAGE = "https://images.example.com/a.png"
NAME = "tsk_1"
MULTI = "images/multi-image2image"
EXTRA_FIELDS: dict[str, Json] = {"videos/video-extend": {"video_id": "v"}}
PATHS = [path.replace("{model}", "kling-3.0-turbo") for path, each in endpoints.CATALOGUE.items() if each.asynchronous]
VIDEOS = ["text-to-video/kling-3.0-turbo", "image-to-video/kling-4.0"]


@asynccontextmanager
async def client_and_simulator(
    *, key: str = "key", signs: bool = False, **given: object
) -> AsyncIterator[tuple[KlingClient, Simulator]]:
    clock = FakeClock()
    options = Options.parse({"submitted_for": 0, "processing_for": 0, "seed": 7} | given)
    http_client = HttpClient(user_agent="kling-receiver/test")
    async with serve(options, clock=clock) as simulator:
        settings = KlingSettings.model_construct(
            base_url=simulator.url,
            api_key=None if signs else Secret(key),
            access_key=Secret("access") if signs else None,
            secret_key=Secret("secret" * 6) if signs else None,
            timeout=timedelta(seconds=5),
        )
        yield KlingClient(settings, http_client=http_client, clock=clock), simulator
        await http_client.aclose()


def body_for(path: str, *, name: str = NAME, **more: object) -> bytes:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    body = {"prompt": "a cat", **EXTRA_FIELDS.get(path, {}), **more}
    images = [IMAGE] if endpoint.images is not None else []
    filled = kling_images.fill_images(endpoint, body, images, Dialect.OFFICIAL)
    content = json.dumps(filled).encode()
    return create_body.compose(
        content, generation=endpoint.generation, callback_url=None, external_task_id=name
    ).content


def generation_of(path: str) -> Generation:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    return endpoint.generation


async def test_each_endpoints_task_is_created_and_found_by_both_ids() -> None:
    async with client_and_simulator() as (kling, simulator):
        for path in PATHS:
            name = f"{path.replace('/', ' ')}:ü"
            made = await kling.create(path, body_for(path, name=name))
            assert made.error is None
            assert made.report is not None
            assert made.report.kling_id
            await wait_until(lambda: all(task["told"] for task in simulator.state()["tasks"]))

            for answer in (
                await kling.query(path, made.report.kling_id),
                await kling.query(path, name),
                await kling.find_by_external_id(path, name),
            ):
                assert answer is not None
                assert answer.report is not None
                assert answer.report.state is TaskState.SUCCEED
                assert answer.report.kling_id == made.report.kling_id
                assert answer.report.external_task_id == name
                assert answer.report.generation is generation_of(path)
                assert answer.report.result
                assert answer.report.cost is not None
                assert set(answer.report.cost.charges) >= {"units"}
                assert protocol.parse_status(protocol.unwrap_task(answer.body)) == answer.report


@pytest.mark.parametrize("path", [MULTI, "text-to-video/kling-3.0-turbo"])
async def test_a_lookup_of_an_uncreated_task_finds_nothing(path: str) -> None:
    async with client_and_simulator() as (kling, _):
        answer = await kling.query(path, "1")
        found = await kling.find_by_external_id(path, NAME)

    assert isinstance(answer.error, UnknownResource)
    assert found is None


async def test_one_answer_covers_twenty_tasks_at_most_by_kling_ids() -> None:
    async with client_and_simulator(submitted_for="1h") as (kling, _):
        paths = [(VIDEOS[number % 2], f"n{number}") for number in range(21)]
        made = [await kling.create(path, body_for(path, name=name)) for path, name in paths]
        ids = [answer.report.kling_id or "" for answer in made if answer.report is not None]

        reports = await kling.query_batch(VIDEOS[0], [*ids[:18], "n20", "unknown"])
        with pytest.raises(InvalidParameters):
            await kling.query_batch(VIDEOS[0], ids)

    assert list(reports) == ids[:18]
    assert {protocol.parse_status(answer.body).kling_id for answer in reports.values()} == set(reports)


async def test_a_failed_task_has_its_reason() -> None:
    async with client_and_simulator() as (kling, simulator):
        made = await kling.create(MULTI, body_for(MULTI, prompt="[fail: no face in the image]"))
        assert made.report is not None
        await wait_until(lambda: all(task["told"] for task in simulator.state()["tasks"]))
        answer = await kling.query(MULTI, made.report.kling_id or "")

    assert answer.report is not None
    assert (answer.report.state, answer.report.message) == (TaskState.FAILED, "no face in the image")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ({"code": 1303}, SlotsFull),
        ({"code": 1102}, AccountBlocked),
        ({"code": 1003}, TokenRejected),
        ({"code": 5001}, ServerError),
        ({"code": 5000}, KlingUncertain),
        ({"code": 5002, "created": True}, KlingUncertain),
    ],
)
async def test_a_refused_create_has_its_error_type(refusal: Json, kind: type[Exception]) -> None:
    async with client_and_simulator(refuse=[refusal]) as (kling, _):
        answer = await kling.create(MULTI, body_for(MULTI))
        found = await kling.find_by_external_id(MULTI, NAME)

    assert type(answer.error) is kind
    assert (found is not None) is bool(refusal.get("created"))


async def test_a_create_with_a_broken_connection_can_be_looked_up() -> None:
    async with client_and_simulator(hang_up={"next": 1}) as (kling, _):
        with pytest.raises(KlingUncertain):
            await kling.create(MULTI, body_for(MULTI))
        found = await kling.find_by_external_id(MULTI, NAME)

    assert found is not None


async def test_a_wrong_key_is_refused_and_a_key_pair_is_accepted() -> None:
    async with client_and_simulator(api_key="right", key="wrong") as (kling, _):
        refused = await kling.create(MULTI, body_for(MULTI))
    async with client_and_simulator(access_key="access", secret_key="secret" * 6, signs=True) as (kling, _):
        taken = await kling.create(MULTI, body_for(MULTI))

    assert isinstance(refused.error, AuthenticationFailed)
    assert taken.error is None


async def test_the_newest_tasks_are_listed_if_the_endpoint_has_a_list() -> None:
    async with client_and_simulator() as (kling, _):
        assert await kling.list_newest(MULTI) == []
        for name in ("tsk_1", "tsk_2"):
            await kling.create(MULTI, body_for(MULTI, name=name))

        listed = await kling.list_newest(MULTI)

        assert listed is not None
        assert {reading.external_task_id for reading in listed} == {"tsk_1", "tsk_2"}
        assert await kling.list_newest(VIDEOS[0]) is None
