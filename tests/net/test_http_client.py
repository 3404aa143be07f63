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
from harness.http_peers import Peer, Request, hanging, response, sending, serving
from harness.support import free_port, until

from receiver.domain.errors import NoAnswer, NotSent
from receiver.net.http_client import IPAddress, Outbound, Reply

SOON = timedelta(seconds=5)
NOW = timedelta(milliseconds=150)


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    outbound = Outbound(user_agent="kling-receiver/test")
    yield outbound
    await outbound.aclose()


async def post(
    outbound: Outbound, url: str, *, content: bytes = b"{}", total: timedelta = SOON, limit: int = 4096
) -> Reply:
    return await outbound.request("POST", url, content=content, total=total, limit=limit)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off as a crashing host or a firewall does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_an_answer_comes_with_status_headers_and_raw_body(outbound: Outbound) -> None:
    async with serving(response(201, b"made", X_One="a", content_type="text/plain")) as peer:
        reply = await post(outbound, f"{peer.url}/hook?a=b", content=b'{"x":1}')

    assert (reply.status, reply.body, reply.truncated) == (201, b"made", False)
    assert reply.headers["x-one"] == "a"
    assert peer.requests[0].line == "POST /hook?a=b HTTP/1.1"
    assert peer.requests[0].body == b'{"x":1}'


async def test_the_request_asks_for_identity_and_names_the_sender(outbound: Outbound) -> None:
    async with serving(response()) as peer:
        await post(outbound, peer.url)

    headers = peer.requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "kling-receiver/test"
    assert headers["host"] == f"127.0.0.1:{peer.port}"
    assert headers["content-length"] == "2"
    assert "cookie" not in headers


async def test_a_caller_cannot_change_how_the_message_is_framed(outbound: Outbound) -> None:
    forged = {"Content-Length": "9999", "Transfer-Encoding": "chunked", "Host": "elsewhere", "Accept-Encoding": "gzip"}
    async with serving(response()) as peer:
        await outbound.request("POST", peer.url, headers=forged, content=b"abc", total=SOON, limit=10)

    headers = peer.requests[0].headers
    assert headers["content-length"] == "3"
    assert headers["host"] == f"127.0.0.1:{peer.port}"
    assert headers["accept-encoding"] == "identity"
    assert "transfer-encoding" not in headers


async def test_a_get_carries_no_body(outbound: Outbound) -> None:
    async with serving(response(200, b"ok")) as peer:
        await outbound.request("GET", peer.url, total=SOON, limit=10)

    assert "content-length" not in peer.requests[0].headers


async def test_cookies_are_not_kept(outbound: Outbound) -> None:
    async with serving(response(Set_Cookie="a=b")) as peer:
        await post(outbound, peer.url)
        await post(outbound, peer.url)

    assert "cookie" not in peer.requests[1].headers


async def test_redirects_are_not_followed(outbound: Outbound) -> None:
    async with serving(response()) as other, serving(response(302, Location=other.url)) as peer:
        reply = await post(outbound, peer.url)

    assert reply.status == 302
    assert other.connections == 0


async def test_proxies_of_the_environment_are_not_used(outbound: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(response()) as proxy, serving(response()) as peer:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await post(outbound, peer.url)

    assert proxy.connections == 0


async def test_connections_are_kept_for_the_next_request(outbound: Outbound) -> None:
    async with serving(response(200, b"ok")) as peer:
        for _ in range(5):
            await post(outbound, peer.url)

    assert peer.connections == 1


async def test_a_connection_the_peer_closed_meanwhile_is_not_used_again(outbound: Outbound) -> None:
    async with serving(sending(response(200, b"ok"), then_close=True)) as peer:
        for _ in range(5):
            assert (await post(outbound, peer.url)).status == 200
            await until(lambda: peer.open_connections == 0)

    assert peer.connections == 5


async def test_no_more_requests_at_once_than_there_are_connections() -> None:
    most = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, peer.open_connections)
        await asyncio.sleep(0.01)
        writer.write(response())

    outbound = Outbound(user_agent="x", max_connections=3)
    async with serving(answer) as peer:
        await asyncio.gather(*(post(outbound, peer.url) for _ in range(20)))
        await outbound.aclose()

    assert most == 3


