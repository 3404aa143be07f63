"""A request ends in an answer or in the truth about why there is none, within its bounds, and leaves nothing open."""

import asyncio
import gzip
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from harness.http_peers import Peer, Request, http_peer, never_respond, respond_with, response
from harness.support import free_port, wait_until

from receiver.domain.errors import NoResponse, RequestNotSent
from receiver.net.http_client import HttpClient, HttpResponse, IPAddress

TIMEOUT = timedelta(seconds=5)
SHORT_TIMEOUT = timedelta(milliseconds=150)


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="kling-receiver/test")
    yield http_client
    await http_client.aclose()


async def post(
    http_client: HttpClient, url: str, *, content: bytes = b"{}", total: timedelta = TIMEOUT, limit: int = 4096
) -> HttpResponse:
    return await http_client.request("POST", url, content=content, time_limit=total, max_body=limit)


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """Break a connection off as a crashing host or a firewall does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_an_answer_comes_with_status_headers_and_raw_body(http_client: HttpClient) -> None:
    async with http_peer(response(201, b"made", X_One="a", content_type="text/plain")) as peer:
        reply = await post(http_client, f"{peer.url}/hook?a=b", content=b'{"x":1}')

    assert (reply.status, reply.body, reply.truncated) == (201, b"made", False)
    assert reply.headers["x-one"] == "a"
    assert peer.requests[0].line == "POST /hook?a=b HTTP/1.1"
    assert peer.requests[0].body == b'{"x":1}'


async def test_the_request_asks_for_identity_and_names_the_sender(http_client: HttpClient) -> None:
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


async def test_connections_are_kept_for_the_next_request(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"ok")) as peer:
        for _ in range(5):
            await post(http_client, peer.url)

    assert peer.connections == 1


async def test_a_connection_the_peer_closed_meanwhile_is_not_used_again(http_client: HttpClient) -> None:
    async with http_peer(respond_with(response(200, b"ok"), then_close=True)) as peer:
        for _ in range(5):
            assert (await post(http_client, peer.url)).status == 200
            await wait_until(lambda: peer.open_connections == 0)

    assert peer.connections == 5


async def test_no_more_requests_at_once_than_there_are_connections() -> None:
    most = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, peer.open_connections)
        await asyncio.sleep(0.01)
        writer.write(response())

    http_client = HttpClient(user_agent="x", max_connections=3)
    async with http_peer(answer) as peer:
        await asyncio.gather(*(post(http_client, peer.url) for _ in range(20)))
        await http_client.aclose()

    assert most == 3


async def test_waiting_for_a_connection_counts_and_is_told_apart() -> None:
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


async def test_a_gzip_bomb_stays_packed(http_client: HttpClient) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with http_peer(response(200, bomb, Content_Encoding="gzip")) as peer:
        reply = await post(http_client, peer.url, limit=1_000_000)

    assert reply.body == bomb


async def test_a_chunked_body_is_put_together(http_client: HttpClient) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with http_peer(chunked) as peer:
        assert (await post(http_client, peer.url)).body == b"abcde"


async def test_a_body_that_ends_with_the_connection_is_whole(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", then_close=True)) as peer:
        assert (await post(http_client, peer.url)).body == b"until the end"


async def test_an_informational_answer_is_not_the_answer(http_client: HttpClient) -> None:
    async with http_peer(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + response(204)) as peer:
        assert (await post(http_client, peer.url)).status == 204


async def test_a_large_body_is_sent_whole(http_client: HttpClient) -> None:
    content = bytes(range(256)) * 40_000
    async with http_peer(response()) as peer:
        await post(http_client, peer.url, content=content)

    assert peer.requests[0].body == content


async def test_a_refusal_before_the_body_is_read_is_seen(http_client: HttpClient) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, b"too large", Connection="close"))
        writer.write_eof()
        await reader.read()

    async with http_peer(refuse, reads_requests=False) as peer:
        reply = await post(http_client, peer.url, content=b"x" * 30_000_000)

    assert (reply.status, reply.body) == (413, b"too large")


# How a request ends without an answer.


async def test_nobody_listening_is_refused(http_client: HttpClient) -> None:
    port = free_port()

    with pytest.raises(RequestNotSent, match=f"127.0.0.1:{port} refused the connection"):
        await post(http_client, f"http://127.0.0.1:{port}/secret-path")


async def test_an_unknown_name_says_so() -> None:
    async def unknown(_: str) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    http_client = HttpClient(user_agent="x", resolve=unknown)

    with pytest.raises(
        RequestNotSent, match=r"The host name nowhere\.example could not be resolved \(Name or service not known\)"
    ):
        await post(http_client, "http://nowhere.example/")


async def test_the_systems_resolver_is_asked_and_its_failure_told(http_client: HttpClient) -> None:
    with pytest.raises(RequestNotSent, match=r"nothing\.invalid"):
        await post(http_client, "http://nothing.invalid/")


async def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    async def hang(_: str) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        return ()

    http_client = HttpClient(user_agent="x", resolve=hang)

    with pytest.raises(RequestNotSent, match=r"Could not connect to slow\.example:80 within 0\.15 s"):
        await post(http_client, "http://slow.example/", total=SHORT_TIMEOUT)


async def test_of_many_addresses_the_next_is_tried() -> None:
    async def resolve(_: str) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.2"), ip_address("127.0.0.1")]

    http_client = HttpClient(user_agent="x", resolve=resolve)
    async with http_peer(response()) as peer:
        reply = await post(http_client, f"http://two.example:{peer.port}/")
        await http_client.aclose()

    assert reply.status == 200
    assert peer.requests[0].headers["host"] == f"two.example:{peer.port}"


async def test_a_hang_is_a_time_out_after_sending(http_client: HttpClient) -> None:
    async with http_peer(never_respond) as peer:
        started = time.perf_counter()
        with pytest.raises(NoResponse, match=r"received the request but did not answer within 0\.15 s"):
            await post(http_client, peer.url, total=SHORT_TIMEOUT)

        assert time.perf_counter() - started < 2
        await wait_until(lambda: peer.open_connections == 0)


async def test_dripping_an_answer_does_not_stretch_the_time(http_client: HttpClient) -> None:
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


async def test_a_close_without_an_answer_says_so(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"", then_close=True)) as peer:
        with pytest.raises(NoResponse, match="received the request and closed the connection without a response"):
            await post(http_client, peer.url)


async def test_a_half_closed_connection_without_an_answer_says_so(http_client: HttpClient) -> None:
    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await reader.read()

    async with http_peer(half_close) as peer:
        with pytest.raises(NoResponse, match="closed the connection without a response"):
            await post(http_client, peer.url)


async def test_a_reset_says_so(http_client: HttpClient) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset_connection(writer)

    async with http_peer(answer) as peer:
        with pytest.raises(NoResponse, match="received the request and reset the connection"):
            await post(http_client, peer.url)


@pytest.mark.parametrize("ending", [reset_connection, lambda writer: writer.close()], ids=["reset", "closed"])
async def test_an_answer_broken_off_is_no_answer(
    http_client: HttpClient, ending: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        await asyncio.sleep(0.02)
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
async def test_what_is_not_http_is_no_answer(http_client: HttpClient, garbage: bytes) -> None:
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
async def test_what_is_no_url_of_the_web_is_not_sent(http_client: HttpClient, url: str) -> None:
    with pytest.raises(RequestNotSent):
        await post(http_client, url)


async def test_a_header_that_would_split_the_request_is_not_sent(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        with pytest.raises(RequestNotSent, match="not valid HTTP"):
            await http_client.request("POST", peer.url, headers={"x": "a\r\nb: c"}, time_limit=TIMEOUT, max_body=10)

    assert peer.requests == []


async def test_no_reason_tells_the_path_or_the_credentials(http_client: HttpClient) -> None:
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


# TLS.


CERTIFICATE = Path(__file__).parents[1] / "data" / "host.example.pem"
"""A certificate for host.example that it signed itself, good for a hundred years, with its key."""


@pytest.fixture
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def to_loopback(_: str) -> Sequence[IPAddress]:
    return [ip_address("127.0.0.1")]


async def test_tls_checks_the_name_and_not_the_address_dialled(server_tls: ssl.SSLContext) -> None:
    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=CERTIFICATE)

    http_client = HttpClient(user_agent="x", resolve=to_loopback, make_tls=trusting)
    async with http_peer(response(200, b"safe"), tls=server_tls) as peer:
        for _ in range(2):
            assert (await post(http_client, f"https://host.example:{peer.port}/")).body == b"safe"
        with pytest.raises(RequestNotSent, match=r"The certificate of other\.example is not valid"):
            await post(http_client, f"https://other.example:{peer.port}/")
        await http_client.aclose()

    assert [request.headers["host"] for request in peer.requests] == [f"host.example:{peer.port}"] * 2


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(server_tls: ssl.SSLContext) -> None:
    http_client = HttpClient(user_agent="x", resolve=to_loopback)
    async with http_peer(response(), tls=server_tls) as peer:
        with pytest.raises(
            RequestNotSent, match=r"The certificate of host\.example is not valid: self.signed certificate"
        ):
            await post(http_client, f"https://host.example:{peer.port}/")
        await http_client.aclose()

    assert peer.requests == []


async def test_https_to_a_plain_port_says_so(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"HTTP/1.1 400 Bad\r\n\r\n", then_close=True), reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match=r"TLS with 127\.0\.0\.1"):
            await post(http_client, f"https://127.0.0.1:{peer.port}/")


async def test_a_peer_that_closes_in_the_handshake_says_so(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"", then_close=True), reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match=r"TLS with 127\.0\.0\.1"):
            await post(http_client, f"https://127.0.0.1:{peer.port}/")


async def test_a_handshake_that_hangs_is_a_connection_that_never_stood(http_client: HttpClient) -> None:
    async with http_peer(never_respond, reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match="Could not connect to"):
            await post(http_client, f"https://127.0.0.1:{peer.port}/", total=SHORT_TIMEOUT)
        await wait_until(lambda: peer.open_connections == 0)


async def test_many_requests_at_once_go_over_few_connections(http_client: HttpClient) -> None:
    async with http_peer(response(200, b'{"ok":true}')) as peer:
        await asyncio.gather(*(send_many(http_client, peer, 20) for _ in range(16)))

    assert len(peer.requests) == 320
    assert peer.connections <= 16
    assert all(isinstance(request, Request) for request in peer.requests)


async def send_many(http_client: HttpClient, peer: Peer, count: int) -> None:
    for _ in range(count):
        assert (await post(http_client, peer.url)).status == 200


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


async def test_whatever_a_peer_sends_ends_in_an_answer_or_one_of_our_errors() -> None:
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
