"""A job submitted by the form: the same task as by the API, once, with faults shown at their fields."""

import asyncio
import base64
import json
import re
import struct
import zlib
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from harness.factories import a_task
from harness.http_client import plain_http
from harness.web_app import READ_TOKEN, TOKEN, WebApp

from receiver.domain.costs import Cost
from receiver.store.interfaces import ById, Change
from receiver.web.console.job_form import form_endpoints

pytestmark = pytest.mark.asyncio(loop_scope="session")

MULTI = "images/multi-image2image"
FORM = "/console/submit"


def a_png(side: int = 300) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def address(endpoint: str) -> str:
    return f"{FORM}?endpoint={quote(endpoint)}"


async def open_form(web: WebApp, endpoint: str = MULTI) -> str:
    answer = await web.client.get(address(endpoint))
    assert answer.status_code == 200, answer.text
    return answer.text


async def send(
    web: WebApp, fields: dict[str, str], *files: tuple[str, bytes], endpoint: str = MULTI, token: str = TOKEN
) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "origin": f"http://{web.admin}", "sec-fetch-site": "same-origin"}
    parts = [("images", (name, content, "image/png")) for name, content in files]
    # A browser sends a part without name and content for a field without a choice.
    async with plain_http(base_url=f"http://{web.admin}", headers=headers) as client:
        return await client.post(address(endpoint), data=fields, files=parts or [("images", ("", b"", "image/png"))])


async def tasks(web: WebApp) -> list[Any]:
    return list((await web.store.catalog.tasks()).items)


def faults(page: str) -> dict[str, str]:
    return dict(re.findall(r'id="fault-(\w+)">([^<]*)<', page))


async def stored_body(web: WebApp) -> Any:
    [task] = await tasks(web)
    return json.loads(await web.store.tasks.intent(task.id))


async def test_the_form_submits_pictures_as_the_command_does(web: WebApp) -> None:
    fields = {
        "key": "k1",
        "prompt": "a café\r\nat night",
        "n": "3",
        "aspect_ratio": "16:9",
        "model_name": "kling-v2-1",
        "more": '{"style_image": "https://a.example/s.png", "n": 9}',
        "image_urls": "https://a.example/2.png\r\n",
        "label": "cats",
        "batch": "spring",
        "tags": "project:ads, team:a",
    }

    answer = await send(web, fields, ("a.png", a_png()), ("b.png", a_png(301)))
    [task] = await tasks(web)
    body = await stored_body(web)

    assert (answer.status_code, answer.headers["location"]) == (303, f"/console/tasks/{task.id}")
    assert (task.label, task.batch, dict(task.tags)) == ("cats", "spring", {"project": "ads", "team": "a"})
    assert body["subject_image_list"] == [
        {"subject_image": base64.b64encode(a_png()).decode()},
        {"subject_image": base64.b64encode(a_png(301)).decode()},
        {"subject_image": "https://a.example/2.png"},
    ]
    assert (body["prompt"], body["n"], body["aspect_ratio"]) == ("a café\r\nat night", 3, "16:9")
    assert body["style_image"] == "https://a.example/s.png"


async def test_a_form_submitted_twice_creates_one_task(web: WebApp) -> None:
    [key] = re.findall(r'name="key" value="([^"]+)"', await open_form(web))
    fields = {"key": key, "prompt": "a cat"}

    answers = await asyncio.gather(*(send(web, fields, ("a.png", a_png())) for _ in range(3)))

    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len(await tasks(web)) == 1


async def test_every_opened_form_has_its_own_idempotency_key(web: WebApp) -> None:
    keys = [re.findall(r'name="key" value="([^"]+)"', await open_form(web))[0] for _ in range(2)]

    assert len(set(keys)) == 2


async def test_a_key_with_another_job_is_refused_with_a_new_form(web: WebApp) -> None:
    await send(web, {"key": "k1", "prompt": "a cat"}, ("a.png", a_png()))

    answer = await send(web, {"key": "k1", "prompt": "a dog"}, ("a.png", a_png()))

    assert answer.status_code == 409
    assert 'role="alert"' in answer.text
    assert 'name="key" value="k1"' not in answer.text
    assert len(await tasks(web)) == 1


