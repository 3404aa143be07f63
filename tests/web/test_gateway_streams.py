"""The gateway streams large bodies in both directions, in bounded memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2 as httpx
import pytest
from harness.clock import FakeClock
from harness.http_client import plain_http
from harness.waiting import wait_until_steady
from harness.web_app import Serve, WebApp
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver.domain.secret import Secret
from receiver.kling.client import KlingClient
from receiver.net.http_client import HttpClient
from receiver.settings import KlingSettings
from receiver.web.gateway import Gateway, error_response
from receiver.web.resources.tasks import TaskApi
from receiver.web.server.body import MAX_JOB_BODY, SMALL_BODY, BodyMemoryBudget
from receiver.web.server.error_boundary import ErrorBoundary
from receiver.web.server.problems import Problem, from_error

PASSES = "/kling/v1/audio/tts"
CREATE = "/kling/v1/images/generations"
PIECE = b"x" * 65536

Upstream = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def a_gateway(serve: Serve, upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway before *upstream*, which cannot create tasks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await upstream(Request(scope, receive)))(scope, receive, send)

    settings = KlingSettings(base_url=f"http://{await serve(app)}", api_key=Secret("key"))
    http_client = HttpClient(user_agent="kling-receiver/test")
    kling = KlingClient(settings, http_client=http_client, clock=FakeClock())
    gateway = Gateway(kling, kling, BodyMemoryBudget())  # type: ignore[arg-type]  # no test here makes a task
    address = await serve(ErrorBoundary(gateway, render=lambda _, error: error_response(error)))
    async with plain_http(base_url=f"http://{address}", timeout=30) as client:
        yield client
    await http_client.aclose()


async def test_a_large_body_reaches_kling_while_it_is_still_being_sent(serve: Serve) -> None:
    arrived, sent, digest = asyncio.Event(), 0, hashlib.sha256()

    async def upstream(request: Request) -> Response:
        async for piece in request.stream():
            digest.update(piece)
            arrived.set()
        return Response(b'{"code":0}', headers={"x-length": request.headers.get("content-length", "")})

    async def content() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(16):
            sent += len(PIECE)
            yield PIECE
        async with asyncio.timeout(20):
            await arrived.wait()  # while most of it is still here
        for _ in range(100):
            sent += len(PIECE)
            yield PIECE

    async with a_gateway(serve, upstream) as client:
        answer = await client.post(PASSES, content=content())

    assert (answer.status_code, answer.content) == (200, b'{"code":0}')
    assert digest.hexdigest() == hashlib.sha256(b"x" * sent).hexdigest()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_large_answer_is_streamed_no_faster_than_it_is_read(serve: Serve, *, declared: bool) -> None:
    pieces, made, read_first = 800, 0, asyncio.Event()

    async def upstream(_: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            nonlocal made
            for number in range(pieces):
                made += 1
                yield number.to_bytes(2, "big") * (len(PIECE) // 2)
                if number == 10:
                    async with asyncio.timeout(20):
                        await read_first.wait()

        headers = {"content-length": str(pieces * len(PIECE))} if declared else {}
        return StreamingResponse(body(), headers=headers, media_type="video/mp4")

    async with a_gateway(serve, upstream) as client, client.stream("GET", PASSES) as answer:
        coming = answer.aiter_raw()
        digest = hashlib.sha256(await anext(coming))
        read_first.set()
        await wait_until_steady(lambda: made)
        assert made < pieces / 2  # it waits for us, and holds but what sockets hold
        async for piece in coming:
            digest.update(piece)

    assert answer.headers["content-type"] == "video/mp4"
    assert ("content-length" in answer.headers) is declared
    whole = b"".join(number.to_bytes(2, "big") * (len(PIECE) // 2) for number in range(pieces))
    assert digest.hexdigest() == hashlib.sha256(whole).hexdigest()


async def test_a_truncated_large_answer_is_truncated_for_the_client(serve: Serve) -> None:
    async def upstream(_: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield PIECE
            raise ConnectionError

        return StreamingResponse(body())

    async with a_gateway(serve, upstream) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(PASSES)


async def test_a_disconnect_during_an_answer_stops_it(serve: Serve) -> None:
    stopped = asyncio.Event()

    async def upstream(_: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield PIECE
                    await asyncio.sleep(0)
            finally:
                stopped.set()

        return StreamingResponse(body())

    async with a_gateway(serve, upstream) as client:
        async with client.stream("GET", PASSES) as answer:
            await anext(answer.aiter_raw())

        async with asyncio.timeout(20):
            await stopped.wait()


@pytest.mark.parametrize("path", [PASSES, CREATE])
async def test_a_body_over_the_limit_is_refused_in_klings_shape(web: WebApp, path: str) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(MAX_JOB_BODY // len(PIECE) + 1):
            yield PIECE

    answer = await web.client.post(path, content=content(), timeout=60)

    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (413, 1201, "")
    assert str(MAX_JOB_BODY) in answer.json()["message"]
    assert (await web.client.get("/api/tasks")).json()["items"] == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_and_its_answer_pass_through(serve: Serve, method: str) -> None:
    seen: list[tuple[str, bytes]] = []

    async def upstream(request: Request) -> Response:
        seen.append((request.method, await request.body()))
        return Response(b"12345", 299, headers={"x-kling-trace": "t", "retry-after": "7", "set-cookie": "a=b"})

    async with a_gateway(serve, upstream) as client:
        content = b"{}" if method in ("PUT", "PATCH") else b""
        answer = await client.request(method, CREATE + "/8672", content=content)

    assert seen == [(method, content)]
    assert (answer.status_code, answer.content) == (299, b"" if method == "HEAD" else b"12345")
    assert answer.headers["content-length"] == "5"
    assert (answer.headers["x-kling-trace"], answer.headers["retry-after"]) == ("t", "7")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(serve: Serve, status: int) -> None:
    async def upstream(_: Request) -> Response:
        return Response(status_code=status)

    async with a_gateway(serve, upstream) as client:
        answer = await client.delete(CREATE + "/8672")

    assert (answer.status_code, answer.content) == (status, b"")


def _sized(size: int | None) -> Scope:
    return {"headers": [] if size is None else [(b"content-length", b"%d" % size)]}


async def test_large_bodies_share_the_memory_budget_and_small_ones_need_none() -> None:
    room, held, let_go = BodyMemoryBudget(4 * SMALL_BODY), asyncio.Event(), asyncio.Event()
    received: list[str] = []

    async def hold(name: str, size: int | None) -> None:
        async with room.reserve(_sized(size), limit=4 * SMALL_BODY):
            received.append(name)
            held.set()
            await let_go.wait()

    first = asyncio.create_task(hold("first", 3 * SMALL_BODY))
    await held.wait()
    others = [asyncio.create_task(hold(name, size)) for name, size in (("large", 2 * SMALL_BODY), ("unsaid", None))]
    async with room.reserve(_sized(SMALL_BODY), limit=4 * SMALL_BODY):
        assert received == ["first"]

    let_go.set()
    await asyncio.gather(first, *others)

    assert sorted(received) == ["first", "large", "unsaid"]
    async with room.reserve(_sized(None), limit=4 * SMALL_BODY):
        pass


async def test_large_jobs_of_the_api_and_the_gateway_share_the_memory_budget(serve: Serve) -> None:
    nothing: Any = None  # is asked of what stands behind
    tasks = TaskApi(
        nothing, nothing, nothing, nothing, BodyMemoryBudget(SMALL_BODY, wait_timeout=timedelta(milliseconds=20))
    )
    boundary = Middleware(ErrorBoundary, render=lambda _, error: from_error(error).response())
    routes = [Route("/api/tasks", tasks.create, methods=["POST"])]
    address = await serve(Starlette(routes=routes, middleware=[boundary]))

    async with plain_http(base_url=f"http://{address}", timeout=30) as client:
        answer = await client.post(
            "/api/tasks", json={"endpoint": "images/generations", "body": {"image": "A" * SMALL_BODY}}
        )

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "crowded", "5")


async def test_a_body_that_waits_too_long_for_memory_gets_503() -> None:
    room = BodyMemoryBudget(4 * SMALL_BODY, wait_timeout=timedelta(milliseconds=20))

    async with room.reserve(_sized(4 * SMALL_BODY), limit=4 * SMALL_BODY):
        async with room.reserve(_sized(5 * SMALL_BODY), limit=4 * SMALL_BODY):
            pass  # is refused for its size
        with pytest.raises(Problem) as caught:
            async with room.reserve(_sized(2 * SMALL_BODY), limit=4 * SMALL_BODY):
                pass

    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "5")
    async with room.reserve(_sized(4 * SMALL_BODY), limit=4 * SMALL_BODY):
        pass
