"""Requests a URL each minute while all is well, so that an outside monitor notices when the receiver is silent.

An alert needs a receiver that works. This is the other way round: the monitor raises the alarm when nothing arrives.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import ReceiverError
from receiver.domain.model import RouteState
from receiver.domain.secret import Secret
from receiver.net.http_client import HttpClient
from receiver.web.resources.health import ReadinessCheck

log = structlog.get_logger()

INTERVAL = timedelta(minutes=1)
_START_INTERVAL = timedelta(seconds=1)
_CHECK_LIMIT = timedelta(seconds=10)
_REQUEST_LIMIT = timedelta(seconds=10)
_MAX_ANSWER = 1024


class Heartbeat:
    """Requests *url* each minute while all is well.

    All is well if every part of the service runs, the store commits within ten seconds and has disk space, and none of
    *alert_routes*, the routes that receive alerts now, is held. The log says once why there is no heartbeat.
    """

    def __init__(
        self,
        url: Secret,
        http_client: HttpClient,
        *,
        readiness: ReadinessCheck,
        commit: Callable[[], Awaitable[None]],
        route_states: Callable[[], Awaitable[Mapping[str, RouteState]]],
        alert_routes: Callable[[], Collection[str]],
        clock: Clock,
    ) -> None:
        self._url = url
        self._http_client = http_client
        self._readiness = readiness
        self._commit = commit
        self._route_states = route_states
        self._alert_routes = alert_routes
        self._clock = clock
        self._silent_because = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Send a heartbeat once the service is ready, and then each minute, until *stop*."""
        started_at = self._clock.now()
        while not stop.is_set():
            now = self._clock.now()
            wait = await self.step(is_starting=now - started_at < INTERVAL)
            await self._clock.wait(stop, until=now + wait)

    async def step(self, *, is_starting: bool) -> timedelta:
        """Send a heartbeat if all is well, and return when to continue. At the start parts may still be starting."""
        reason = await self.beat()
        if reason and is_starting:
            return _START_INTERVAL
        self._log_change(reason)
        return INTERVAL

    async def beat(self) -> str:
        """Request the URL if all is well. Return why there was no heartbeat, or an empty string."""
        try:
            async with asyncio.timeout(_CHECK_LIMIT.total_seconds()):
                reason = await self._fault()
        except TimeoutError:
            reason = f"the store did not commit within {_CHECK_LIMIT.total_seconds():.0f} s"
        return reason or await self._request()

    async def _fault(self) -> str:
        """Return what is not well, or an empty string."""
        for check in await self._readiness():
            if not check.ok:
                return f"{check.name} is not ready: {check.reason}" if check.reason else f"{check.name} is not ready"
        try:
            states = await self._route_states()
            for name in self._alert_routes():
                if name in states and states[name].is_held:
                    return f"route {name} receives alerts and is held"
            await self._commit()
        except ReceiverError as exc:
            return exc.message
        return ""

    async def _request(self) -> str:
        host = urlsplit(self._url.reveal()).hostname
        try:
            answer = await self._http_client.request(
                "GET", self._url.reveal(), time_limit=_REQUEST_LIMIT, max_body=_MAX_ANSWER
            )
        except ReceiverError as exc:
            return f"{host} was not reached: {exc.message}"
        return "" if answer.status // 100 == 2 else f"{host} answered {answer.status}"  # noqa: PLR2004 -- 2xx

    def _log_change(self, reason: str) -> None:
        if reason and reason != self._silent_because:
            log.warning("heartbeat.stopped", reason=reason)
        elif self._silent_because and not reason:
            log.info("heartbeat.resumed")
        self._silent_because = reason
