"""Pipelined requests: their limit, their order, and what follows a bad one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from harness.echo_app import CHUNKED, GET, SHORT_LIMITS, echo, outlast_the_limits
from harness.waiting import let_loop_run
from harness.web_app import SendBytes, Serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.web.server.connections import ConnectionLimits


async def test_a_few_requests_may_be_pipelined(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(pipelined=3))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    bodies = [b"a" * 150_000, b"b", b"c" * 300_000, b"d"]
    requests = [
        CHUNKED + b"1\r\n0\r\n%x\r\n" % len(bodies[0]) + bodies[0] + b"\r\n0\r\n\r\n",
        *(GET + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies[1:]),
    ]

    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(b"".join(requests))
            for body in bodies:
                await reader.readuntil(b"\r\n\r\nheard ")
                assert (await reader.readexactly(len(body) + (body == bodies[0]))).endswith(body)
    writer.close()


async def test_a_connection_ends_after_too_many_pipelined_requests(serve: Serve, send_bytes: SendBytes) -> None:
    received = []

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(scope["path"])
        await echo(scope, receive, send)

    address = await serve(count, limits=ConnectionLimits(pipelined=3))

    async with asyncio.timeout(5):
        few = await send_bytes(address, (GET + b"\r\n") * 20)
        await send_bytes(address, (GET + b"\r\n") * 7_000)

    assert few.count(b"HTTP/1.1 200 OK\r\n") == few.count(b"HTTP/1.1 ") == 4
    assert len(received) == 8


async def test_a_bad_pipelined_request_is_refused_after_the_previous_answer(
    serve: Serve, send_bytes: SendBytes
) -> None:
    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await let_loop_run()  # so that the next request arrives first
        await echo(scope, receive, send)

    address = await serve(wait)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, GET + b"\r\n" + CHUNKED.replace(b"/ ", b"/next ") + b"2\r\nhi\r\nzz\r\n")

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
    assert answer.index(b"heard ") < answer.index(b"HTTP/1.1 400 ")


async def test_a_client_that_waits_for_an_answer_meets_no_body_deadline(serve: Serve) -> None:
    async def ponder(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await outlast_the_limits(address)
        await echo(scope, receive, send)

    address = await serve(ponder, limits=SHORT_LIMITS)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    body = b"b" * 1_000_000

    writer.write(GET + b"\r\n" + GET.replace(b"GET", b"PUT") + b"content-length: %d\r\n\r\n" % len(body) + body)

    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\nheard ")
        await reader.readuntil(b"\r\n\r\nheard ")
        assert await reader.readexactly(len(body)) == body
    writer.close()


async def test_endless_pipelined_requests_are_not_read(serve: Serve) -> None:
    done, ended = asyncio.Event(), asyncio.Event()

    async def watch_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        while not done.is_set() and not await request.is_disconnected():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.001)
        await PlainTextResponse("done")(scope, receive, send)
        ended.set()

    address = await serve(watch_disconnect)
    _, writer = await asyncio.open_connection(address.host, address.port)
    flood = (GET + b"\r\n") * 1_000_000

    writer.write(flood)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 1)

    assert writer.transport.get_write_buffer_size() > len(flood) // 2
    done.set()
    await ended.wait()
    writer.transport.abort()


async def test_a_disconnect_is_noticed_while_another_request_waits(serve: Serve) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        async def water() -> AsyncIterator[bytes]:
            while True:
                begun.set()
                await asyncio.sleep(0.01)
                yield b"x"

        try:
            await StreamingResponse(water())(scope, receive, send)
        finally:
            ended.set()

    address = await serve(pour)
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write((GET + b"\r\n") * 2)
    await begun.wait()

    writer.transport.abort()

    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_request_before_garbage_is_answered(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo)

    answer = await send_bytes(address, GET + b"\r\n\x00\x01garbage\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"heard " in answer


async def test_an_upgrade_offer_is_answered_and_the_connection_closes(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo, limits=ConnectionLimits(idle=timedelta(seconds=0.3)))
    offer = GET + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"

    async with asyncio.timeout(3):
        answer = await send_bytes(address, offer)

    assert answer.startswith(b"HTTP/1.1 200 ")