async def test_waiting_for_a_connection_counts_and_is_told_apart() -> None:
    outbound = Outbound(user_agent="x", max_connections=1)
    async with serving(hanging) as peer:
        first = asyncio.ensure_future(post(outbound, peer.url))
        await until(lambda: bool(peer.requests))

        with pytest.raises(NotSent, match="all connections were in use"):
            await post(outbound, peer.url, total=NOW)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await outbound.aclose()


async def test_a_body_is_cut_at_the_limit(outbound: Outbound) -> None:
    async with serving(response(200, b"x" * 10_000_000)) as peer:
        reply = await post(outbound, peer.url, limit=4096)

        assert (len(reply.body), reply.truncated) == (4096, True)
        await until(lambda: peer.open_connections == 0)


async def test_a_body_of_exactly_the_limit_is_whole(outbound: Outbound) -> None:
    async with serving(response(200, b"x" * 4096)) as peer:
        reply = await post(outbound, peer.url, limit=4096)

    assert (len(reply.body), reply.truncated) == (4096, False)


async def test_a_gzip_bomb_stays_packed(outbound: Outbound) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with serving(response(200, bomb, Content_Encoding="gzip")) as peer:
        reply = await post(outbound, peer.url, limit=1_000_000)

    assert reply.body == bomb


async def test_a_chunked_body_is_put_together(outbound: Outbound) -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving(chunked) as peer:
        assert (await post(outbound, peer.url)).body == b"abcde"


