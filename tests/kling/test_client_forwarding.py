"""The client forwards any other call unchanged except for its key."""

from collections.abc import AsyncIterator

import pytest
from harness.scripted_kling import KEY, ScriptedAnswer, a_client, a_scripted_server, forward

from receiver.domain.errors import (
    InvalidRequest,
)
from receiver.net.http_client import StreamedBody


async def test_a_forwarded_call_and_its_answer_change_only_in_the_key() -> None:
    answer = ScriptedAnswer(
        document=b'{"code":0, "data":[ ]}',
        status=203,
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-Id": "r-9",
            "X-RateLimit-Remaining": "4",
            "Set-Cookie": "a=b",
            "Server": "x",
        },
    )
    headers = {
        "Authorization": "Bearer of-the-client",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Cookie": "a=b",
        "X-Forwarded-For": "10.0.0.1",
        "Host": "localhost",
        "Content-Length": "999",
    }
    async with a_scripted_server(answer) as server, a_client(server.url + "/kling") as kling:
        path = "v1/general/custom-voices/1"
        status, passed, body = await forward(
            kling, "DELETE", path, query="a=1&b=%20x", content=b'{"x":1}', headers=headers
        )

    (request,) = server.requests
    assert (request.method, request.target) == ("DELETE", "/kling/v1/general/custom-voices/1?a=1&b=%20x")
    assert request.body == b'{"x":1}'
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert not {"cookie", "x-forwarded-for"} & request.headers.keys()
    assert (status, body) == (203, b'{"code":0, "data":[ ]}')
    assert passed == {
        "content-length": "22",
        "content-type": "application/json; charset=utf-8",
        "x-request-id": "r-9",
        "x-ratelimit-remaining": "4",
    }


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("v1/images/generations/a%2Fb", "", "/v1/images/generations/a%2Fb"),
        ("/v1//images", "pageNum=1&pageSize=30", "/v1//images?pageNum=1&pageSize=30"),
        ("v1/images/ü x", "q=ü x#y", "/v1/images/%C3%BC%20x?q=%C3%BC%20x%23y"),
        ("tasks", "task_ids=a,b", "/tasks?task_ids=a,b"),
        ("/elsewhere.example/x", "", "/elsewhere.example/x"),
        ("v1/a?b#c", "", "/v1/a%3Fb%23c"),
        ("v1/a\r\nx: y", "", "/v1/a%0D%0Ax:%20y"),
    ],
)
async def test_a_forwarded_path_stays_on_klings_host_and_is_always_a_path(path: str, query: str, target: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document={"code": 0})) as server, a_client(server.url) as kling:
        await forward(kling, "GET", path, query=query)

    assert [request.target for request in server.requests] == [target]


@pytest.mark.parametrize("path", ["../admin", "v1/../../admin", "v1/%2e%2E/x", "."])
async def test_a_forwarded_path_may_not_contain_parent_segments(path: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document={})) as server, a_client(server.url) as kling:
        with pytest.raises(InvalidRequest):
            await forward(kling, "GET", path)

    assert not server.requests


async def test_a_failed_forwarded_call_returns_klings_status_and_body() -> None:
    answer = ScriptedAnswer(document={"code": 5000, "message": "x"}, status=500)
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        status, _, body = await forward(kling, "POST", "v1/audio/tts", content=b"{}")

    assert (status, body) == (500, b'{"code": 5000, "message": "x"}')


async def test_a_forwarded_answer_need_not_be_json() -> None:
    answer = ScriptedAnswer(document=b"\x89PNG", headers={"Content-Type": "image/png"})
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        status, headers, body = await forward(kling, "GET", "v1/x")

    assert (status, body, headers["content-type"]) == (200, b"\x89PNG", "image/png")


EXPIRED = {"code": 1004, "message": "authorization has expired"}


async def test_a_forwarded_call_is_repeated_once_with_a_new_token() -> None:
    answer = iter([ScriptedAnswer(document=EXPIRED, status=401), ScriptedAnswer(document={"code": 0})])
    async with a_scripted_server(lambda _: next(answer)) as server, a_client(server.url, pair=True) as kling:
        status, _, body = await forward(kling, "POST", "v1/audio/tts", content=b'{"text":"a"}')

    assert (status, body) == (200, b'{"code": 0}')
    assert [request.body for request in server.requests] == [b'{"text":"a"}'] * 2


async def test_another_401_is_returned_unchanged() -> None:
    answer = ScriptedAnswer(document=b'{ "code":1000 }', status=401)
    async with a_scripted_server(answer) as server, a_client(server.url, pair=True) as kling:
        status, _, body = await forward(kling, "GET", "v1/x")

    assert (status, body) == (401, b'{ "code":1000 }')
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [None, 6])
async def test_a_streamed_body_is_forwarded_as_it_arrives_and_never_twice(size: int | None) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            yield piece

    answer = ScriptedAnswer(document=EXPIRED, status=401)
    async with a_scripted_server(answer) as server, a_client(server.url, pair=True) as kling:
        status, _, _ = await forward(kling, "POST", "v1/x", content=StreamedBody(size=size, chunks=pieces()))

    assert status == 401
    (request,) = server.requests
    assert request.body == b"onetwo"
    assert request.headers.get("content-length") == (None if size is None else "6")
