"""The client's HTTP: what a server may answer or fail to answer, and when a connection is used again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from harness.http_peers import Handler, http_peer, never_respond, respond_with, response
from harness.ports import free_port

from receiver.client import http_connections
from receiver.client.http_connections import HttpConnections, NoAnswer, NotSent
from receiver.client.transport import Transport, read_events
from receiver.domain.errors import RequestFailed, ServiceUnreachable


@asynccontextmanager
async def connections(url: str) -> AsyncIterator[HttpConnections]:
    made = HttpConnections(url, {"authorization": "Bearer t"}, tls=None, connect_seconds=2)
    try:
        yield made
    finally:
        made.close()


async def get(http: HttpConnections, target: str = "/a", *, seconds: float = 2) -> tuple[int, bytes]:
    return await http.request("GET", target, headers={}, body=None, seconds=seconds)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(200, b"one"), (200, b"one")),
        (response(404), (404, b"")),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", (200, b"abc")),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + response(201, b"made"), (201, b"made")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
    ],
)
async def test_a_response_is_read_in_every_form(answer: bytes, expected: tuple[int, bytes]) -> None:
    async with http_peer(answer) as peer, connections(peer.url) as http:
        assert await get(http) == expected


async def test_the_end_of_the_connection_ends_a_body_without_a_length() -> None:
    answer = respond_with(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_close=True)

    async with http_peer(answer) as peer, connections(peer.url) as http:
        assert await get(http) == (200, b"all of it")


@pytest.mark.parametrize(
    "answer",
    [
        respond_with(b"", then_close=True),
        respond_with(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", then_close=True),
        respond_with(b"this is not HTTP\r\n\r\n"),
        respond_with(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
        never_respond,
    ],
)
async def test_a_missing_broken_or_late_response_is_an_error(
    answer: Handler,
) -> None:
    async with http_peer(answer) as peer, connections(peer.url) as http:
        with pytest.raises(NoAnswer):
            await get(http, seconds=0.2)


async def test_a_refused_connection_is_reported_as_not_sent() -> None:
    async with connections(f"http://127.0.0.1:{free_port()}") as http:
        with pytest.raises(NotSent):
            await get(http)


async def test_a_connection_is_reused_unless_it_is_old_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_peer(response(200, b"x")) as peer, connections(peer.url) as http:
        await get(http)
        await get(http)
        assert peer.connections == 1

        monkeypatch.setattr(http_connections, "_IDLE_SECONDS", 0)
        await get(http)
        assert peer.connections == 2


async def test_a_connection_that_the_server_closed_is_not_reused() -> None:
    answer = respond_with(response(200, b"x", connection="keep-alive"), then_close=True)

    async with http_peer(answer) as peer, connections(peer.url) as http:
        for _ in range(3):
            assert await get(http) == (200, b"x")
            await asyncio.sleep(0.05)

    assert peer.connections == 3


async def test_a_large_body_arrives_whole_and_path_query_and_headers_as_given() -> None:
    body = b"x" * 3_000_000

    async with http_peer(response(202)) as peer, connections(f"{peer.url}/under/") as http:
        await http.request("POST", "/a b?c=%20d", headers={"prefer": "p"}, body=body, seconds=5)

    (request,) = peer.requests
    assert request.line == "POST /under/a%20b?c=%20d HTTP/1.1"
    assert request.body == body
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["prefer"] == "p"
    assert request.headers["host"] == f"127.0.0.1:{peer.port}"


@pytest.mark.parametrize("url", ["tasks.example.com", "ftp://a.example", "http://", "http://a:99999", "http://[::1"])
def test_a_wrong_url_is_an_error_with_a_remedy(url: str) -> None:
    with pytest.raises(ServiceUnreachable, match=r"is not a URL\. Write it like http://127"):
        Transport(url, "token", outage_tolerance=timedelta())


@pytest.mark.parametrize("token", ["two\r\nx-lines: y", "schlüssel"])
def test_a_token_that_no_header_can_carry_is_an_error(token: str) -> None:
    with pytest.raises(RequestFailed, match="only the token"):
        Transport("http://127.0.0.1:1", token, outage_tolerance=timedelta())


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_are_parsed_for_any_split_of_the_stream(size: int) -> None:
    text = 'retry: 2000\n: hi\n\nid: e1\r\nevent: a\r\ndata: {"n":\r\ndata: 1}\r\n\r\nid: e2\ndata: "ü"\n\ndata: cut'
    sent = text.encode()

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), size):
            yield sent[start : start + size]

    assert [(event.id, event.data) async for event in read_events(parts())] == [("e1", '{"n":\n1}'), ("e2", '"ü"')]
