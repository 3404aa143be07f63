"""The token is checked before the body is read, and again at the write."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import httpx2 as httpx
import pytest
from harness.fake_inbox import TOKEN, FakeInbox
from harness.http_client import plain_http
from harness.logs import capture_logs
from harness.web_app import Serve
from starlette.types import Message, Scope

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import token_hash
from receiver.domain.errors import MalformedBody
from receiver.settings import Address
from receiver.web.callbacks import public_app
from receiver.web.server.client_address import TrustedProxies

MAX_BODY = 1024 * 1024
HOSTILE = b"[" * MAX_BODY


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


async def post(address: Address, token: str, content: bytes = b"{}", **headers: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{address}") as client:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.post(f"/callbacks/{token}", content=content, headers=names)


async def test_the_body_of_an_unknown_token_is_not_read(inbox: FakeInbox) -> None:
    received: list[str] = []
    sent: list[Message] = []

    async def receive() -> Message:
        received.append("body")
        return {"type": "http.request", "body": HOSTILE}

    async def send(message: Message) -> None:
        sent.append(message)

    app = public_app(inbox, max_body=MAX_BODY)
    scope: Scope = {"type": "http", "method": "POST", "path": "/callbacks/unknown", "headers": [], "client": None}
    await app(scope, receive, send)

    assert sent[0]["status"] == 404
    assert received == []
    assert inbox.written == []


@pytest.mark.parametrize("token", ["unknown", TOKEN])
async def test_a_good_callback_is_answered_while_another_client_sends_no_body(
    serve: Serve, inbox: FakeInbox, token: str
) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    writers = []
    for _ in range(100):
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /callbacks/{token} HTTP/1.1\r\nhost: h\r\ncontent-length: {MAX_BODY}\r\n\r\n"
        writer.write(head.encode() + b"[" * 1000)
        writers.append(writer)

    async with asyncio.timeout(5):
        good = await post(address, TOKEN)

    assert good.status_code == 200
    assert len(inbox.received) == 1
    for writer in writers:
        writer.close()


async def test_guessed_tokens_never_reach_the_writer(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY, timer=lambda: 0.0))

    answers = [await post(address, f"guess-{number}", HOSTILE) for number in range(100)]
    good = await post(address, TOKEN)

    assert (good.status_code, len(inbox.received)) == (200, 1)
    assert inbox.written == [TOKEN]
    assert len({(each.status_code, tuple(each.headers), each.content) for each in answers}) == 1


async def test_a_token_is_looked_up_once_while_it_is_valid(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    statuses = [(await post(address, TOKEN)).status_code for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert inbox.looked_up == [TOKEN]


@pytest.mark.parametrize("failure", [None, MalformedBody("The body is not JSON.")])
async def test_an_expired_token_is_answered_like_an_unknown_one(
    serve: Serve, inbox: FakeInbox, failure: Exception | None
) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    await post(address, TOKEN)

    inbox.tokens.clear()
    inbox.failure = failure
    ended, again = await post(address, TOKEN), await post(address, TOKEN)
    unknown = await post(address, "unknown")

    assert [each.status_code for each in (ended, again, unknown)] == [404, 404, 404]
    assert ended.content == unknown.content
    assert len(inbox.written) == 2


async def test_a_stream_to_an_expired_token_gets_404_not_413(serve: Serve, inbox: FakeInbox) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    address = await serve(public_app(inbox, max_body=1000))
    await post(address, TOKEN)
    inbox.tokens.clear()

    async with plain_http(base_url=f"http://{address}") as client:
        answer = await client.post(f"/callbacks/{TOKEN}", content=stream())

    assert answer.status_code == 404


async def test_only_known_tokens_are_remembered(serve: Serve, inbox: FakeInbox) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    before = (await post(address, "not-yet")).status_code
    inbox.tokens.add("not-yet")
    after = (await post(address, "not-yet")).status_code

    assert (before, after) == (404, 200)


async def test_a_remembered_token_is_not_read_from_the_store(serve: Serve, inbox: FakeInbox) -> None:
    known: BoundedDict[bytes, None] = BoundedDict(10)
    address = await serve(public_app(inbox, max_body=MAX_BODY, known_tokens=known))
    known[token_hash(TOKEN)] = None

    accepted = (await post(address, TOKEN)).status_code
    assert (accepted, inbox.looked_up) == (200, [])

    inbox.tokens.clear()
    assert [(await post(address, TOKEN)).status_code for _ in range(2)] == [404, 404]
    assert inbox.looked_up == [TOKEN]  # the second time, before the body


async def test_failures_are_counted_for_the_client_behind_a_trusted_proxy(serve: Serve, inbox: FakeInbox) -> None:
    proxies = TrustedProxies([ip_network("127.0.0.1/32")])
    address = await serve(public_app(inbox, max_body=MAX_BODY, proxies=proxies, timer=lambda: 0.0))

    with capture_logs() as logs:
        for number in range(70):
            await post(address, f"guess-{number}", x_forwarded_for="198.51.100.7")
        await post(address, "another", x_forwarded_for="198.51.100.8")

    refused = [line["peer"] for line in logs if line["event"] == "callback.refused"]
    assert refused == ["198.51.100.7"] * 60 + ["198.51.100.8"]
