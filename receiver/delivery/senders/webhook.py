"""Deliver by HTTP POST: to a route's webhook, signed by Standard Webhooks, or to a client's own callback URL."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from receiver.delivery.senders.configured_payload import body_maker
from receiver.delivery.senders.sender import DeliveryRequest, RenderingFailed
from receiver.domain import signing
from receiver.domain.errors import AddressBlocked, NoResponse, RequestNotSent
from receiver.domain.model import Accepted, Event, Failed, Outcome, Refused
from receiver.domain.secret import Secret
from receiver.domain.tracing import trace_headers
from receiver.events import payload
from receiver.kling.own_end_body import own_end_body
from receiver.net.http_client import HttpClient, HttpResponse, StreamedResponse, has_literal_ip
from receiver.net.retry_after import parse_retry_after
from receiver.settings import WebhookSettings

EXCERPT_BYTES = 4096
"""How much of an answer is kept."""

_READ_BYTES = EXCERPT_BYTES + 512  # to recognize a secret that begins in the part that is kept
_BODY_SECONDS = 2.0  # then an answer's body is cut: its head has decided, and the lane has other deliveries
_ABOUT_ROUTE = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
"""Answers 4xx that say when to come again. All others, except 410, are about the event."""

_RESERVED_HEADERS = re.compile(r"webhook-.*|kling-receiver-.*|user-agent|content-.*")
_OWN_ENDS = ("task.rejected", "task.expired")
_JSON = {"content-type": "application/json"}
_ADVICE: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "it rejected the body; its response is stored with the attempt",
    HTTPStatus.UNAUTHORIZED: "check the route's secret and headers",
    HTTPStatus.FORBIDDEN: "check the route's secret and headers, and any firewall in front of it",
    HTTPStatus.NOT_FOUND: "check the path of the URL",
    HTTPStatus.METHOD_NOT_ALLOWED: "it does not accept POST there: check the path of the URL",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "a proxy in front of it requires credentials",
    HTTPStatus.REQUEST_TIMEOUT: "it did not receive the body in time",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "it does not accept application/json",
    HTTPStatus.UNPROCESSABLE_ENTITY: "it rejected the body; its response is stored with the attempt",
    HTTPStatus.TOO_MANY_REQUESTS: "too many requests: lower the route's rate or concurrency",
    HTTPStatus.INTERNAL_SERVER_ERROR: "check its log",
    HTTPStatus.BAD_GATEWAY: "the server behind its proxy is down",
    HTTPStatus.SERVICE_UNAVAILABLE: "it is temporarily unavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "the server behind its proxy did not answer in time",
}


class WebhookSender:
    """Posts events to a route's webhook. The route's headers are added and never replace ours."""

    def __init__(self, settings: WebhookSettings, *, http_client: HttpClient) -> None:
        self._settings = settings
        self._http_client = http_client
        self._headers = _extra_headers(settings) | _JSON
        self._make_body = body_maker(settings)

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take in total."""
        return self._settings.timeout

    async def preview(self, event: Event) -> bytes:
        """Return the body that is posted. Raises RenderingFailed."""
        return self._make_body(event)

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Post the event once."""
        try:
            content = await self.preview(request.event)
        except RenderingFailed as exc:
            return exc.outcome()
        headers = self._headers | _tracking_headers(request) | _id_headers(request) | trace_headers()
        if self._settings.secret:
            headers |= _signature_header(self._settings.secret, request, content)
        return await _post(
            self._http_client, self._settings.url, headers, content, time_limit=self._settings.timeout, at=request.at
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http_client.aclose()


class ClientCallbackSender:
    """Posts Kling's own body, byte for byte, to the callback URL that the task's client gave.

    An end that the receiver set itself is posted in Kling's shape: it is sent only to a client that wants just the end.
    Signed only if the gateway has a secret: a client that verifies signatures expects all signature headers or none.
    *http_client* must have a guard for URLs from untrusted clients.
    """

    def __init__(self, *, http_client: HttpClient, timeout: timedelta, secret: Secret | None = None) -> None:
        self._http_client = http_client
        self._timeout = timeout
        self._secret = secret

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take in total."""
        return self._timeout

    async def preview(self, event: Event) -> bytes:
        """Return the body that is posted: Kling's own, if the event has one."""
        if event.type in _OWN_ENDS:
            return own_end_body(event.envelope)
        return event.body or payload.serialize(event)

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Post the body once."""
        if request.url is None:
            return Refused(reason="The task has no client callback URL.")
        content = await self.preview(request.event)
        headers = _JSON | _tracking_headers(request)
        if self._secret:
            headers |= _id_headers(request) | _signature_header((self._secret,), request, content)
        outcome = await _post(self._http_client, request.url, headers, content, time_limit=self._timeout, at=request.at)
        match outcome:
            case Refused(hold=True):  # only this client's URL is gone, not the whole host
                return Refused(reason="410: the client's callback URL is gone.", code=410, excerpt=outcome.excerpt)
            case _:
                return outcome

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http_client.aclose()


def outcome_of(response: HttpResponse, *, url: str, body_size: int, at: datetime) -> Outcome:
    """Return the outcome of a response to a body of *body_size* bytes, with advice for the operator."""
    status, excerpt = response.status, response.body[:_READ_BYTES]
    match status, status // 100:
        case _, 2:
            return Accepted(code=status, excerpt=excerpt)
        case _, 3:
            return Failed(reason=_redirect_reason(response, url), code=status, excerpt=excerpt)
        case HTTPStatus.GONE, _:
            reason = "410: the destination is gone. Remove the route, or correct its URL and release it."
            return Refused(reason=reason, code=status, excerpt=excerpt, hold=True)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _:
            advice = f"a body of {body_size} bytes is too large; raise its limit, or that of a proxy in front of it"
        case _, 5:
            advice = _ADVICE.get(status, "it failed: check its log")
        case _:
            advice = _ADVICE.get(status, "it rejected the event; its response is stored with the attempt")
    retry_after = None
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        retry_after = parse_retry_after(response.headers.get("retry-after", ""), now=at) or None
    return Failed(
        reason=f"{status}: {advice}.",
        code=status,
        excerpt=excerpt,
        retry_after=retry_after,
        is_about_event=_is_about_event(status),
    )


def _is_about_event(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _ABOUT_ROUTE


async def _post(
    http_client: HttpClient,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    *,
    time_limit: timedelta,
    at: datetime,
) -> Outcome:
    """Post once. The answer's head decides, even if the body behind it breaks off."""
    heads: list[StreamedResponse] = []
    body = bytearray()

    async def read(response: StreamedResponse) -> None:
        heads.append(response)
        if response.body is not None:
            body.extend(response.body)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in response.chunks:
                    body.extend(chunk)
                    if len(body) > _READ_BYTES:
                        break

    try:
        await http_client.stream(url, method="POST", headers=headers, content=content, time_limit=time_limit, read=read)
    except AddressBlocked as exc:
        return Refused(reason=str(exc)) if has_literal_ip(url) else Failed(reason=str(exc), fault="blocked")
    except (RequestNotSent, NoResponse) as exc:
        if not heads:
            return Failed(reason=str(exc), fault=exc.fault)
    response = HttpResponse(status=heads[0].status, headers=heads[0].headers, body=bytes(body))
    return outcome_of(response, url=url, body_size=len(content), at=at)


