"""Notifies open pages that the store has changed, so that each loads its own content again.

The stream carries no data: a page that follows it is one that the visitor could load by hand. After a change it waits
a moment, so that a burst of changes loads a page once. Without a change it sends a heartbeat, so that ages and attempts
advance.
"""

from collections import Counter
from datetime import timedelta
from http import HTTPStatus

from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from receiver.domain.clock import Clock, wait_for_first
from receiver.domain.console_sessions import Role
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import Notifier
from receiver.web.console.gate import Gate, Visit
from receiver.web.server.listener import stream_ends
from receiver.web.server.problems import RETRY_AFTER, Problem

MAX_FOLLOWERS = 32
"""For each role, so that readers cannot keep administrators out."""

_CALM = timedelta(seconds=1)
_BEAT = timedelta(seconds=5)
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}
_CHANGED = b"event: console-changed\ndata: 1\n\n"
_PREAMBLE = b"retry: 1000\nevent: console-connected\ndata: 1\n\n"


class LivePages:
    """Answers ``/console/live``."""

    def __init__(self, gate: Gate, notifier: Notifier, *, clock: Clock) -> None:
        self.gate = gate
        self.notifier = notifier
        self.clock = clock
        self.followers = Counter[Role]()

    def routes(self, gate: Gate) -> list[Route]:
        """Return the route of the stream."""
        return [gate.page("/console/live", self.follow)]

    async def follow(self, visit: Visit) -> Response:
        """Start a stream, until the client disconnects, its session ends, a token changes or the service stops."""
        if self.followers[visit.visitor.role] >= MAX_FOLLOWERS:
            detail = f"{MAX_FOLLOWERS} pages already update themselves. Close one, or reload this page."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_listeners", detail, headers=RETRY_AFTER)
        if visit.request.method == "HEAD":
            return Response(headers=_HEADERS, media_type="text/event-stream")
        return _Stream(self, visit)


class _Stream(StreamingResponse):
    def __init__(self, live: LivePages, visit: Visit) -> None:
        super().__init__((), headers=_HEADERS, media_type="text/event-stream")
        self._live = live
        self._request = visit.request
        self._role = visit.visitor.role
        self._ends = stream_ends(visit.request.scope)

    async def stream_response(self, send: Send) -> None:
        signal, clock = self._live.notifier.subscribe(), self._live.clock
        self._live.followers[self._role] += 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send_chunk(send, _PREAMBLE)
            while not any(end.is_set() for end in self._ends) and await self._has_session():
                await wait_for_first(clock, signal, *self._ends, until=clock.now() + _BEAT)
                if signal.is_set():
                    await wait_for_first(clock, *self._ends, until=clock.now() + _CALM)
                signal.clear()
                await _send_chunk(send, _CHANGED)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._live.followers[self._role] -= 1
            self._live.notifier.unsubscribe(signal)

    async def _has_session(self) -> bool:
        """Return whether the session goes on. While the store is unavailable it is not known to have ended."""
        try:
            return await self._live.gate.find_session(self._request) is not None
        except StoreUnavailable:
            return True


async def _send_chunk(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
