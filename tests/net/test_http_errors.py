"""How a request ends without a response, and what the error says."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from random import Random

import pytest
from harness.http_peers import http_peer, never_respond, respond_with, response
from harness.http_requests import SHORT_TIMEOUT, TIMEOUT, post, reset_connection
from harness.ports import free_port
from harness.waiting import wait_until

from receiver.domain.errors import NoResponse, RequestNotSent
from receiver.net.http_client import HttpClient, HttpResponse, IPAddress

# How a request ends without an answer.


async def test_a_port_without_a_listener_is_a_refused_connection(http_client: HttpClient) -> None:
    port = free_port()

    with pytest.raises(RequestNotSent, match=f"127.0.0.1:{port} refused the connection"):
        await post(http_client, f"http://127.0.0.1:{port}/secret-path")


async def test_an_unknown_host_name_is_reported() -> None:
    async def unknown(_: str) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    http_client = HttpClient(user_agent="x", resolve=unknown)

    with pytest.raises(
        RequestNotSent, match=r"The host name nowhere\.example could not be resolved \(Name or service not known\)"
    ):
        await post(http_client, "http://nowhere.example/")


async def test_the_system_resolver_is_used_and_its_failure_reported(http_client: HttpClient) -> None:
    with pytest.raises(RequestNotSent, match=r"nothing\.invalid"):
        await post(http_client, "http://nothing.invalid/")


async def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    async def hang(_: str) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        return ()

    http_client = HttpClient(user_agent="x", resolve=hang)

    with pytest.raises(RequestNotSent, match=r"Could not connect to slow\.example:80 within 0\.15 s"):
        await post(http_client, "http://slow.example/", total=SHORT_TIMEOUT)


async def test_the_next_address_of_a_host_is_tried() -> None:
    async def resolve(_: str) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.2"), ip_address("127.0.0.1")]

    http_client = HttpClient(user_agent="x", resolve=resolve)
    async with http_peer(response()) as peer:
        reply = await post(http_client, f"http://two.example:{peer.port}/")
        await http_client.aclose()

    assert reply.status == 200
    assert peer.requests[0].headers["host"] == f"two.example:{peer.port}"


async def test_a_peer_that_never_responds_is_a_timeout_after_sending(http_client: HttpClient) -> None:
    async with http_peer(never_respond) as peer:
        started = time.perf_counter()
        with pytest.raises(NoResponse, match=r"received the request but did not answer within 0\.15 s"):
            await post(http_client, peer.url, total=SHORT_TIMEOUT)

        assert time.perf_counter() - started < 2
        await wait_until(lambda: peer.open_connections == 0)


async def test_a_slowly_sent_response_does_not_extend_the_timeout(http_client: HttpClient) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _number in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with http_peer(drip) as peer:
        started = time.perf_counter()
        with pytest.raises(NoResponse, match="started a response but did not finish"):
            await post(http_client, peer.url, total=SHORT_TIMEOUT)

        assert time.perf_counter() - started < 2


async def test_a_close_without_a_response_is_reported(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"", then_close=True)) as peer:
        with pytest.raises(NoResponse, match="received the request and closed the connection without a response"):
            await post(http_client, peer.url)


async def test_a_half_closed_connection_without_a_response_is_reported(http_client: HttpClient) -> None:
    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await reader.read()

    async with http_peer(half_close) as peer:
        with pytest.raises(NoResponse, match="closed the connection without a response"):
            await post(http_client, peer.url)


async def test_a_connection_reset_is_reported(http_client: HttpClient) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset_connection(writer)

    async with http_peer(answer) as peer:
        with pytest.raises(NoResponse, match="received the request and reset the connection"):
            await post(http_client, peer.url)


@pytest.mark.parametrize("ending", [reset_connection, lambda writer: writer.close()], ids=["reset", "closed"])
async def test_a_truncated_response_is_an_error(
    http_client: HttpClient, ending: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        ending(writer)
        raise ConnectionError

    async with http_peer(answer) as peer:
        with pytest.raises(NoResponse, match="closed the connection in the middle of its response"):
            await post(http_client, peer.url)


@pytest.mark.parametrize(
    "garbage",
    [
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-huge: " + b"x" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
    ],
)
async def test_a_response_that_is_not_http_is_an_error(http_client: HttpClient, garbage: bytes) -> None:
    async with http_peer(respond_with(garbage, then_close=True)) as peer:
        with pytest.raises(NoResponse, match="sent a response that is not valid HTTP"):
            await post(http_client, peer.url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://exa mple/",
        "http://[::1",
        "http://x:99999/",
        "http://x:0/",
        "http://%31.0.0.1/",
        "http://x/\n",
        "javascript:alert(1)",
    ],
)
async def test_a_request_to_an_invalid_url_is_not_sent(http_client: HttpClient, url: str) -> None:
    with pytest.raises(RequestNotSent):
        await post(http_client, url)


async def test_a_header_with_a_line_break_is_not_sent(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        with pytest.raises(RequestNotSent, match="not valid HTTP"):
            await http_client.request("POST", peer.url, headers={"x": "a\r\nb: c"}, time_limit=TIMEOUT, max_body=10)

    assert peer.requests == []


async def test_no_error_contains_path_or_credentials(http_client: HttpClient) -> None:
    with pytest.raises(RequestNotSent) as caught:
        await post(http_client, f"http://user:hunter2@127.0.0.1:{free_port()}/token-in-path?key=value")

    for secret in ("user", "hunter2", "token-in-path", "value"):
        assert secret not in str(caught.value)


async def test_credentials_in_the_url_go_into_the_header(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await post(http_client, f"http://user:hunter2@127.0.0.1:{peer.port}/")

    assert peer.requests[0].headers["authorization"] == "Basic dXNlcjpodW50ZXIy"


async def test_a_cancelled_request_leaves_no_connection(http_client: HttpClient) -> None:
    async with http_peer(never_respond) as peer:
        requests = [asyncio.ensure_future(post(http_client, peer.url)) for _ in range(20)]
        await wait_until(lambda: len(peer.requests) == 20)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

        await wait_until(lambda: peer.open_connections == 0)


async def test_cancelling_at_any_moment_leaves_no_connection_and_no_slot_taken() -> None:
    http_client = HttpClient(user_agent="x", max_connections=4)
    async with http_peer(response(200, b"ok")) as peer:
        for turns in range(40):
            request = asyncio.ensure_future(post(http_client, peer.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

        for _ in range(4):
            assert (await post(http_client, peer.url)).status == 200
        await http_client.aclose()
        await wait_until(lambda: peer.open_connections == 0)


async def test_closing_closes_idle_connections() -> None:
    http_client = HttpClient(user_agent="x")
    async with http_peer(response()) as peer:
        await asyncio.gather(*(post(http_client, peer.url) for _ in range(8)))
        await http_client.aclose()

        await wait_until(lambda: peer.open_connections == 0)


def corrupted_response(rng: Random) -> bytes:
    """An answer that went through bad hands."""
    answer = bytearray(rng.choice([response(200, b"hello" * 10), response(304), CHUNKED, CONTINUED, UPGRADED]))
    for _ in range(rng.randint(0, 6)):
        at = rng.randrange(len(answer) + 1)
        answer[at : at + rng.randint(0, 12)] = rng.randbytes(rng.randint(0, 5))
    return bytes(answer)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + response(204)
UPGRADED = b"HTTP/1.1 101 Up\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"


async def test_any_bytes_from_a_peer_end_in_a_response_or_a_typed_error() -> None:
    rng = Random(23)
    http_client = HttpClient(user_agent="x", max_connections=8)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(corrupted_response(rng))
        await writer.drain()
        raise ConnectionError

    async with http_peer(answer) as peer:
        ends = await asyncio.gather(*(post(http_client, peer.url) for _ in range(300)), return_exceptions=True)
        await http_client.aclose()

    assert {type(end) for end in ends} <= {HttpResponse, NoResponse, RequestNotSent}
    assert not http_client._pool._open
