"""The public app over real sockets."""

import asyncio
import json
import socket
import sys
from ipaddress import ip_network

import httpx2 as httpx
import pytest
from harness.fake_inbox import TOKEN, FakeInbox
from harness.http_client import plain_http
from harness.logs import capture_logs
from harness.waiting import wait_until
from harness.web_app import SendBytes, Serve

from receiver.domain.errors import MalformedBody, StoreBroken, StoreUnavailable, TooManyPending
from receiver.settings import Address
from receiver.web.callbacks import public_app
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.client_address import TrustedProxies

MAX_BODY = 1000


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


async def post(address: Address, path: str, content: bytes | None = b"{}", **headers: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{address}") as client:
        return await client.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def test_a_callback_is_answered_once_it_is_accepted(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", b'{"task_id": "1"}', webhook_id="m1")

    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    headers, body = inbox.received[0]
    assert body == b'{"task_id": "1"}'
    assert ("webhook-id", "m1") in headers


async def test_an_answer_is_one_packet(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    for _ in range(3):
        writer.write(f"POST /callbacks/{TOKEN} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"ok":true}')

    info = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    writer.close()
    assert int.from_bytes(info[152:156], sys.byteorder) == 3  # tcpi_data_segs_in


async def test_all_unknown_paths_get_the_same_404(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    paths = ["/callbacks/unknown", "/callbacks/", "/callbacks", "/", f"/callbacks/{TOKEN}/", "/metrics", "/api/tasks"]
    answers = [await post(address, path) for path in paths]

    seen = {(answer.status_code, answer.headers["content-type"], answer.content) for answer in answers}
    assert len(seen) == 1
    assert answers[0].status_code == 404
    assert answers[0].json()["code"] == "not_found"


@pytest.mark.parametrize("path", ["/callbacks/unknown", f"/callbacks/{TOKEN}"])
async def test_other_methods_get_the_same_405_for_any_token(serve: Serve, inbox: FakeInbox, path: str) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await _get(address, path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


async def _get(address: Address, path: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{address}") as client:
        return await client.get(path)


async def test_health_is_public(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    assert (await _get(address, "/healthz")).json() == {"ok": True}
    assert (await post(address, "/healthz")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (MalformedBody("The body is no JSON."), 400, "unreadable"),
        (StoreUnavailable("The disk is nearly full."), 503, "store_unavailable"),
        (TooManyPending("Too many claims wait."), 503, "crowded"),
        (StoreBroken("The disk is broken."), 503, "store_broken"),
        (RuntimeError("a bug"), 500, "internal"),
    ],
)
async def test_a_callback_that_is_not_stored_is_not_acknowledged(
    serve: Serve, failure: Exception, status: int, code: str
) -> None:
    address = await serve(public_app(FakeInbox(failure), max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}")

    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)


@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
async def test_a_body_may_have_the_maximum_size_and_no_more(serve: Serve, inbox: FakeInbox, size: int) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", b"x" * size)

    assert answer.status_code == (200 if size <= MAX_BODY else 413)
    assert len(inbox.received) == (size <= MAX_BODY)


async def test_a_too_large_declared_size_is_refused_before_the_body(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(b"POST /callbacks/t HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n")
    line = await reader.readline()

    assert b" 413 " in line
    writer.close()


async def test_a_stream_is_refused_when_it_passes_the_limit(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"POST /callbacks/%s HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" % TOKEN.encode())

    for _ in range(3):
        writer.write(b"1f4\r\n" + b"x" * 500 + b"\r\n")
    line = await reader.readline()

    assert b" 413 " in line
    assert not inbox.received
    writer.close()


async def test_a_body_in_an_unknown_content_coding_is_refused(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", content_encoding="br")

    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
    assert not inbox.received


@pytest.mark.parametrize("coding", ["gzip", "Deflate", "identity"])
async def test_a_compressed_body_is_passed_on_with_its_coding(serve: Serve, inbox: FakeInbox, coding: str) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", b"compressed", content_encoding=coding)

    ((headers, body),) = inbox.received
    assert (answer.status_code, body) == (200, b"compressed")
    assert ("content-encoding", coding) in headers


async def test_a_disconnect_in_a_body_stores_nothing(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /callbacks/%s HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf" % TOKEN.encode())
        await writer.drain()
        writer.close()
        await wait_until(lambda: bool(logs))

    assert not inbox.received
    assert logs == [{"event": "callback.abandoned", "peer": "127.0.0.1", "log_level": "info"}]


async def test_an_error_is_a_problem_document(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, "/callbacks/unknown")

    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.content) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Nothing is served at this path.",
        "code": "not_found",
    }


NAMES = AllowedHosts(Address("10.1.2.3", 8700), {"hooks.example.com"})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("hooks.example.com", 200),
        ("HOOKS.example.com.:443", 200),
        ("127.0.0.1:8700", 200),
        ("localhost", 200),
        ("[::1]:8700", 200),
        ("10.1.2.3:8700", 200),
        ("hooks.example.com.attacker.example", 421),
        ("attacker.example", 421),
        ("10.1.2.4", 421),
        ("", 421),
        ("@", 421),
        ("[::1", 200),
        ("[", 421),
    ],
)
async def test_only_the_public_urls_host_and_local_hosts_are_answered(
    serve: Serve, inbox: FakeInbox, host: str, status: int
) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY, allowed_hosts=NAMES))

    answer = await post(address, f"/callbacks/{TOKEN}", host=host)

    assert answer.status_code == status
    assert len(inbox.received) == (status == 200)


async def test_any_host_is_answered_without_a_public_url(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    assert (await post(address, f"/callbacks/{TOKEN}", host="tunnel.example")).status_code == 200


async def test_a_trusted_proxy_may_use_any_host(serve: Serve, inbox: FakeInbox) -> None:
    proxies = TrustedProxies([ip_network("127.0.0.1/32")])
    address = await serve(public_app(inbox, max_body=MAX_BODY, allowed_hosts=NAMES, proxies=proxies))

    assert (await post(address, f"/callbacks/{TOKEN}", host="upstream-of-nginx")).status_code == 200


async def test_an_old_health_check_without_a_host_is_answered(
    serve: Serve, send_bytes: SendBytes, inbox: FakeInbox
) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY, allowed_hosts=NAMES))

    assert b" 200 " in await send_bytes(address, b"GET /healthz HTTP/1.0\r\n\r\n")


async def test_many_refused_requests_log_a_bounded_number_of_lines(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY, timer=lambda: 0.0))

    with capture_logs() as logs:
        for number in range(100):
            await post(address, f"/{number}")
            await post(address, f"/callbacks/{TOKEN}", b"x" * (MAX_BODY + 1))

    assert len([line for line in logs if line["event"] == "callback.refused"]) == 60
    assert [line["peer"] for line in logs if line["event"] == "caller.muted"] == ["127.0.0.1"]


async def test_a_client_that_sends_too_many_pushes_logs_a_bounded_number_of_lines(serve: Serve) -> None:
    crowded = FakeInbox(TooManyPending("Too many pushes."))
    address = await serve(public_app(crowded, max_body=MAX_BODY, timer=lambda: 0.0))

    with capture_logs() as logs:
        answers = {(await post(address, f"/callbacks/{TOKEN}")).status_code for _ in range(70)}

    assert answers == {503}
    assert [line["event"] for line in logs] == ["callback.refused"] * 60 + ["caller.muted"]


async def test_a_client_that_breaks_off_its_bodies_logs_a_bounded_number_of_lines(
    serve: Serve, inbox: FakeInbox
) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY, timer=lambda: 0.0))
    head = f"POST /callbacks/{TOKEN} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{{".encode()

    with capture_logs() as logs:
        for _ in range(70):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(head)
            writer.close()
            await writer.wait_closed()
        await wait_until(lambda: any(line["event"] == "caller.muted" for line in logs))

    assert [line["event"] for line in logs].count("callback.abandoned") == 60


async def test_the_services_own_errors_do_not_count_against_the_client(serve: Serve) -> None:
    failing = FakeInbox(StoreUnavailable("full"))
    address = await serve(public_app(failing, max_body=MAX_BODY, timer=lambda: 0.0))

    with capture_logs() as logs:
        for _ in range(70):
            await post(address, f"/callbacks/{TOKEN}")

    assert [line["code"] for line in logs] == ["store_unavailable"] * 70
