"""HTTP requests to the admin API: authentication, retries during an outage, and the event stream."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec

from receiver.client import event_signal
from receiver.client.discovery import current_user
from receiver.client.http_connections import HttpConnections, NoAnswer, NotSent
from receiver.client.models import parse_object, to_error
from receiver.client.outage_timer import OutageTimer
from receiver.client.watch import shorter
from receiver.domain.errors import NotFound, ReceiverError, RequestFailed, ServiceUnreachable
from receiver.domain.model import Json

_CONNECT_SECONDS = 3.0
_RESPONSE_SECONDS = 60.0  # a submit may first wait for Kling
_STREAM_IDLE_SECONDS = 40.0  # the stream has a heartbeat every 15 s
_SUCCESS = range(200, 300)
_STREAM_TYPE = "text/event-stream"
_ACTOR_HEADER = "kling-receiver-actor"  # the acting user, for the audit log

_NO_SUCH_PATH = "Nothing is served at this path."
_PUBLIC_LISTENER = (
    "It is probably the public listener (port 8700). Commands need the admin listener (port 8701): check --url."
)
_CHECK_OPTIONS = "Check --url and --token: the token must be the admin token of the service at this URL."
_CHECK_URL = "Check --url: it must be the admin listener of a running service."

Query: TypeAlias = Mapping[str, str | Sequence[str]]


class Transport:
    """Sends requests to the admin API at *url*.

    Once the service has responded, an outage of up to *outage_tolerance* is tolerated: requests are repeated if that
    is safe. *is_address_given* says that the caller named the URL or the token, so errors name these.
    """

    def __init__(self, url: str, token: str, *, outage_tolerance: timedelta, is_address_given: bool = False) -> None:
        if not (token.isascii() and token.isprintable()):
            raise RequestFailed(
                "The admin token has line breaks, or characters other than printable ASCII.",
                remedy="Pass only the token.",
            )
        self.url = url.rstrip("/")
        self._outage_tolerance = outage_tolerance
        self._is_address_given = is_address_given
        self._has_answered = False
        headers = {"authorization": f"Bearer {token}", _ACTOR_HEADER: current_user()}
        try:
            self._http = HttpConnections(self.url, headers, tls=_tls_for(self.url), connect_seconds=_CONNECT_SECONDS)
        except ValueError as exc:
            raise ServiceUnreachable(
                f"{self.url!r} is not a URL.", remedy="Write it like http://127.0.0.1:8701."
            ) from exc

    async def aclose(self) -> None:
        """Close the connections."""
        self._http.close()

    async def get(self, path: str, query: Query | None = None, *, within: float | None = None) -> Json:
        """Return the JSON object at *path*; tolerate an outage of at most *within* seconds."""
        return parse_object(await self.get_bytes(path, query, within=within))

    async def get_bytes(self, path: str, query: Query | None = None, *, within: float | None = None) -> bytes:
        """Return the body at *path*; tolerate an outage of at most *within* seconds."""
        return await self._request_with_retry("GET", path, query=query, within=within)

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        seconds: float = _RESPONSE_SECONDS,
    ) -> Json:
        """Post an object and return the response's object, which may take *seconds*.

        It is sent again after an outage only if *repeatable*.
        """
        return parse_object(
            await self._request_with_retry(
                "POST", path, body=body, headers=headers, repeatable=repeatable, seconds=seconds
            )
        )

    async def delete(self, path: str, query: Query) -> Json:
        """Delete what is at *path*, and return the response's object."""
        return parse_object(await self._request_with_retry("DELETE", path, query=query))

    async def _request_with_retry(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        within: float | None = None,
        seconds: float = _RESPONSE_SECONDS,
    ) -> bytes:
        """Return a response's body. Repeat the request until there is one or the outage lasts too long.

        A request that the service may have processed is repeated only if it is a GET or *repeatable*.
        """
        outage = self.outage_timer(within)
        while True:
            try:
                return await self._request(method, path, query=query, body=body, headers=headers, seconds=seconds)
            except ReceiverError as exc:
                if method != "GET" and not repeatable and not isinstance(exc.__cause__, NotSent):
                    raise
                outage.check(exc)
            await asyncio.sleep(event_signal.RECONNECT_SECONDS)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        seconds: float,
    ) -> bytes:
        content = None if body is None else _json_bytes(body)
        try:
            status, answer = await self._http.request(
                method, _target(path, query), headers=headers or {}, body=content, seconds=seconds
            )
        except (NotSent, NoAnswer) as exc:
            raise self._unreachable(exc) from exc
        self._has_answered = True
        if status not in _SUCCESS:
            raise self._to_error(path, status, answer)
        return answer

    def outage_timer(self, limit: float | None = None) -> OutageTimer:
        """Return a timer for outages of at most *limit* seconds. No outage is tolerated before the first response."""
        return OutageTimer(lambda: shorter(limit, self._outage_tolerance.total_seconds() if self._has_answered else 0))

    @asynccontextmanager
    async def stream(self, query: Query | None = None) -> AsyncIterator[AsyncIterator["SentEvent"]]:
        """Open the event stream; the context is entered once the service has accepted it."""
        try:
            async with self._http.stream(_target("/api/stream", query), seconds=_STREAM_IDLE_SECONDS) as (head, parts):
                if head.status != HTTPStatus.OK or not head.headers.get("content-type", "").startswith(_STREAM_TYPE):
                    raise self._to_error("/api/stream", head.status, b"".join([part async for part in parts]))
                self._has_answered = True
                yield read_events(parts)
        except (NotSent, NoAnswer) as exc:
            raise self._unreachable(exc) from exc

    def _to_error(self, path: str, status: int, answer: bytes) -> ReceiverError:
        error = to_error(status, answer)
        if status == HTTPStatus.UNAUTHORIZED and self._is_address_given:
            return RequestFailed("The service rejected the admin token.", remedy=_CHECK_OPTIONS, status=status)
        has_empty_name = "//" in path or path.endswith("/")
        if isinstance(error, NotFound) and error.message == _NO_SUCH_PATH and not has_empty_name:
            return NotFound(f"{self.url} does not serve this API.", remedy=_PUBLIC_LISTENER)
        return error

    def _unreachable(self, exc: NotSent | NoAnswer) -> ServiceUnreachable:
        if isinstance(exc, NotSent):
            return ServiceUnreachable(
                f"No service answers at {self.url}.",
                remedy=_CHECK_URL
                if self._is_address_given
                else "Start it with `kling-receiver serve`, or pass its configuration with `--config`.",
            )
        return ServiceUnreachable(
            f"The service at {self.url} did not answer completely ({type(exc.__cause__).__name__}).",
            remedy="Check its log, and `kling-receiver tasks list` before you submit again.",
        )


class SentEvent(msgspec.Struct, frozen=True):
    """An event of the stream: its ID, and the event as JSON."""

    id: str
    data: str


async def read_events(parts: AsyncIterator[bytes]) -> AsyncIterator[SentEvent]:
    """Read server-sent events. One without data, such as a heartbeat, is skipped."""
    rest, event_id, data = b"", "", list[str]()
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                event_id = value
            elif name == "data":
                data.append(value)
            elif not name and not value and data:
                yield SentEvent(event_id, "\n".join(data))
                data = []


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _target(path: str, query: Query | None) -> str:
    return f"{path}?{encoded}" if (encoded := urlencode(query or {}, doseq=True)) else path


def _tls_for(url: str) -> ssl.SSLContext | None:
    """Load the system's certificates only for https: loading takes longer than a request."""
    if not url.lower().startswith("https:"):
        return None
    import httpcore2  # noqa: PLC0415 -- knows where each system keeps its certificates

    return httpcore2.default_ssl_context()
