"""Upgrade offers, half-closed connections, request targets and HTTP versions."""

import asyncio
import shutil
from datetime import timedelta

import pytest
from harness.echo_app import CHUNKED, GET, echo
from harness.waiting import let_loop_run
from harness.web_app import SendBytes, Serve
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from receiver.settings import Address
from receiver.web.server.connections import ConnectionLimits

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
POST = b"POST /a?b=c HTTP/1.1\r\nhost: localhost\r\n"
SOON_IDLE = ConnectionLimits(idle=timedelta(seconds=0.3))


async def show_head(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's target and headers."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    target = (scope["raw_path"] + b"?" + scope["query_string"]).decode()
    await JSONResponse({"target": target, "headers": headers})(scope, receive, send)


async def send_in_pieces(address: Address, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await let_loop_run()
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"content-length: 5\r\n\r\nhello", id="length"),
        pytest.param(b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", id="chunks"),
    ],
)
@pytest.mark.parametrize("offer", [OFFER, b"upgrade: websocket\r\nconnection: upgrade\r\n"], ids=["h2c", "websocket"])
async def test_a_request_with_an_upgrade_offer_keeps_its_body(serve: Serve, offer: bytes, body: bytes) -> None:
    address = await serve(echo, limits=SOON_IDLE)
    whole = POST + offer + body

    at_once = await send_in_pieces(address, whole)
    bytewise = await send_in_pieces(address, *(whole[at : at + 40] for at in range(0, len(whole), 40)))
    twice = await send_in_pieces(address, whole + whole)

    assert at_once.startswith(b"HTTP/1.1 200 ")
    assert at_once.endswith(b"heard hello")
    assert bytewise.endswith(b"heard hello")
    assert twice.count(b"heard hello") == 2


async def test_an_upgrade_offer_keeps_the_connection_open(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo, limits=SOON_IDLE)

    answer = await send_bytes(address, POST + OFFER + b"content-length: 1\r\n\r\na" + GET + b"\r\n")

    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b"connection: close" not in answer


async def test_an_upgrade_offer_is_hidden_and_other_headers_are_kept(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(show_head)
    offer = OFFER.replace(b"Upgrade,", b"Upgrade, close,")

    answer = await send_bytes(address, POST + b"X-Key: a  b\r\n" + offer + b"content-length: 0\r\n\r\n")

    shown = answer.partition(b"\r\n\r\n")[2]
    assert shown == (
        b'{"target":"/a?b=c","headers":{"host":"localhost","x-key":"a  b","connection":"close","content-length":"0"}}'
    )


async def test_many_pipelined_upgrade_offers_are_refused_like_other_requests(
    serve: Serve, send_bytes: SendBytes
) -> None:
    address = await serve(echo, limits=ConnectionLimits(pipelined=3))

    async with asyncio.timeout(5):
        answer = await send_bytes(address, (POST + OFFER + b"content-length: 1\r\n\r\na") * 20)

    assert b" 500 " not in answer
    assert answer.count(b"heard a") == 4


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_with_http2_is_answered_with_its_body(serve: Serve) -> None:
    address = await serve(echo)

    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--http2", "--data-binary", "hello", f"http://{address}/a", stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await curl.communicate()

    assert answer == b"heard hello"


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_that_closed_its_sending_side_gets_its_responses(serve: Serve, count: int) -> None:
    async def answer_slowly(scope: Scope, receive: Receive, send: Send) -> None:
        await let_loop_run(100)  # so that the client closes its sending side first
        await echo(scope, receive, send)

    address = await serve(answer_slowly)

    async with asyncio.timeout(5):
        answer = await send_in_pieces(address, (POST + b"content-length: 2\r\n\r\nhi") * count)

    assert answer.count(b"heard hi") == count


@pytest.mark.parametrize("sent", [b"", b"GET / HT", POST + b"content-length: 9\r\n\r\nhalf"])
async def test_an_incomplete_request_ends_when_the_client_stops_sending(serve: Serve, sent: bytes) -> None:
    address = await serve(echo)

    async with asyncio.timeout(5):
        answer = await send_in_pieces(address, sent)

    assert answer == b""


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/a?b=c", "localhost:8700", 200),
        ("http://LOCALHOST:8700/a?b=c", "localhost", 200),
        ("http://localhost", "localhost", 200),
        ("http://[::1]:8700/a?b=c", "[::1]:8700", 200),
        ("http://other.example/a?b=c", "localhost", 421),
        ("https://other.example/", "localhost", 421),
        ("http://localhost@other.example/", "localhost", 421),
        ("//other.example/a", "localhost", 200),
    ],
)
async def test_a_target_with_another_host_is_refused(
    serve: Serve, send_bytes: SendBytes, target: str, host: str, status: int
) -> None:
    address = await serve(show_head)

    answer = await send_bytes(address, f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if "a?b=c" in target and status == 200:
        assert b'"target":"/a?b=c"' in answer


async def test_a_target_without_a_host_header_is_checked_by_its_own_host(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(show_head)

    answer = await send_bytes(address, b"GET http://other.example/ HTTP/1.0\r\n\r\n")

    assert b'"host":"other.example"' in answer


@pytest.mark.parametrize("version", ["2.0", "0.9"])
async def test_another_version_of_http_is_refused(serve: Serve, send_bytes: SendBytes, version: str) -> None:
    address = await serve(echo)

    answer = await send_bytes(address, f"GET / HTTP/{version}\r\nhost: localhost\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b"HTTP/1.1 and HTTP/1.0" in answer


async def test_a_body_in_too_many_tiny_pieces_is_refused(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo)

    few = await send_bytes(
        address, CHUNKED.replace(b"\r\nhost", b"\r\nconnection: close\r\nhost") + b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n"
    )
    many = await send_bytes(address, CHUNKED + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")

    assert few.endswith(b"a" * 5_000)
    assert many == b"" or many.startswith(b"HTTP/1.1 400 ")  # a client that still sends may get a reset
