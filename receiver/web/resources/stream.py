"""Events as they happen, for whoever listens: server-sent events, which can be taken up where they broke off.

Each listener reads the store for itself, a page at a time, and no further than it takes what it is sent; so there
is nothing to overflow, and a slow one holds up nobody.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from receiver.domain.clock import Clock
from receiver.domain.model import Event
from receiver.domain.notifier import Bell
from receiver.events.payload import joined
from receiver.store.interfaces import Catalog
from receiver.web.params import Query, an_event_id
from receiver.web.server.listener import STOPPING
from receiver.web.server.problems import TRY_AGAIN, Problem

HEARTBEAT = timedelta(seconds=15)
MOST_LISTENERS = 64

_BEFORE_ALL = "evt_" + "0" * 25
_PAGE = 200
_LOOK_BACK = 64
_HELLO = b"retry: 2000\n: listening\n\n"
_STILL_HERE = b": still here\n\n"
_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which events a listener wants: those after an event, of some types, of one task."""

    after: str
    types: Sequence[str] = ()
    task_id: str | None = None


class Stream:
    """Answers ``GET /api/stream``."""

    def __init__(self, catalog: Catalog, *, bell: Bell, clock: Clock) -> None:
        self.catalog = catalog
        self.bell = bell
        self.clock = clock
        self.listeners = 0

    async def listen(self, request: Request) -> Response:
        """Begin to stream, from now on or from where the client says that it broke off."""
        query = Query(request, filters=("after", "type", "task"), paged=False)
        after = query.event_id("after")
        if after is None and (last := request.headers.get("last-event-id")):
            after = an_event_id(last, "Last-Event-ID")
        if self.listeners >= MOST_LISTENERS:
            detail = f"{MOST_LISTENERS} are listening already."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_listeners", detail, headers=TRY_AGAIN)
        wish = Wish(
            after=after or await self._newest(),
            types=query.many("type"),
            task_id=await task_id(self.catalog, query.one("task")),
        )
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type=_MEDIA_TYPE)
        return _Feed(self, wish, request.scope.get(STOPPING) or asyncio.Event())

    async def _newest(self) -> str:
        page = await self.catalog.events(limit=1)
        return page.items[0].id if page.items else _BEFORE_ALL


async def task_id(catalog: Catalog, ref: str | None) -> str | None:
    """Find our id of a task that is asked for by any of its ids; an id nobody knows stands for itself."""
    found = await catalog.task(ref) if ref else None
    return found.id if found is not None else ref


class _Feed(StreamingResponse):
    """One listener's stream; Starlette ends it when the client goes away."""

    def __init__(self, stream: Stream, wish: Wish, stopping: asyncio.Event) -> None:
        super().__init__((), headers=_HEADERS, media_type=_MEDIA_TYPE)
        self._stream = stream
        self._wish = wish
        self._stopping = stopping
        self._sent = _Sent(floor=wish.after)

    async def stream_response(self, send: Send) -> None:
        """Send what there is, then whatever comes, until the listener or we have to go."""
        rung = self._stream.bell.listen()
        self._stream.listeners += 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send_more(send, _HELLO)
            while not self._stopping.is_set():
                rung.clear()
                while fresh := await self._fresh():
                    for event in fresh:
                        await _send_more(send, _frame(event))
                        self._sent.note(event.id)
                if not await self._wait(rung):
                    await _send_more(send, _STILL_HERE)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._stream.listeners -= 1
            self._stream.bell.leave(rung)

    async def _fresh(self) -> list[Event]:
        if self._stopping.is_set():
            return []
        page = await self._stream.catalog.events(
            types=self._wish.types, task_id=self._wish.task_id, after=self._sent.floor, limit=_PAGE
        )
        return [event for event in page.items if event.id not in self._sent.recent]

    async def _wait(self, rung: asyncio.Event) -> bool:
        """Wait for a ring or the end; False when neither came for a heartbeat's time."""
        clock = self._stream.clock
        waits = [
            asyncio.create_task(clock.wait(rung, until=clock.now() + HEARTBEAT)),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return rung.is_set() or self._stopping.is_set()


@dataclass(slots=True)
class _Sent:
    """What a listener has had. Ids are made a little before they are committed, so one may turn up behind others;
    the store is asked again from some way back, and what was sent already is left out."""

    floor: str
    recent: deque[str] = field(default_factory=deque)

    def note(self, event_id: str) -> None:
        """Remember that an event was sent."""
        self.recent.append(event_id)
        if len(self.recent) > _LOOK_BACK:
            self.floor = max(self.floor, self.recent.popleft())


def _frame(event: Event) -> bytes:
    # Kling's own line breaks go on inside the object, as further lines of data.
    lines = b"".join(b"data: " + line + b"\n" for line in joined(event).splitlines() if line)
    return f"id: {event.id}\nevent: {event.type}\n".encode() + lines + b"\n"


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
