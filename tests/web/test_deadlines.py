"""Connections that send too slowly, or send a bad head or body, are closed or refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from harness.echo_app import CHUNKED, GET, SHORT_LIMITS, echo, outlast_the_limits
from harness.web_app import SendBytes, Serve
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing at all"),
        pytest.param(b"GET / HT", id="half a request line"),
        pytest.param(GET + b"x: y", id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf", id="half a body"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", id="half a chunk"),
        pytest.param(GET + b"\r\n", id="a request, then nothing"),
        pytest.param(GET + b"\r\n" + GET, id="a request, then half of one"),
    ],
)
async def test_a_silent_client_is_cut_off(serve: Serve, send_bytes: SendBytes, sent: bytes) -> None:
    address = await serve(echo, limits=SHORT_LIMITS)

    async with asyncio.timeout(3):
        answer = await send_bytes(address, sent)

    assert b" 500 " not in answer


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: h\r\n", b"a: b\r\n", id="head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", id="body"),
    ],
)
async def test_a_client_that_drips_is_cut_off(serve: Serve, start: bytes, drop: bytes) -> None:
    address = await serve(echo, limits=SHORT_LIMITS)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(start)
    answer = asyncio.ensure_future(reader.read())

    async with asyncio.timeout(3):
        while not answer.done():
            writer.write(drop)
            await asyncio.wait([answer], timeout=0.02)

    # Still sending when it is cut off, it may get a reset instead of the answer.
    assert isinstance(answer.exception(), ConnectionResetError) or b" 408 " in answer.result()
    writer.close()


async def test_a_client_that_does_not_read_the_answer_is_cut_off(serve: Serve) -> None:
    ended = asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        async def water() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 65536

        try:
            await StreamingResponse(water())(scope, receive, send)
        finally:
            ended.set()

    address = await serve(pour, limits=SHORT_LIMITS)
    _, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    writer.write(GET + b"\r\n")

    async with asyncio.timeout(5):
        await ended.wait()

    writer.close()


async def test_a_slow_answer_is_not_cut_off(serve: Serve, send_bytes: SendBytes) -> None:
    async def ponder(scope: Scope, receive: Receive, send: Send) -> None:
        await outlast_the_limits(address)
        await echo(scope, receive, send)

    address = await serve(ponder, limits=SHORT_LIMITS)

    answer = await send_bytes(address, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi")

    assert b" 200 " in answer
    assert answer.endswith(b"heard hi")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(GET + b"x: " + b"a" * 20_000 + b"\r\n\r\n", 431, id="one large field"),
        pytest.param(GET + b"x: y\r\n" * 150 + b"\r\n", 431, id="many fields"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 431, id="a long path"),
        pytest.param(GET + b"x: " + b"a" * 2_000_000, 431, id="a field without an end"),
        pytest.param(GET + b"a:\r\n" * 20_000, None, id="fields without an end"),
        pytest.param(GET + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="two framings"),
        pytest.param(GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, id="two lengths"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(GET + b"host: other.example\r\n\r\n", 400, id="two hosts"),
        pytest.param(GET + b"content-length: -1\r\n\r\n", 400, id="a negative length"),
        pytest.param(GET + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", 400, id="a length of 5000 digits"),
        pytest.param(b"CONNECT a.example:443 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", None, id="connect"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None, id="HTTP/2"),
    ],
)
async def test_a_bad_head_is_refused(serve: Serve, send_bytes: SendBytes, head: bytes, status: int | None) -> None:
    address = await serve(echo)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, head)

    # Who is still sending when we close may get a reset instead of the answer.
    assert b" 500 " not in answer
    if status is not None and len(head) < 1_000_000:
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"webhook-signature: v1,forged\r\n\r\n", id="one"),
        pytest.param(b"x-forwarded-for: 127.0.0.1\r\na: b\r\n\r\n", id="two"),
        pytest.param(b"a:\r\n" * 3_000 + b"\r\n", id="many"),
    ],
)
async def test_a_trailer_is_refused_and_never_becomes_a_header(
    serve: Serve, send_bytes: SendBytes, trailers: bytes
) -> None:
    whole = []

    async def read_body(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        whole.append(scope["headers"])

    address = await serve(read_body)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, CHUNKED + b"2\r\nhi\r\n0\r\n" + trailers)
        hostless = await send_bytes(address, CHUNKED.replace(b"host", b"x") + b"0\r\nhost: localhost\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"trailers" in answer
    assert hostless.startswith(b"HTTP/1.1 400 ")
    assert whole == []


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"0\r\n", b"a:\r\n" * 250, id="trailers"),
        pytest.param(b"0\r\na: ", b"b" * 1000, id="a trailer"),
        pytest.param(b"5;a=", b"b" * 1000, id="a chunk's extension"),
    ],
)
@pytest.mark.parametrize("is_answered", [True, False])
async def test_chunk_extensions_and_trailers_are_limited(
    serve: Serve, start: bytes, drop: bytes, *, is_answered: bool
) -> None:
    arrived = asyncio.Event()

    async def read_body(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        arrived.set()
        await (PlainTextResponse("no") if is_answered else echo)(scope, receive, send)

    address = await serve(read_body)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(CHUNKED + b"2\r\nhi\r\n" + start)
    await arrived.wait()
    answer, sent = asyncio.ensure_future(reader.read()), 0

    async with asyncio.timeout(5):
        while not answer.done():
            writer.write(drop)
            sent += len(drop)
            await asyncio.wait([answer], timeout=0.01)

    assert sent < 100_000
    # A client that still sends may get a reset. A request that was answered gets no second response.
    status = b" 200 " if is_answered else b" 400 "
    assert isinstance(answer.exception(), ConnectionResetError) or status in answer.result()
    assert answer.exception() or answer.result().count(b"HTTP/1.1 ") == 1
    writer.close()


async def test_an_unread_body_is_discarded_after_the_answer(serve: Serve) -> None:
    address = await serve(PlainTextResponse("no"))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(CHUNKED)
    await reader.readuntil(b"no")
    for _ in range(30):
        writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n" + GET + b"\r\n")

    async with asyncio.timeout(5):
        await reader.readuntil(b"no")
    writer.close()
