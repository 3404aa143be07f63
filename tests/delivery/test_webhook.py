"""A webhook gets the event, signed and named; what it answers becomes a verdict and a sentence to act on."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any

import pytest
from harness.clock import START
from harness.factories import an_event
from harness.http_peers import http_peer, never_respond, respond_with, response
from harness.ports import free_port
from msgspec.structs import replace
from standardwebhooks import Webhook

from receiver.delivery.senders.sender import DeliveryRequest
from receiver.delivery.senders.webhook import ClientCallbackSender, WebhookSender, outcome_of
from receiver.domain.clock import SystemClock
from receiver.domain.model import Accepted, Event, Failed, Outcome, Refused
from receiver.domain.secret import Secret
from receiver.net.http_client import HttpClient, HttpResponse, IPAddress
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.settings import WebhookSettings

NEW, OLD = Secret("a new secret, long enough"), Secret("an old secret, long enough")
BODY = b'{"task_id": "k1",  "task_status":"succeed","note":"\xc3\xa4"}'


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="kling-receiver/0.1.0", guard=OperatorGuard())
    yield http_client
    await http_client.aclose()


def a_delivery_request(event: Event | None = None, **changes: Any) -> DeliveryRequest:
    parcel = DeliveryRequest(delivery_id="dlv_1", event=event or an_event(body=BODY), attempt=1, at=START)
    return replace(parcel, **changes)


async def send(http_client: HttpClient, url: str, request: DeliveryRequest | None = None, **settings: Any) -> Outcome:
    return await WebhookSender(WebhookSettings(url=url, **settings), http_client=http_client).send(
        request or a_delivery_request()
    )


async def test_the_event_is_posted_with_klings_body_unchanged(http_client: HttpClient) -> None:
    async with http_peer(response(204)) as peer:
        outcome = await send(http_client, f"{peer.url}/hooks/kling")

    assert outcome == Accepted(code=204)
    assert peer.requests[0].line == "POST /hooks/kling HTTP/1.1"
    assert BODY in peer.requests[0].body
    assert json.loads(peer.requests[0].body)["data"]["kling"]["task_id"] == "k1"


async def test_every_documented_header_is_sent(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await send(http_client, peer.url, a_delivery_request(attempt=3), secret=(NEW,))

    headers = peer.requests[0].headers
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(int(START.timestamp()))
    assert headers["user-agent"] == "kling-receiver/0.1.0"
    assert headers["kling-receiver-delivery"] == "dlv_1"
    assert headers["kling-receiver-attempt"] == "3"


async def test_the_reference_library_verifies_both_secrets_of_a_rotation(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await send(http_client, peer.url, a_delivery_request(at=SystemClock().now()), secret=(NEW, OLD))

    request = peer.requests[0]
    assert len(request.headers["webhook-signature"].split()) == 2
    for secret in (NEW, OLD):
        Webhook(secret.reveal().encode()).verify(request.body, request.headers)


async def test_without_a_secret_the_id_is_sent_but_no_signature(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await send(http_client, peer.url)

    assert "webhook-signature" not in peer.requests[0].headers
    assert peer.requests[0].headers["webhook-id"] == "evt_1"


async def test_attempts_have_the_same_id_and_different_timestamps(http_client: HttpClient) -> None:
    async with http_peer(response(500)) as peer:
        await send(http_client, peer.url, a_delivery_request(), secret=(NEW,))
        await send(http_client, peer.url, a_delivery_request(attempt=2, at=START + timedelta(hours=1)), secret=(NEW,))

    first, second = (request.headers for request in peer.requests)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_payload_kling_sends_only_klings_body(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await send(http_client, peer.url, payload="kling")

    assert peer.requests[0].body == BODY


async def test_payload_kling_sends_the_event_if_kling_sent_no_body(http_client: HttpClient) -> None:
    alert = an_event(type="alert.route_held", body=b"")
    async with http_peer(response()) as peer:
        await send(http_client, peer.url, a_delivery_request(alert), payload="kling")

    assert peer.requests[0].body == alert.envelope


async def test_configured_headers_are_sent(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await send(http_client, peer.url, headers={"X-Tenant": "one", "Authorization": Secret("Bearer hush")})

    assert peer.requests[0].headers["x-tenant"] == "one"
    assert peer.requests[0].headers["authorization"] == "Bearer hush"


async def test_configured_headers_never_replace_the_receivers_own(http_client: HttpClient) -> None:
    forged = {
        "Webhook-Id": "evt_9",
        "webhook-signature": "v1,x",
        "User-Agent": "curl",
        "Content-Type": "text/plain",
        "Kling-Receiver-Attempt": "9",
    }
    settings = WebhookSettings.model_construct(url="", secret=(), headers=forged, timeout=timedelta(seconds=5))
    async with http_peer(response()) as peer:
        sender = WebhookSender(settings.model_copy(update={"url": peer.url}), http_client=http_client)
        await sender.send(a_delivery_request())

    headers = peer.requests[0].headers
    assert headers["webhook-id"] == "evt_1"
    assert "webhook-signature" not in headers
    assert headers["user-agent"] == "kling-receiver/0.1.0"
    assert headers["content-type"] == "application/json"
    assert headers["kling-receiver-attempt"] == "1"


async def test_the_status_of_an_endless_answer_decides(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"x" * 5_000_000)) as peer:
        assert isinstance(await send(http_client, peer.url), Accepted)


async def test_the_timeout_of_a_webhook_sender_is_the_configured_one(http_client: HttpClient) -> None:
    settings = WebhookSettings(url="http://127.0.0.1/", timeout=timedelta(seconds=7))

    assert WebhookSender(settings, http_client=http_client).timeout == timedelta(seconds=7)


async def test_a_timeout_fails_with_its_reason(http_client: HttpClient) -> None:
    async with http_peer(never_respond) as peer:
        outcome = await send(http_client, peer.url, timeout=timedelta(milliseconds=100))

    reason = f"127.0.0.1:{peer.port} received the request but did not answer within 0.1 s."
    assert outcome == Failed(reason=reason, fault="timeout")


async def test_a_refused_connection_fails_with_its_reason(http_client: HttpClient) -> None:
    port = free_port()

    outcome = await send(http_client, f"http://127.0.0.1:{port}/secret")

    assert outcome == Failed(
        reason=f"127.0.0.1:{port} refused the connection: check that a server is listening there.",
        fault="connect",
    )


async def test_an_unknown_host_fails_with_a_dns_reason() -> None:
    async def resolve(_: str) -> list[IPAddress]:
        raise OSError("unknown")

    client = HttpClient(user_agent="kling-receiver/test", resolve=resolve)
    outcome = await send(client, "http://unknown.example.com/hook")
    await client.aclose()

    assert isinstance(outcome, Failed)
    assert outcome.fault == "dns"


async def test_a_reset_fails_with_its_reason(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"", then_close=True)) as peer:
        outcome = await send(http_client, peer.url)

    assert isinstance(outcome, Failed)
    assert "closed the connection without a response" in outcome.reason


# Verdicts.


def outcome_for(status: int, *, url: str = "https://app.example/hook", sent: int = 10, **headers: str) -> Outcome:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return outcome_of(HttpResponse(status=status, headers=names, body=b"says so"), url=url, body_size=sent, at=START)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert outcome_for(status) == Accepted(code=status, excerpt=b"says so")


def test_a_410_is_dead_at_once_and_holds_the_route() -> None:
    outcome = outcome_for(410)

    assert isinstance(outcome, Refused)
    assert (outcome.hold, outcome.code) == (True, 410)


@pytest.mark.parametrize("status", [100, 101, 300, 301, 304, 308, 400, 401, 403, 404, 408, 409, 418, 422, 429, 451])
def test_other_statuses_are_retried(status: int) -> None:
    outcome = outcome_for(status)

    assert isinstance(outcome, Failed)
    assert outcome.code == status
    assert outcome.reason.startswith(f"{status}: ")


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 508, 520, 599, 600, 999])
def test_a_5xx_is_retried(status: int) -> None:
    assert isinstance(outcome_for(status), Failed)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://user:pw@www.example:8443/login?next=token", "to https://www.example:8443."),
        ("/login?token=1", "to another path on the same host."),
        ("//other.example/x", "to https://other.example."),
        ("http://app.example/hook", "to http://app.example."),
        ("http://[broken", "to an invalid URL."),
    ],
)
def test_a_redirect_says_where_it_points_without_path_or_credentials(location: str, words: str) -> None:
    outcome = outcome_for(301, location=location)

    assert isinstance(outcome, Failed)
    assert words in outcome.reason
    assert "not followed" in outcome.reason
    for secret in ("pw", "token", "login"):
        assert secret not in outcome.reason


def test_a_413_is_reported_with_the_size_of_the_body() -> None:
    outcome = outcome_for(413, sent=123456)

    assert isinstance(outcome, Failed)
    assert "123456 bytes" in outcome.reason


@pytest.mark.parametrize(("status", "hint"), [(401, "secret"), (403, "firewall"), (404, "path"), (502, "proxy")])
def test_the_reason_of_a_failure_has_a_hint(status: int, hint: str) -> None:
    outcome = outcome_for(status)

    assert isinstance(outcome, Failed)
    assert hint in outcome.reason


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_of_429_and_503_is_respected(status: int) -> None:
    outcome = outcome_for(status, retry_after="120")

    assert isinstance(outcome, Failed)
    assert outcome.retry_after == timedelta(minutes=2)


@pytest.mark.parametrize("status", [400, 500, 502, 301])
def test_retry_after_of_another_status_is_ignored(status: int) -> None:
    outcome = outcome_for(status, retry_after="120")

    assert isinstance(outcome, Failed)
    assert outcome.retry_after is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", timedelta(seconds=1)),
        (" 30 ", timedelta(seconds=30)),
        ("3600", timedelta(hours=1)),
        ("3601", timedelta(hours=1)),
        ("9" * 5000, timedelta(hours=1)),
        (format_datetime(START + timedelta(minutes=10), usegmt=True), timedelta(minutes=10)),
        (format_datetime(START + timedelta(days=400), usegmt=True), timedelta(hours=1)),
        (format_datetime(START - timedelta(minutes=10), usegmt=True), None),
        ("0", None),
        ("-5", None),
        ("1.5", timedelta(seconds=1.5)),
        ("soon", None),
        ("", None),
        ("Fri, 99 Foo 9999999 99:99:99 GMT", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read_in_both_forms_within_an_hour(value: str, expected: timedelta | None) -> None:
    outcome = outcome_for(429, retry_after=value)

    assert isinstance(outcome, Failed)
    assert outcome.retry_after == expected


# Addresses that are not dialled.


async def test_a_route_to_a_never_dialled_address_is_refused_for_good(http_client: HttpClient) -> None:
    url = "http://169.254.169.254/latest/meta-data"  # the configuration takes no such URL, so it goes past its checks
    settings = WebhookSettings.model_construct(url=url, headers={}, timeout=timedelta(seconds=5))

    outcome = await WebhookSender(settings, http_client=http_client).send(a_delivery_request())

    assert isinstance(outcome, Refused)
    assert not outcome.hold
    assert "169.254.169.254" in outcome.reason


async def test_a_host_name_of_a_never_dialled_address_fails_and_is_retried() -> None:
    async def resolve(_: str) -> list[Any]:
        return [ip_address("169.254.169.254")]

    outcome = await send(
        HttpClient(user_agent="x", guard=OperatorGuard(), resolve=resolve), "http://metadata.example/x"
    )

    assert isinstance(outcome, Failed)
    assert "metadata.example" in outcome.reason


# A client's own callback URL.


def a_client_callback_sender(http_client: HttpClient, secret: Secret | None = None) -> ClientCallbackSender:
    return ClientCallbackSender(http_client=http_client, timeout=timedelta(seconds=5), secret=secret)


async def test_a_client_gets_klings_body_byte_for_byte(http_client: HttpClient) -> None:
    async with http_peer(response(200, b"thanks")) as peer:
        outcome = await a_client_callback_sender(http_client).send(a_delivery_request(url=f"{peer.url}/cb?x=1"))

    assert outcome == Accepted(code=200, excerpt=b"thanks")
    assert peer.requests[0].line == "POST /cb?x=1 HTTP/1.1"
    assert peer.requests[0].body == BODY
    assert peer.requests[0].headers["content-type"] == "application/json"


async def test_a_client_gets_no_signature_headers_without_a_gateway_secret(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await a_client_callback_sender(http_client).send(a_delivery_request(url=peer.url))
        await a_client_callback_sender(http_client, NEW).send(a_delivery_request(url=peer.url, at=SystemClock().now()))

    unsigned, signed = peer.requests
    assert not [name for name in unsigned.headers if name.startswith("webhook-")]
    Webhook(NEW.reveal().encode()).verify(signed.body, signed.headers)


async def test_a_clients_callback_url_cannot_reach_private_addresses() -> None:
    http_client = HttpClient(user_agent="x", guard=PublicGuard())
    async with http_peer(response()) as peer:
        outcome = await a_client_callback_sender(http_client).send(a_delivery_request(url=peer.url))

        assert isinstance(outcome, Refused)
        assert "[network] allow" in outcome.reason
        assert peer.connections == 0


async def test_a_client_url_that_answers_410_holds_no_other_client(http_client: HttpClient) -> None:
    async with http_peer(response(410, b"bye")) as peer:
        outcome = await a_client_callback_sender(http_client).send(a_delivery_request(url=peer.url))

    assert isinstance(outcome, Refused)
    assert (outcome.hold, outcome.excerpt) == (False, b"bye")


async def test_a_task_without_a_clients_callback_url_is_refused(http_client: HttpClient) -> None:
    assert isinstance(await a_client_callback_sender(http_client).send(a_delivery_request()), Refused)
