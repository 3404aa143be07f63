"""Checks Kling's key with one cheap query, which creates nothing and costs nothing."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

from receiver.domain.clock import Clock
from receiver.domain.errors import KlingError, MalformedBody
from receiver.domain.model import Json
from receiver.domain.redaction import Redactor
from receiver.kling import protocol
from receiver.kling.answer_body import clean
from receiver.kling.auth import Authorization
from receiver.kling.client import api_url
from receiver.kling.endpoints import Endpoint
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.net.http_client import HttpClient, HttpResponse
from receiver.settings import KlingSettings

_PATH = Endpoint(path="images/generations").list_path(1)  # every account may list its image tasks
_MAX_BODY = 1024 * 1024


class KeyCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Kling's answer: the error that it means, if any, and how far this machine's clock is ahead of Kling's."""

    status: int
    error: KlingError | None
    clock_ahead: timedelta | None


async def check_key(
    settings: KlingSettings, *, http_client: HttpClient, clock: Clock, redactor: Redactor, time_limit: timedelta
) -> KeyCheck:
    """List one task with the configured key. Raises RequestNotSent, NoResponse and AddressBlocked."""
    authorization = Authorization(settings, clock, redactor)
    sent_at = clock.now()
    reply = await http_client.request(
        "GET",
        api_url(settings.base_url.rstrip("/"), _PATH or ""),
        headers={"accept": "application/json", **authorization.headers()},
        time_limit=time_limit,
        max_body=_MAX_BODY,
    )
    received_at = clock.now()
    reply = clean(reply, redactor)
    response = ErrorResponse(status=reply.status, headers=reply.headers, document=_document(reply))
    return KeyCheck(
        status=reply.status,
        error=to_error(response, is_create=False, now=received_at, redact=redactor.text),
        clock_ahead=_clock_ahead(reply.headers.get("date", ""), sent_at, received_at),
    )


def _document(reply: HttpResponse) -> Json | None:
    try:
        return None if reply.truncated else protocol.parse_object(reply.body)
    except MalformedBody:
        return None


def _clock_ahead(date: str, sent_at: datetime, received_at: datetime) -> timedelta | None:
    """Return how far our clock is ahead of a Date header, which is cut to the second; None if it is not a date."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    return sent_at + (received_at - sent_at) / 2 - theirs - timedelta(milliseconds=500)