async def test_a_body_that_ends_with_the_connection_is_whole(outbound: Outbound) -> None:
    async with serving(sending(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", then_close=True)) as peer:
        assert (await post(outbound, peer.url)).body == b"until the end"


async def test_an_informational_answer_is_not_the_answer(outbound: Outbound) -> None:
    async with serving(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + response(204)) as peer:
        assert (await post(outbound, peer.url)).status == 204


async def test_a_large_body_is_sent_whole(outbound: Outbound) -> None:
    content = bytes(range(256)) * 40_000
    async with serving(response()) as peer:
        await post(outbound, peer.url, content=content)

    assert peer.requests[0].body == content


async def test_a_refusal_before_the_body_is_read_is_seen(outbound: Outbound) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(413, b"too large", Connection="close"))
        writer.write_eof()
        await reader.read()

    async with serving(refuse, reads=False) as peer:
        reply = await post(outbound, peer.url, content=b"x" * 30_000_000)

    assert (reply.status, reply.body) == (413, b"too large")


# How a request ends without an answer.


async def test_nobody_listening_is_refused(outbound: Outbound) -> None:
    port = free_port()

    with pytest.raises(NotSent, match=f"127.0.0.1:{port} refused the connection"):
        await post(outbound, f"http://127.0.0.1:{port}/secret-path")


async def test_an_unknown_name_says_so() -> None:
    async def unknown(_: str) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    outbound = Outbound(user_agent="x", resolve=unknown)

    with pytest.raises(NotSent, match=r"The name nowhere\.example could not be resolved \(Name or service not known\)"):
        await post(outbound, "http://nowhere.example/")


async def test_the_systems_resolver_is_asked_and_its_failure_told(outbound: Outbound) -> None:
    with pytest.raises(NotSent, match=r"nothing\.invalid"):
        await post(outbound, "http://nothing.invalid/")


async def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    async def hang(_: str) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        return ()

    outbound = Outbound(user_agent="x", resolve=hang)

    with pytest.raises(NotSent, match=r"No connection to slow\.example:80 within 0\.15 s"):
        await post(outbound, "http://slow.example/", total=NOW)


async def test_of_many_addresses_the_next_is_tried() -> None:
    async def resolve(_: str) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.2"), ip_address("127.0.0.1")]

    outbound = Outbound(user_agent="x", resolve=resolve)
    async with serving(response()) as peer:
        reply = await post(outbound, f"http://two.example:{peer.port}/")
        await outbound.aclose()

    assert reply.status == 200
    assert peer.requests[0].headers["host"] == f"two.example:{peer.port}"


async def test_a_hang_is_a_time_out_after_sending(outbound: Outbound) -> None:
    async with serving(hanging) as peer:
        started = time.perf_counter()
        with pytest.raises(NoAnswer, match=r"took the request and did not answer within 0\.15 s"):
            await post(outbound, peer.url, total=NOW)

        assert time.perf_counter() - started < 2
        await until(lambda: peer.open_connections == 0)


async def test_dripping_an_answer_does_not_stretch_the_time(outbound: Outbound) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _number in range(1000):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as peer:
        started = time.perf_counter()
        with pytest.raises(NoAnswer, match="began an answer and did not finish"):
            await post(outbound, peer.url, total=NOW)

        assert time.perf_counter() - started < 2


async def test_a_close_without_an_answer_says_so(outbound: Outbound) -> None:
    async with serving(sending(b"", then_close=True)) as peer:
        with pytest.raises(NoAnswer, match="took the request and closed the connection without an answer"):
            await post(outbound, peer.url)


async def test_a_half_closed_connection_without_an_answer_says_so(outbound: Outbound) -> None:
    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await reader.read()

    async with serving(half_close) as peer:
        with pytest.raises(NoAnswer, match="closed the connection without an answer"):
            await post(outbound, peer.url)


async def test_a_reset_says_so(outbound: Outbound) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with serving(answer) as peer:
        with pytest.raises(NoAnswer, match="took the request and reset the connection"):
            await post(outbound, peer.url)


@pytest.mark.parametrize("ending", [reset, lambda writer: writer.close()], ids=["reset", "closed"])
async def test_an_answer_broken_off_is_no_answer(
    outbound: Outbound, ending: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
        await asyncio.sleep(0.02)
        ending(writer)
        raise ConnectionError

    async with serving(answer) as peer:
        with pytest.raises(NoAnswer, match="broke off in the middle of its answer"):
            await post(outbound, peer.url)


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
async def test_what_is_not_http_is_no_answer(outbound: Outbound, garbage: bytes) -> None:
    async with serving(sending(garbage, then_close=True)) as peer:
        with pytest.raises(NoAnswer, match="did not answer in HTTP that can be understood"):
            await post(outbound, peer.url)


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
async def test_what_is_no_url_of_the_web_is_not_sent(outbound: Outbound, url: str) -> None:
    with pytest.raises(NotSent):
        await post(outbound, url)


async def test_a_header_that_would_split_the_request_is_not_sent(outbound: Outbound) -> None:
    async with serving(response()) as peer:
        with pytest.raises(NotSent, match="HTTP does not allow"):
            await outbound.request("POST", peer.url, headers={"x": "a\r\nb: c"}, total=SOON, limit=10)

    assert peer.requests == []


async def test_no_reason_tells_the_path_or_the_credentials(outbound: Outbound) -> None:
    with pytest.raises(NotSent) as caught:
        await post(outbound, f"http://user:hunter2@127.0.0.1:{free_port()}/token-in-path?key=value")

    for secret in ("user", "hunter2", "token-in-path", "value"):
        assert secret not in str(caught.value)


async def test_credentials_in_the_url_go_into_the_header(outbound: Outbound) -> None:
    async with serving(response()) as peer:
        await post(outbound, f"http://user:hunter2@127.0.0.1:{peer.port}/")

    assert peer.requests[0].headers["authorization"] == "Basic dXNlcjpodW50ZXIy"


async def test_a_cancelled_request_leaves_no_connection(outbound: Outbound) -> None:
    async with serving(hanging) as peer:
        requests = [asyncio.ensure_future(post(outbound, peer.url)) for _ in range(20)]
        await until(lambda: len(peer.requests) == 20)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

        await until(lambda: peer.open_connections == 0)


async def test_cancelling_at_any_moment_leaves_no_connection_and_no_slot_taken() -> None:
    outbound = Outbound(user_agent="x", max_connections=4)
    async with serving(response(200, b"ok")) as peer:
        for turns in range(40):
            request = asyncio.ensure_future(post(outbound, peer.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

        for _ in range(4):
            assert (await post(outbound, peer.url)).status == 200
        await outbound.aclose()
        await until(lambda: peer.open_connections == 0)


async def test_closing_closes_idle_connections() -> None:
    outbound = Outbound(user_agent="x")
    async with serving(response()) as peer:
        await asyncio.gather(*(post(outbound, peer.url) for _ in range(8)))
        await outbound.aclose()

        await until(lambda: peer.open_connections == 0)


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

    outbound = Outbound(user_agent="x", resolve=to_loopback, make_tls=trusting)
    async with serving(response(200, b"safe"), tls=server_tls) as peer:
        for _ in range(2):
            assert (await post(outbound, f"https://host.example:{peer.port}/")).body == b"safe"
        with pytest.raises(NotSent, match=r"The certificate of other\.example does not hold"):
            await post(outbound, f"https://other.example:{peer.port}/")
        await outbound.aclose()

    assert [request.headers["host"] for request in peer.requests] == [f"host.example:{peer.port}"] * 2


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(server_tls: ssl.SSLContext) -> None:
    outbound = Outbound(user_agent="x", resolve=to_loopback)
    async with serving(response(), tls=server_tls) as peer:
        with pytest.raises(NotSent, match=r"The certificate of host\.example does not hold: self.signed certificate"):
            await post(outbound, f"https://host.example:{peer.port}/")
        await outbound.aclose()

    assert peer.requests == []


async def test_https_to_a_plain_port_says_so(outbound: Outbound) -> None:
    async with serving(sending(b"HTTP/1.1 400 Bad\r\n\r\n", then_close=True), reads=False) as peer:
        with pytest.raises(NotSent, match=r"TLS with 127\.0\.0\.1"):
            await post(outbound, f"https://127.0.0.1:{peer.port}/")


async def test_a_peer_that_closes_in_the_handshake_says_so(outbound: Outbound) -> None:
    async with serving(sending(b"", then_close=True), reads=False) as peer:
        with pytest.raises(NotSent, match=r"TLS with 127\.0\.0\.1"):
            await post(outbound, f"https://127.0.0.1:{peer.port}/")


async def test_a_handshake_that_hangs_is_a_connection_that_never_stood(outbound: Outbound) -> None:
    async with serving(hanging, reads=False) as peer:
        with pytest.raises(NotSent, match="No connection to"):
            await post(outbound, f"https://127.0.0.1:{peer.port}/", total=NOW)
        await until(lambda: peer.open_connections == 0)


async def test_many_requests_at_once_go_over_few_connections(outbound: Outbound) -> None:
    async with serving(response(200, b'{"ok":true}')) as peer:
        await asyncio.gather(*(many(outbound, peer, 20) for _ in range(16)))

    assert len(peer.requests) == 320
    assert peer.connections <= 16
    assert all(isinstance(request, Request) for request in peer.requests)


async def many(outbound: Outbound, peer: Peer, count: int) -> None:
    for _ in range(count):
        assert (await post(outbound, peer.url)).status == 200


def spoiled(rng: Random) -> bytes:
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
    outbound = Outbound(user_agent="x", max_connections=8)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(spoiled(rng))
        await writer.drain()
        raise ConnectionError

    async with serving(answer) as peer:
        ends = await asyncio.gather(*(post(outbound, peer.url) for _ in range(300)), return_exceptions=True)
        await outbound.aclose()

    assert {type(end) for end in ends} <= {Reply, NoAnswer, NotSent}
    assert not outbound._lines._open
