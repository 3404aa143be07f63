"""What an answer's head decides, and what of an answer is kept: all but secrets."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator

import pytest
from harness.clock import START
from harness.factories import an_event
from harness.http_peers import Peer, http_peer, respond_with, response
from harness.waiting import wait_until
from msgspec.structs import replace

from receiver.delivery.lane_registry import LaneRegistry
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.delivery.senders.webhook import EXCERPT_BYTES, WebhookSender, outcome_of
from receiver.domain.model import Accepted, Failed, Outcome, Refused
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.net.http_client import HttpClient, HttpResponse
from receiver.settings import RouteSettings, Settings, WebhookSettings

REQUEST = DeliveryRequest(delivery_id="dlv_1", event=an_event(body=b"{}"), attempt=1, at=START)
BROKEN_BODIES = {
    "short": b"Content-Length: 50\r\n\r\nok",
    "cut in a chunk": b"Transfer-Encoding: chunked\r\n\r\n5\r\nok",
    "no last chunk": b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    "not a chunk": b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n",
}


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="kling-receiver/test")
    yield http_client
    await http_client.aclose()


async def send(http_client: HttpClient, peer: Peer) -> Outcome:
    return await WebhookSender(WebhookSettings(url=peer.url), http_client=http_client).send(REQUEST)


@pytest.mark.parametrize("broken", BROKEN_BODIES)
async def test_a_2xx_counts_as_delivered_even_with_a_truncated_body(http_client: HttpClient, broken: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + BROKEN_BODIES[broken]
    async with http_peer(respond_with(answer, then_close=True)) as peer:
        assert await send(http_client, peer) == Accepted(code=200, excerpt=b"ok")

        await wait_until(lambda: peer.open_connections == 0)


async def test_a_status_counts_the_same_with_a_truncated_body(http_client: HttpClient) -> None:
    for status, kind in ((410, Refused), (503, Failed)):
        answer = b"HTTP/1.1 %d X\r\nRetry-After: 60\r\nContent-Length: 50\r\n\r\nso" % status
        async with http_peer(respond_with(answer, then_close=True)) as peer:
            outcome = await send(http_client, peer)

        whole = outcome_of(
            HttpResponse(status=status, headers={"retry-after": "60"}, body=b"so"), url=peer.url, body_size=2, at=START
        )
        assert isinstance(outcome, kind)
        assert outcome == whole


async def test_a_slow_or_hanging_body_delays_a_delivery_by_two_seconds_at_most(http_client: HttpClient) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with http_peer(drip) as peer, asyncio.timeout(8):
        outcome = await send(http_client, peer)

        assert isinstance(outcome, Accepted)
        assert 0 < len(outcome.excerpt) < 100
        await wait_until(lambda: peer.open_connections == 0)


async def test_a_compressed_answer_counts_as_delivered_and_is_kept_undecoded(http_client: HttpClient) -> None:
    for body in (gzip.compress(b"thanks"), b"not gzip at all"):
        async with http_peer(response(200, body, Content_Encoding="gzip")) as peer:
            assert await send(http_client, peer) == Accepted(code=200, excerpt=body)


def rejections() -> Iterator[int]:
    yield from (status for status in range(400, 500) if status not in (408, 410, 425, 429))


@pytest.mark.parametrize("status", [302, 408, 425, 429, *rejections(), 500, 503])
def test_a_4xx_rejects_the_event_unless_it_asks_for_a_retry(status: int) -> None:
    outcome = outcome_of(HttpResponse(status=status, headers={}, body=b""), url="http://x/", body_size=2, at=START)

    assert isinstance(outcome, Failed)
    assert outcome.is_about_event == (status in rejections())


# Secrets.

CANARIES = {
    "secret": "signing-canary-of-16",
    "header": "Bearer header-canary",
    "plain header": "project-canary",
    "key": "query canary/+%",
    "path": "T0PATHCANARY0123456789",
    "admin": "admin-token-canary",
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(response(200, head + f" {CANARIES} ".encode()))
    await writer.drain()
    writer.close()
    raise ConnectionError


def lanes(peer: Peer, http_client: HttpClient) -> LaneRegistry:
    url = f"{peer.url}/{CANARIES['path']}/hook?key=query+canary%2F%2B%25&n=1"
    headers = {"authorization": Secret(CANARIES["header"]), "x-project": CANARIES["plain header"]}
    webhook = WebhookSettings(url=url, secret=(Secret(CANARIES["secret"]),), headers=headers)
    settings = Settings(routes=(RouteSettings(name="hook", webhook=webhook),))
    redactor = Redactor([Secret(CANARIES[name]) for name in ("secret", "header", "admin")])
    return LaneRegistry(settings, http_client, http_client, redactor)


async def test_an_echoed_request_is_kept_without_secrets(http_client: HttpClient) -> None:
    async with http_peer(echo, reads_requests=False) as peer:
        sender = lanes(peer, http_client).sender("hook")
        assert sender is not None
        outcome = await sender.send(REQUEST)

    kept = outcome.excerpt.decode()
    assert "canary" not in kept.lower()
    assert "/hook?key=***&n=1" in kept
    assert "kling-receiver-delivery: dlv_1" in kept


async def test_a_clients_callback_url_is_hidden_in_its_answers(http_client: HttpClient) -> None:
    async with http_peer(echo, reads_requests=False) as peer:
        sender = lanes(peer, http_client).sender(f"reply:127.0.0.1:{peer.port}")
        assert sender is not None
        url = f"{peer.url}/resume?signature=resume-of-client-42"
        outcome = await sender.send(replace(REQUEST, url=url))

    assert b"/resume?signature=*** HTTP" in outcome.excerpt


@pytest.mark.parametrize("cut_at", [0, 1, 5, 19, 20])
async def test_a_secret_cut_at_the_end_of_the_excerpt_is_removed_whole(http_client: HttpClient, cut_at: int) -> None:
    secret = CANARIES["secret"].encode()
    body = b"x" * (EXCERPT_BYTES - cut_at) + secret + b"y" * 5000
    async with http_peer(response(200, body)) as peer:
        sender = lanes(peer, http_client).sender("hook")
        assert sender is not None
        outcome = await sender.send(REQUEST)

    kept = b"x" * (EXCERPT_BYTES - cut_at)
    assert outcome.excerpt == (kept + b"***" if cut_at >= len(secret) else kept)


async def test_the_first_4_kib_of_an_answer_are_kept(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"x" * 100_000)) as peer:
        sender = lanes(peer, http_client).sender("hook")
        assert sender is not None
        assert (await sender.send(REQUEST)).excerpt == b"x" * EXCERPT_BYTES
