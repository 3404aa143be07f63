"""Events as they happen, as server-sent events that can be resumed.

Each subscriber reads the store itself, one page at a time, as fast as its client reads. So no buffer can overflow, and
a slow subscriber does not delay others. Pages are in the order of commits, so the last event is the place to resume:
an event that is committed after newer ones follows them.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from receiver.domain.clock import BEFORE_ALL_EVENTS, Clock, wait_for_first
from receiver.domain.model import Event
from receiver.domain.notifier import Notifier
from receiver.events.payload import serialize
from receiver.store.interfaces import Catalog
from receiver.web.api_requests import StreamQuery
from receiver.web.params import last_event_id, read_query
from receiver.web.server.listener import stream_ends
from receiver.web.server.problems import RETRY_AFTER, Problem

HEARTBEAT = timedelta(seconds=15)
MAX_SUBSCRIBERS = 64

_PAGE_SIZE = 200
_PREAMBLE = b"retry: 2000\n: listening\n\n"
_HEARTBEAT_COMMENT = b": still here\n\n"
_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class StreamFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events a subscriber gets: those after an event, of some types, of one task."""

    after: str
    types: Sequence[str] = ()
    task_id: str | None = None


class EventStream:
    """Answers ``GET /api/stream``."""

    def __init__(self, catalog: Catalog, *, notifier: Notifier, clock: Clock) -> None:
        self.catalog = catalog
        self.notifier = notifier
        self.clock = clock
        self.subscribers = 0

    async def subscribe(self, request: Request) -> Response:
        """Start a stream, from now on or after the event that the client names."""
        query = read_query(request, StreamQuery)
        after = query.after or last_event_id(request)
        if self.subscribers >= MAX_SUBSCRIBERS:
            detail = f"All {MAX_SUBSCRIBERS} event streams are in use. Close one, or try again later."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_listeners", detail, headers=RETRY_AFTER)
        stream_filter = StreamFilter(
            after=after or await self._newest_id(),
            types=query.type,
            task_id=await resolve_task_id(self.catalog, query.task),
        )
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type=_MEDIA_TYPE)
        return EventStreamResponse(self, stream_filter, stream_ends(request.scope))

    async def _newest_id(self) -> str:
        page = await self.catalog.events(limit=1)
        return page.items[0].id if page.items else BEFORE_ALL_EVENTS


async def resolve_task_id(catalog: Catalog, ref: str | None) -> str | None:
    """Return our ID of a task from any of its IDs; an unknown ID is returned unchanged."""
    found = await catalog.task(ref) if ref else None
    return found.id if found is not None else ref


class EventStreamResponse(StreamingResponse):
    """The stream of one subscriber; Starlette cancels it when the client disconnects."""

    def __init__(self, stream: EventStream, stream_filter: StreamFilter, ends: Sequence[asyncio.Event]) -> None:
        super().__init__((), headers=_HEADERS, media_type=_MEDIA_TYPE)
        self._stream = stream
        self._filter = stream_filter
        self._ends = ends
        self._last_id = stream_filter.after

    async def stream_response(self, send: Send) -> None:
        """Send stored events, then new ones, until the client disconnects, a token changes or the service stops."""
        signal = self._stream.notifier.subscribe()
        self._stream.subscribers += 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send_chunk(send, _PREAMBLE)
            while not self._is_over():
                signal.clear()
                while events := await self._next_events():
                    for event in events:
                        await _send_chunk(send, _sse_frame(event))
                    self._last_id = events[-1].id
                if not await self._wait(signal):
                    await _send_chunk(send, _HEARTBEAT_COMMENT)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._stream.subscribers -= 1
            self._stream.notifier.unsubscribe(signal)

    async def _next_events(self) -> Sequence[Event]:
        if self._is_over():
            return ()
        page = await self._stream.catalog.events(
            types=self._filter.types, task_id=self._filter.task_id, after=self._last_id, limit=_PAGE_SIZE
        )
        return page.items

    async def _wait(self, signal: asyncio.Event) -> bool:
        """Wait for a notification or the end; return False after one heartbeat interval without either."""
        clock = self._stream.clock
        await wait_for_first(clock, signal, *self._ends, until=clock.now() + HEARTBEAT)
        return signal.is_set() or self._is_over()

    def _is_over(self) -> bool:
        return any(end.is_set() for end in self._ends)


def _sse_frame(event: Event) -> bytes:
    # Line breaks from Kling's body remain in the object, as further data lines.
    lines = b"".join(b"data: " + line + b"\n" for line in serialize(event).splitlines() if line)
    return f"id: {event.id}\nevent: {event.type}\n".encode() + lines + b"\n"


async def _send_chunk(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
