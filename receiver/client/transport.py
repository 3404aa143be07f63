"""HTTP requests to the admin API: authentication, retries during an outage, and the event stream."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import httpx2 as httpx

from receiver.client import event_signal
from receiver.client.discovery import current_user
from receiver.client.models import parse_object, to_error
from receiver.client.outage_timer import OutageTimer
from receiver.client.watch import shorter
from receiver.domain.errors import ReceiverError, ServiceUnreachable
from receiver.domain.model import Json

_CONNECT_SECONDS = 3.0
_RESPONSE_SECONDS = 60.0  # a submit may first wait for Kling
_STREAM_IDLE_SECONDS = 40.0  # the stream has a heartbeat every 15 s
_ACTOR_HEADER = "kling-receiver-actor"  # the acting user, for the audit log

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)

Query: TypeAlias = Mapping[str, str | Sequence[str]]


class Transport:
    """Sends requests to the admin API at *url*.

    Once the service has responded, an outage of up to *outage_tolerance* is tolerated: requests are repeated if that
    is safe.
    """

    def __init__(self, url: str, token: str, *, outage_tolerance: timedelta) -> None:
        self.url = url.rstrip("/")
        self._outage_tolerance = outage_tolerance
        self._has_answered = False
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}", _ACTOR_HEADER: current_user()},
            timeout=httpx.Timeout(_RESPONSE_SECONDS, connect=_CONNECT_SECONDS),
            verify=_tls_for(self.url),
            trust_env=False,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, query: Query | None = None, *, within: float | None = None) -> Json:
        """Return the JSON object at *path*; tolerate an outage of at most *within* seconds."""
        return parse_object(await self.get_bytes(path, query, within=within))

    async def get_bytes(self, path: str, query: Query | None = None, *, within: float | None = None) -> bytes:
        """Return the body at *path*; tolerate an outage of at most *within* seconds."""
        return (await self._request_with_retry("GET", path, query=query, within=within)).content

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> Json:
        """Post an object and return the response's object. It is sent again after an outage only if *repeatable*."""
        response = await self._request_with_retry("POST", path, body=body, headers=headers, repeatable=repeatable)
        return parse_object(response.content)

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
    ) -> httpx.Response:
        """Repeat a request until there is a response or the outage lasts too long.

        A request that the service may have processed is repeated only if it is a GET or *repeatable*.
        """
        outage = self.outage_timer(within)
        while True:
            try:
                return await self._request(method, path, query=query, body=body, headers=headers)
            except ReceiverError as exc:
                if method != "GET" and not repeatable and not isinstance(exc.__cause__, _NOT_SENT):
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
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, params=query, json=body, headers=headers)
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc
        self._has_answered = True
        if not response.is_success:
            raise to_error(response.status_code, response.content)
        return response

    def outage_timer(self, limit: float | None = None) -> OutageTimer:
        """Return a timer for outages of at most *limit* seconds. No outage is tolerated before the first response."""
        return OutageTimer(lambda: shorter(limit, self._outage_tolerance.total_seconds() if self._has_answered else 0))

    @asynccontextmanager
    async def stream(self, query: Query | None = None) -> AsyncIterator[AsyncIterator[httpx.ServerSentEvent]]:
        """Open the event stream; the context is entered once the service has accepted it."""
        try:
            async with self._http.sse(
                "/api/stream",
                params=query,
                timeout=httpx.Timeout(_STREAM_IDLE_SECONDS, connect=_CONNECT_SECONDS),
                max_event_size=None,  # the service already limits the size of events
            ) as source:
                if source.response.status_code != httpx.codes.OK:
                    raise to_error(source.response.status_code, await source.response.aread())
                self._has_answered = True
                yield (event async for event in source if event.data)
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, exc: Exception) -> ServiceUnreachable:
        if isinstance(exc, _NOT_SENT):
            return ServiceUnreachable(
                f"No service answers at {self.url}.",
                remedy="Start it with `kling-receiver serve`, or pass its configuration with `--config`.",
            )
        return ServiceUnreachable(
            f"The service at {self.url} did not answer completely ({type(exc).__name__}).",
            remedy="Check its log, and `kling-receiver tasks list` before you submit again.",
        )


def _tls_for(url: str) -> ssl.SSLContext | bool:
    """Load the system's certificates only for https: loading takes longer than a request."""
    return True if url.lower().startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
