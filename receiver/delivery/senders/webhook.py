"""Delivers by HTTP POST: to a route's webhook, signed as Standard Webhooks, or to a client's own callback URL."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from receiver.delivery.senders.sender import Parcel
from receiver.domain import signing
from receiver.domain.errors import DialRefused, NoAnswer, NotSent
from receiver.domain.model import Accepted, Failed, Outcome, Refused, Secret
from receiver.events import payload
from receiver.net.http_client import Outbound, Reply, names_an_address
from receiver.settings import WebhookSettings

EXCERPT_BYTES = 4096
LONGEST_RETRY_AFTER = timedelta(hours=1)

_OURS = re.compile(r"webhook-.*|kling-receiver-.*|user-agent|content-.*")
_DIGITS = re.compile(r"\d{1,9}")
_JSON = {"content-type": "application/json"}
_ADVICE: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "it does not take the body as it is; what it says is kept with the attempt",
    HTTPStatus.UNAUTHORIZED: "check the route's secret and headers",
    HTTPStatus.FORBIDDEN: "check the route's secret and headers, and for a firewall in front of it",
    HTTPStatus.NOT_FOUND: "check the path of the URL",
    HTTPStatus.METHOD_NOT_ALLOWED: "it takes no POST there: check the path of the URL",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "a proxy in front of it wants credentials",
    HTTPStatus.REQUEST_TIMEOUT: "it did not get the body in time",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "it does not take application/json",
    HTTPStatus.UNPROCESSABLE_ENTITY: "it does not take the body as it is; what it says is kept with the attempt",
    HTTPStatus.TOO_MANY_REQUESTS: "it wants fewer requests: see the route's rate and concurrency",
    HTTPStatus.INTERNAL_SERVER_ERROR: "look at its log",
    HTTPStatus.BAD_GATEWAY: "the server behind its proxy is down",
    HTTPStatus.SERVICE_UNAVAILABLE: "it cannot serve just now",
    HTTPStatus.GATEWAY_TIMEOUT: "the server behind its proxy did not answer in time",
}


class WebhookSender:
    """Posts events to a route's webhook. The operator's headers are sent along and never replace ours."""

    def __init__(self, settings: WebhookSettings, *, outbound: Outbound) -> None:
        self._settings = settings
        self._outbound = outbound
        self._headers = _extra_headers(settings) | _JSON

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take, all in all."""
        return self._settings.timeout

    async def send(self, parcel: Parcel) -> Outcome:
        """Post the event once."""
        as_it_came = self._settings.payload == "kling" and parcel.event.body
        content = parcel.event.body if as_it_came else payload.joined(parcel.event)
        headers = self._headers | _tracking(parcel) | _identity(parcel)
        if self._settings.secret:
            headers |= _signature(self._settings.secret, parcel, content)
        return await _post(
            self._outbound, self._settings.url, headers, content, within=self._settings.timeout, at=parcel.at
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._outbound.aclose()


class ReplySender:
    """Posts Kling's own body, byte for byte, to the callback URL that the task's client gave.

    Signed only if the gateway has a secret: a client that checks signatures takes any of their headers as the
    promise of all. *outbound* must have a guard for strangers' words.
    """

    def __init__(self, *, outbound: Outbound, timeout: timedelta, secret: Secret | None = None) -> None:
        self._outbound = outbound
        self._timeout = timeout
        self._secret = secret

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take, all in all."""
        return self._timeout

    async def send(self, parcel: Parcel) -> Outcome:
        """Post the body once."""
        if parcel.url is None:
            return Refused(reason="The task has no callback URL of its client's.")
        content = parcel.event.body or payload.joined(parcel.event)
        headers = _JSON | _tracking(parcel)
        if self._secret:
            headers |= _identity(parcel) | _signature((self._secret,), parcel, content)
        outcome = await _post(self._outbound, parcel.url, headers, content, within=self._timeout, at=parcel.at)
        match outcome:
            case Refused(hold=True):  # one client's URL is gone, which says nothing of the others on that host
                return Refused(reason="410: the client's callback URL is gone.", code=410, excerpt=outcome.excerpt)
            case _:
                return outcome

    async def aclose(self) -> None:
        """Close the connections."""
        await self._outbound.aclose()


def judge(reply: Reply, *, url: str, sent: int, at: datetime) -> Outcome:
    """Say what an answer to a body of *sent* bytes means, in words that a person can act on."""
    status, excerpt = reply.status, reply.body[:EXCERPT_BYTES]
    match status, status // 100:
        case _, 2:
            return Accepted(code=status, excerpt=excerpt)
        case _, 3:
            return Failed(reason=_redirect(reply, url), code=status, excerpt=excerpt)
        case HTTPStatus.GONE, _:
            reason = "410: the destination wants no more events. Take the route out, or correct its URL and release it."
            return Refused(reason=reason, code=status, excerpt=excerpt, hold=True)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _:
            advice = f"a body of {sent} bytes is too large for it; raise its limit, or that of a proxy before it"
        case _, 5:
            advice = _ADVICE.get(status, "it has trouble: look at its log")
        case _:
            advice = _ADVICE.get(status, "it does not take the event; what it says is kept with the attempt")
    patient = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    asked = read_retry_after(reply.headers.get("retry-after", ""), at=at) if patient else None
    return Failed(reason=f"{status}: {advice}.", code=status, excerpt=excerpt, retry_after=asked)


def read_retry_after(value: str, *, at: datetime) -> timedelta | None:
    """Read ``Retry-After``, seconds or a date, up to an hour; None when it asks for no wait or cannot be read."""
    text = value.strip()
    if text.isdecimal() and text.isascii():
        asked = timedelta(seconds=int(text)) if _DIGITS.fullmatch(text) else LONGEST_RETRY_AFTER
    else:
        try:
            date = parsedate_to_datetime(text)
            asked = (date if date.tzinfo else date.replace(tzinfo=UTC)) - at
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(asked, LONGEST_RETRY_AFTER) if asked > timedelta(0) else None


async def _post(
    outbound: Outbound, url: str, headers: Mapping[str, str], content: bytes, *, within: timedelta, at: datetime
) -> Outcome:
    try:
        reply = await outbound.request("POST", url, headers=headers, content=content, total=within, limit=EXCERPT_BYTES)
    except DialRefused as exc:
        return Refused(reason=str(exc)) if names_an_address(url) else Failed(reason=str(exc))
    except (NotSent, NoAnswer) as exc:
        return Failed(reason=str(exc))
    return judge(reply, url=url, sent=len(content), at=at)


def _extra_headers(settings: WebhookSettings) -> dict[str, str]:
    named = {name.lower(): value for name, value in settings.headers.items()}
    return {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in named.items()
        if not _OURS.fullmatch(name)
    }


def _tracking(parcel: Parcel) -> dict[str, str]:
    return {"kling-receiver-delivery": parcel.delivery_id, "kling-receiver-attempt": str(parcel.attempt)}


def _identity(parcel: Parcel) -> dict[str, str]:
    return {signing.ID_HEADER: parcel.event.id, signing.TIMESTAMP_HEADER: signing.timestamp(parcel.at)}


def _signature(secrets: tuple[Secret, ...], parcel: Parcel, content: bytes) -> dict[str, str]:
    value = signing.sign(secrets, message_id=parcel.event.id, at=parcel.at, body=content)
    return {signing.SIGNATURE_HEADER: value}


def _redirect(reply: Reply, url: str) -> str:
    """Say where a redirect points, as far as it may be shown: the origin, neither path nor credentials."""
    leads = ""
    try:
        there, here = urlsplit(urljoin(url, reply.headers.get("location", ""))), urlsplit(url)
        if (there.scheme, there.hostname, there.port) != (here.scheme, here.hostname, here.port) and there.hostname:
            port = f":{there.port}" if there.port else ""
            leads = f" to {there.scheme}://{there.hostname[:253]}{port}"
        elif "location" in reply.headers:
            leads = " to another path of its own"
    except ValueError:
        leads = " to a place that cannot be read"
    return f"{reply.status}: a redirect{leads}. Redirects are not followed: put the URL it leads to into the route."