@pytest.mark.parametrize(
    ("fields", "files", "name", "text"),
    [
        ({}, [], "images", "needs at least 1 picture"),
        ({}, [("a.png", a_png())] * 5, "images", "takes at most 4 pictures"),
        ({}, [("a.png", a_png(299))], "images", "a.png is 299 x 299 pixels"),
        ({}, [("<b>.svg", b"<svg onload=alert(1)>")], "images", "&lt;b&gt;.svg is neither a JPEG nor a PNG"),
        ({}, [("a.png", a_png() + bytes(10 * 1024 * 1024))], "images", "larger than 10 MB"),
        ({"n": "0"}, [("a.png", a_png())], "n", "from 1 to 9"),
        ({"n": "9" * 5000}, [("a.png", a_png())], "n", "from 1 to 9"),
        ({"aspect_ratio": "1:99"}, [("a.png", a_png())], "aspect_ratio", "Choose one of"),
        ({"prompt": "x" * 2501}, [("a.png", a_png())], "prompt", "2501 characters"),
        ({"more": "[1]"}, [("a.png", a_png())], "more", "not a JSON object"),
        ({"image_urls": "javascript:alert(1)"}, [("a.png", a_png())], "image_urls", "is not a URL"),
        ({"tags": "project"}, [("a.png", a_png())], "tags", "key:value"),
    ],
)
async def test_an_error_is_shown_at_its_field(
    web: WebApp, fields: dict[str, str], files: list[tuple[str, bytes]], name: str, text: str
) -> None:
    answer = await send(web, {"key": "k1", "prompt": "<script>alert(1)</script>", **fields}, *files)

    assert answer.status_code == 400
    assert text in faults(answer.text)[name]
    assert list(faults(answer.text)) == [name]
    assert "<script>alert" not in answer.text
    assert await tasks(web) == []


async def test_an_error_of_the_whole_job_is_shown_above_the_form(web: WebApp) -> None:
    fields = {"key": "k1", "more": '{"callback_url": 5}', "label": "my label"}

    answer = await send(web, fields, ("a.png", a_png()))

    assert answer.status_code == 400
    assert "callback_url" in re.findall(r'role="alert">([^<]*)<', answer.text)[0]
    assert 'value="my label"' in answer.text


@pytest.mark.parametrize("endpoint", form_endpoints())
async def test_every_endpoint_has_a_form(web: WebApp, endpoint: str) -> None:
    page = await open_form(web, endpoint)

    assert f"<option selected>{endpoint}</option>" in page
    assert 'name="more"' in page


async def test_the_model_of_the_new_generation_becomes_part_of_the_path(web: WebApp) -> None:
    fields = {"key": "k1", "prompt": "a cat", "model": "kling-3.0-turbo"}

    answer = await send(web, fields, ("a.png", a_png()), endpoint="image-to-video/{model}")
    wrong = await send(web, {**fields, "model": "../x"}, ("a.png", a_png()), endpoint="image-to-video/{model}")

    [task] = await tasks(web)
    assert (answer.status_code, task.endpoint) == (303, "image-to-video/kling-3.0-turbo")
    assert (wrong.status_code, list(faults(wrong.text))) == (400, ["model"])
    assert (await stored_body(web))["contents"][0]["type"] == "first_frame"


async def test_only_our_own_page_and_an_administrator_may_submit(web: WebApp) -> None:
    read_only = await send(web, {"key": "k1"}, ("a.png", a_png()), token=READ_TOKEN)
    foreign = await web.client.post(address(MULTI), data={"key": "k1"}, headers={"sec-fetch-site": "cross-site"})
    reader_page = await web.client.get(FORM, headers={"authorization": f"Bearer {READ_TOKEN}"})

    assert (read_only.status_code, foreign.status_code) == (403, 403)
    assert 'type="submit">Submit<' not in reader_page.text
    assert await tasks(web) == []


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("application/x-www-form-urlencoded", b"key=k1"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nno head--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a" * 5000 + b"\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="key"\r\n\r\n\xff\r\n--x--'),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--x--",
        ),
        ("multipart/form-data; boundary=" + "x" * 71, b"--x--"),
    ],
)
async def test_a_malformed_form_is_refused(web: WebApp, type_: str, body: bytes) -> None:
    headers = {"content-type": type_, "origin": f"http://{web.admin}", "sec-fetch-site": "same-origin"}

    answer = await web.client.post(address(MULTI), content=body, headers=headers)

    assert answer.status_code == 400
    assert await tasks(web) == []


async def test_an_unknown_endpoint_has_no_form(web: WebApp) -> None:
    for path in ("audio/tts", "x", "images/multi-image2image/../x"):
        assert (await web.client.get(address(path))).status_code == 400


async def test_the_form_shows_what_jobs_like_it_cost(web: WebApp) -> None:
    assert "No job of this endpoint has been charged yet." in await open_form(web)
    for number, amount in enumerate(("0.2", "0.4")):
        task = a_task(id=f"tsk_{number}", kling_id=f"{number}", external_task_id=None, endpoint=MULTI)
        await web.store.tasks.add(task, b'{"model_name": "kling-v2", "aspect_ratio": "<b>"}')
        change = Change(cost=Cost(charges={"units": Decimal(amount)}, raw="{}"))
        await web.store.tasks.apply(ById(id=task.id), lambda _task, _pending, change=change: change)  # type: ignore[misc]  # bound at definition

    page = await open_form(web)

    row = "<td>kling-v2</td><td>aspect_ratio &lt;b&gt;</td><td>about 0.3 units (median of 2 like it)</td>"
    assert row in page, page[page.index('id="prices"') :]
