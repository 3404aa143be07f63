"""A peer that sends too much, too early or something else than HTTP costs one request, never the next one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial

import pytest
from harness.http_peers import http_peer, respond_with, response
from harness.http_requests import SHORT_TIMEOUT, TIMEOUT, post
from harness.waiting import wait_until

from receiver.domain.errors import NoResponse, RequestNotSent
from receiver.net.http_client import HttpClient, StreamedBody, StreamedResponse, read_limited

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


async def test_bytes_between_two_requests_are_never_taken_for_a_response(http_client: HttpClient) -> None:
    """A second response that was sent in advance must not become the response to the next request."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, b"%d" % len(peer.requests)))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(response(200, b"forged"))

    async with http_peer(answer) as peer:
        bodies = []
        for _ in range(3):
            bodies.append((await post(http_client, peer.url)).body)
            await asyncio.sleep(0.05)

    assert bodies == [b"1", b"2", b"3"]
    assert peer.connections == 3


async def test_two_responses_in_one_packet_end_the_connection(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"one") + response(200, b"forged")) as peer:
        assert [(await post(http_client, peer.url)).body for _ in range(3)] == [b"one"] * 3

    assert peer.connections == 3


async def test_no_request_is_sent_to_a_peer_that_speaks_first(http_client: HttpClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()

    async with http_peer(greet, reads_requests=False) as peer:
        with pytest.raises((RequestNotSent, NoResponse)):
            await post(http_client, peer.url)


@pytest.mark.parametrize("size", [3, 5])
async def test_a_streamed_body_of_another_size_than_announced_is_an_error(http_client: HttpClient, size: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"four"

    async with http_peer(response()) as peer:
        body = StreamedBody(size=size, chunks=chunks())
        with pytest.raises(RequestNotSent, match="another size than announced"):
            await http_client.stream(
                peer.url, method="POST", content=body, time_limit=TIMEOUT, read=partial(read_limited, max_body=10)
            )
        await wait_until(lambda: peer.open_connections == 0)

    assert peer.requests == []


async def test_a_body_of_unknown_size_is_sent_in_chunks(http_client: HttpClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"ab", b"", b"c" * 20):
            yield part

    received = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = await reader.readuntil(b"0\r\n\r\n")
        writer.write(response())

    async with http_peer(answer, reads_requests=False) as peer:
        body = StreamedBody(size=None, chunks=chunks())
        await http_client.stream(
            peer.url, method="POST", content=body, time_limit=TIMEOUT, read=partial(read_limited, max_body=10)
        )

    head, _, content = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert content == b"2\r\nab\r\n14\r\n" + b"c" * 20 + b"\r\n0\r\n\r\n"


async def test_a_slow_reader_slows_the_peer_down(http_client: HttpClient) -> None:
    total = 64 * 1024 * 1024
    written = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(OK + b"content-length: %d\r\n\r\n" % total)
        while written < total:
            writer.write(bytes(65536))
            await writer.drain()
            written += 65536

    async def read_late(incoming: StreamedResponse) -> int:
        await asyncio.sleep(0.3)
        assert written < total / 2
        return sum([len(chunk) async for chunk in incoming.chunks])

    async with http_peer(pour) as peer:
        got = await http_client.stream(peer.url, time_limit=timedelta(seconds=20), read=read_late)

    assert got == total


@pytest.mark.parametrize(
    "flood",
    [
        lambda: b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        lambda: b"x" * 65536,
        lambda: OK + b"content-length: 99999999999\r\n\r\n",
    ],
)
async def test_an_endless_response_ends_at_the_time_limit(http_client: HttpClient, flood: Callable[[], bytes]) -> None:
    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _number in range(1000):
            writer.write(flood())
            await writer.drain()

    async with http_peer(pour) as peer:
        with pytest.raises(NoResponse):
            await http_client.stream(peer.url, time_limit=SHORT_TIMEOUT, read=partial(read_limited, max_body=1 << 40))
        await wait_until(lambda: peer.open_connections == 0)


async def test_an_early_response_is_accepted_and_closes_the_connection(http_client: HttpClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, b"too large"))
        await asyncio.Event().wait()

    async with http_peer(answer, reads_requests=False) as peer:
        reply = await post(http_client, peer.url, content=b"x" * 30_000_000)
        await wait_until(lambda: not http_client._pool._open)

    assert (reply.status, reply.body) == (413, b"too large")


async def test_a_chunked_body_cut_by_a_close_is_an_error(http_client: HttpClient) -> None:
    async with http_peer(respond_with(CHUNKED + b"3\r\nabc\r\n", then_close=True)) as peer:
        with pytest.raises(NoResponse, match="in the middle of its response"):
            await post(http_client, peer.url)
