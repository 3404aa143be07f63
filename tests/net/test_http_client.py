"""Requests and responses over keep-alive connections."""

import asyncio
import gzip

import pytest
from harness.http_peers import Peer, Request, http_peer, never_respond, respond_with, response
from harness.http_requests import SHORT_TIMEOUT, TIMEOUT, post
from harness.waiting import wait_until

from receiver.domain.errors import RequestNotSent
from receiver.net.http_client import HttpClient


async def test_a_response_has_status_headers_and_raw_body(http_client: HttpClient) -> None:
    async with http_peer(response(201, b"made", X_One="a", content_type="text/plain")) as peer:
        reply = await post(http_client, f"{peer.url}/hook?a=b", content=b'{"x":1}')

    assert (reply.status, reply.body, reply.truncated) == (201, b"made", False)
    assert reply.headers["x-one"] == "a"
    assert peer.requests[0].line == "POST /hook?a=b HTTP/1.1"
    assert peer.requests[0].body == b'{"x":1}'


async def test_a_request_accepts_only_identity_coding_and_names_its_sender(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await post(http_client, peer.url)

    headers = peer.requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "kling-receiver/test"
    assert headers["host"] == f"127.0.0.1:{peer.port}"
    assert headers["content-length"] == "2"
    assert "cookie" not in headers


async def test_a_caller_cannot_change_how_the_message_is_framed(http_client: HttpClient) -> None:
    forged = {"Content-Length": "9999", "Transfer-Encoding": "chunked", "Host": "elsewhere", "Accept-Encoding": "gzip"}
    async with http_peer(response()) as peer:
        await http_client.request("POST", peer.url, headers=forged, content=b"abc", time_limit=TIMEOUT, max_body=10)

    headers = peer.requests[0].headers
    assert headers["content-length"] == "3"
    assert headers["host"] == f"127.0.0.1:{peer.port}"
    assert headers["accept-encoding"] == "identity"
    assert "transfer-encoding" not in headers


async def test_a_get_carries_no_body(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"ok")) as peer:
        await http_client.request("GET", peer.url, time_limit=TIMEOUT, max_body=10)

    assert "content-length" not in peer.requests[0].headers


async def test_cookies_are_not_kept(http_client: HttpClient) -> None:
    async with http_peer(response(Set_Cookie="a=b")) as peer:
        await post(http_client, peer.url)
        await post(http_client, peer.url)

    assert "cookie" not in peer.requests[1].headers


async def test_redirects_are_not_followed(http_client: HttpClient) -> None:
    async with http_peer(response()) as other, http_peer(response(302, Location=other.url)) as peer:
        reply = await post(http_client, peer.url)

    assert reply.status == 302
    assert other.connections == 0


async def test_proxies_of_the_environment_are_not_used(
    http_client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_peer(response()) as proxy, http_peer(response()) as peer:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await post(http_client, peer.url)

    assert proxy.connections == 0


async def test_connections_are_reused(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"ok")) as peer:
        for _ in range(5):
            await post(http_client, peer.url)

    assert peer.connections == 1


async def test_a_connection_closed_by_the_peer_is_not_reused(http_client: HttpClient) -> None:
    async with http_peer(respond_with(response(200, b"ok"), then_close=True)) as peer:
        for _ in range(5):
            assert (await post(http_client, peer.url)).status == 200
            await wait_until(lambda: peer.open_connections == 0)

    assert peer.connections == 5


async def test_concurrent_requests_are_limited_by_the_connections() -> None:
    most = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        await wait_until(lambda: peer.open_connections >= 3)
        most = max(most, peer.open_connections)
        writer.write(response())

    http_client = HttpClient(user_agent="x", max_connections=3)
    async with http_peer(answer) as peer:
        await asyncio.gather(*(post(http_client, peer.url) for _ in range(20)))
        await http_client.aclose()

    assert most == 3


async def test_waiting_for_a_connection_counts_towards_the_timeout_and_has_its_own_error() -> None:
    http_client = HttpClient(user_agent="x", max_connections=1)
    async with http_peer(never_respond) as peer:
        first = asyncio.ensure_future(post(http_client, peer.url))
        await wait_until(lambda: bool(peer.requests))

        with pytest.raises(RequestNotSent, match="all connections were in use"):
            await post(http_client, peer.url, total=SHORT_TIMEOUT)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await http_client.aclose()


async def test_a_body_is_cut_at_the_limit(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"x" * 10_000_000)) as peer:
        reply = await post(http_client, peer.url, limit=4096)

        assert (len(reply.body), reply.truncated) == (4096, True)
        await wait_until(lambda: peer.open_connections == 0)


async def test_a_body_of_exactly_the_limit_is_whole(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"x" * 4096)) as peer:
        reply = await post(http_client, peer.url, limit=4096)

    assert (len(reply.body), reply.truncated) == (4096, False)


async def test_a_gzip_bomb_is_not_decoded(http_client: HttpClient) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with http_peer(response(200, bomb, Content_Encoding="gzip")) as peer:
        reply = await post(http_client, peer.url, limit=1_000_000)

    assert reply.body == bomb


async def test_a_chunked_body_is_joined(http_client: HttpClient) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with http_peer(chunked) as peer:
        assert (await post(http_client, peer.url)).body == b"abcde"


async def test_a_body_that_ends_with_the_connection_is_whole(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", then_close=True)) as peer:
        assert (await post(http_client, peer.url)).body == b"until the end"


async def test_an_informational_response_is_skipped(http_client: HttpClient) -> None:
    async with http_peer(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + response(204)) as peer:
        assert (await post(http_client, peer.url)).status == 204


async def test_a_large_body_is_sent_whole(http_client: HttpClient) -> None:
    content = bytes(range(256)) * 40_000
    async with http_peer(response()) as peer:
        await post(http_client, peer.url, content=content)

    assert peer.requests[0].body == content


async def test_a_response_before_the_body_was_read_is_returned(http_client: HttpClient) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, b"too large", Connection="close"))
        writer.write_eof()
        await reader.read()

    async with http_peer(refuse, reads_requests=False) as peer:
        reply = await post(http_client, peer.url, content=b"x" * 30_000_000)

    assert (reply.status, reply.body) == (413, b"too large")


async def test_many_requests_at_once_go_over_few_connections(http_client: HttpClient) -> None:
    async with http_peer(response(200, b'{"ok":true}')) as peer:
        await asyncio.gather(*(send_many(http_client, peer, 20) for _ in range(16)))

    assert len(peer.requests) == 320
    assert peer.connections <= 16
    assert all(isinstance(request, Request) for request in peer.requests)


async def send_many(http_client: HttpClient, peer: Peer, count: int) -> None:
    for _ in range(count):
        assert (await post(http_client, peer.url)).status == 200