def _extra_headers(settings: WebhookSettings) -> dict[str, str]:
    named = {name.lower(): value for name, value in settings.headers.items()}
    return {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in named.items()
        if not _RESERVED_HEADERS.fullmatch(name)
    }


def _tracking_headers(request: DeliveryRequest) -> dict[str, str]:
    return {"kling-receiver-delivery": request.delivery_id, "kling-receiver-attempt": str(request.attempt)}


def _id_headers(request: DeliveryRequest) -> dict[str, str]:
    return {signing.ID_HEADER: request.event.id, signing.TIMESTAMP_HEADER: signing.timestamp(request.at)}


def _signature_header(secrets: tuple[Secret, ...], request: DeliveryRequest, content: bytes) -> dict[str, str]:
    value = signing.sign(secrets, message_id=request.event.id, at=request.at, body=content)
    return {signing.SIGNATURE_HEADER: value}


def _redirect_reason(response: HttpResponse, url: str) -> str:
    """Return the reason for a redirect. It shows the target's origin only, never path or credentials."""
    target = ""
    try:
        there, here = urlsplit(urljoin(url, response.headers.get("location", ""))), urlsplit(url)
        if (there.scheme, there.hostname, there.port) != (here.scheme, here.hostname, here.port) and there.hostname:
            port = f":{there.port}" if there.port else ""
            target = f" to {there.scheme}://{there.hostname[:253]}{port}"
        elif "location" in response.headers:
            target = " to another path on the same host"
    except ValueError:
        target = " to an invalid URL"
    return f"{response.status}: a redirect{target}. Redirects are not followed: configure the final URL in the route."
