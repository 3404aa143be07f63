"""What is asked of the service, and how its answers are read."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import httpx2 as httpx

from receiver.client import event_signal
from receiver.client.discovery import current_user, discover
from receiver.client.event_cursor import BEFORE_ALL, LOOK_BACK, EventCursor, OutageTimer
from receiver.client.event_signal import EventSignal, EventSignals
from receiver.client.models import Batch, BatchNotFinished, Event, Page, Task, TaskNotFinished, parse_object, to_error
from receiver.client.watch import shorter, watch
from receiver.domain.errors import ReceiverError, ServiceUnreachable
from receiver.domain.model import Json

OUTAGE_TOLERANCE = timedelta(minutes=1)

_CONNECT_SECONDS = 3.0
_RESPONSE_SECONDS = 60.0  # a submit may first wait for Kling
_STREAM_IDLE_SECONDS = 40.0  # the stream has a heartbeat every 15 s
_ACTOR_HEADER = "kling-receiver-actor"  # whose word it is, for the record of what people did

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout)

Query: TypeAlias = Mapping[str, str | Sequence[str]]


class Client:
    """The service's admin listener, found as the commands find it unless *url* and *token* say where.

    *config* is the configuration the service runs on, for a place it is not found in by itself. A service that has
    answered once may be away for *patience*, such as for a restart: whatever may be asked again is, and what is waited
    for or followed goes on with nothing lost.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        config: Path | str | None = None,
        outage_tolerance: timedelta = OUTAGE_TOLERANCE,
    ) -> None:
        url, token = discover(url, token, None if config is None else Path(config))
        self.url = url.rstrip("/")
        self._outage_tolerance = outage_tolerance
        self._has_answered = False
        self._signals = EventSignals(self._stream)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}", _ACTOR_HEADER: current_user()},
            timeout=httpx.Timeout(_RESPONSE_SECONDS, connect=_CONNECT_SECONDS),
            verify=_tls_for(self.url),
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | Mapping[str, Any] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        wait: bool = True,
    ) -> Task:
        """Hand a job in; it is stored when this returns, and sent when Kling has a slot for it.

        One whose turn it is comes back with Kling's answer, or without *wait* as it was stored.

        *batch* is the name of the batch it belongs to, or ``{"name": ..., "size": ...}``. Of what waits the higher
        *priority* goes first.

        The same *idempotency_key* again gives the first task, so a submit that was not answered can be made again.
        """
        asked = {"endpoint": endpoint, "body": dict(body)}
        more: Json = {"label": label, "tags": dict(tags or {}), "batch": batch, "priority": priority}
        more["idempotency_key"] = idempotency_key
        asked |= {name: value for name, value in more.items() if value}
        headers = None if wait else {"prefer": "respond-async"}
        again = bool(idempotency_key)  # an empty one is none
        answer = await self._request_with_retry("POST", "/api/tasks", body=asked, headers=headers, repeatable=again)
        return Task.from_json(parse_object(answer.content))

    async def task(self, ref: str) -> Task:
        """Give a task by our id, Kling's or the external one, with its results."""
        return Task.from_json(await self.get(f"/api/tasks/{_quoted(ref)}"))

    async def tasks(
        self,
        *,
        state: str | Sequence[str] = (),
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first, without their results."""
        asked = _query(state=state, endpoint=endpoint, label=label, batch=batch, limit=str(limit), cursor=cursor)
        asked |= _query(tag=[f"{key}:{value}" for key, value in (tags or {}).items()])
        return Page.from_json(await self.get("/api/tasks", asked), Task.from_json)

    async def cancel(self, ref: str, *, why: str = "") -> Task:
        """Cancel a task that waits to be sent, for good; twice is as good as once.

        Raises :class:`~receiver.errors.Conflict` where Kling may have it already, which takes nothing back.
        """
        path = f"/api/tasks/{_quoted(ref)}/cancel"
        return Task.from_json(
            parse_object((await self._request_with_retry("POST", path, body={"why": why}, repeatable=True)).content)
        )

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        asked = _query(batch=batch, tag=[f"{key}:{value}" for key, value in (tags or {}).items()])
        found: Mapping[str, int] = (await self.get("/api/tasks/counts", asked))["counts"]
        return found

    async def wait(self, ref: str, *, timeout: timedelta | float | None = None) -> Task:  # noqa: ASYNC109 -- it may end between two answers, which a cancellation could not
        """Wait until a task is over, however it ends, and its results are where they are to be; give it as it is then.

        Raises :class:`TaskNotOver`, a ``TimeoutError``, after *timeout* (seconds, if a number); the task goes on.
        """
        async with aclosing(self.follow(ref, timeout=timeout)) as sightings:
            task = [task async for task in sightings][-1]
        if not task.is_finished:
            raise TaskNotFinished(task)
        return task

    async def follow(
        self,
        ref: str,
        *,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 -- the same as of wait
    ) -> AsyncGenerator[Task, None]:
        """Give the task now and each time its state changes, until it is over or *timeout* has passed.

        The stream of events only says when to look; what is true is asked of the service. Where the stream cannot
        be had, the same question is asked by the clock.
        """
        known = ref

        async def look(within: float | None) -> Task:
            nonlocal known
            task = Task.from_json(await self._get_within(f"/api/tasks/{_quoted(known)}", within))
            known = task.id  # another task may come to go by the same external id
            return task

        def bell(task: Task) -> AbstractAsyncContextManager[EventSignal]:
            return self._signals.signal(lambda event: Event.from_json(event).task_id == task.id)

        async with aclosing(watch(look, bell, _seconds(timeout))) as sightings:
            async for task in sightings:
                yield task

    async def batch(self, name: str) -> Batch:
        """Give a batch by its name."""
        return Batch.from_json(await self.get(f"/api/batches/{_quoted(name)}"))

    async def batches(
        self, *, state: str | Sequence[str] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[Batch]:
        """List batches, newest first."""
        asked = _query(state=state, limit=str(limit), cursor=cursor)
        return Page.from_json(await self.get("/api/batches", asked), Batch.from_json)

    async def close_batch(self, name: str, *, why: str = "") -> Batch:
        """Let a batch take no more tasks in: it is finished when those it has are over. Twice is as good as once."""
        path = f"/api/batches/{_quoted(name)}/close"
        return Batch.from_json(
            parse_object((await self._request_with_retry("POST", path, body={"why": why}, repeatable=True)).content)
        )

    async def wait_for_batch(self, name: str, *, timeout: timedelta | float | None = None) -> Batch:  # noqa: ASYNC109 -- the same as of wait
        """Wait until a batch is finished and its event is stored; give it as it is then.

        Raises :class:`BatchNotOver`, a ``TimeoutError``, after *timeout* (seconds, if a number).
        """
        async with aclosing(self.follow_batch(name, timeout=timeout)) as sightings:
            batch = [batch async for batch in sightings][-1]
        if not batch.is_finished:
            raise BatchNotFinished(batch)
        return batch

    async def follow_batch(
        self,
        name: str,
        *,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 -- the same as of wait
    ) -> AsyncGenerator[Batch, None]:
        """Give the batch now and each time its counts change, until it is finished or *timeout* has passed."""

        async def look(within: float | None) -> Batch:
            return Batch.from_json(await self._get_within(f"/api/batches/{_quoted(name)}", within))

        def bell(_: Batch) -> AbstractAsyncContextManager[EventSignal]:
            return self._signals.signal(lambda event: event["type"] == "batch.finished")

        async with aclosing(watch(look, bell, _seconds(timeout))) as sightings:
            async for batch in sightings:
                yield batch

    async def costs(
        self, by: str = "endpoint", *, since: datetime | None = None, until: datetime | None = None
    ) -> Json:
        """Sum what tasks have cost, by ``tag:NAME``, ``endpoint``, ``day``, ``label`` or ``batch``.

        Amounts are texts, to be read by :class:`decimal.Decimal`.
        """
        moments = {"from": since, "to": until}
        asked = {name: at.astimezone(UTC).isoformat() for name, at in moments.items() if at is not None}
        return await self.get("/api/costs", {"by": by, **asked})

    async def events(
        self, *, types: str | Sequence[str] = (), task: str | None = None, after: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Give events as they happen, from now on or from those *after* an event, without end.

        A broken connection is taken up where it broke off: each event is given once. Raises ServiceUnreachable when
        the service is away for longer than the client's patience; go on with *after* the last event you had.
        """
        wanted = _query(type=types, task=task)
        heard = EventCursor(after) if after else await self._cursor_from_now(wanted)
        outage = self._outage_timer()
        while True:
            try:
                async with self._stream({**wanted, "after": heard.resume_from}) as source:
                    outage.reset()
                    async for each in source:
                        if heard.accept(each.id):
                            yield Event.from_json(parse_object(each.data))
            except ReceiverError as exc:
                outage.check(exc)
            await asyncio.sleep(event_signal.RECONNECT_SECONDS)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Give a sign now and whenever it is worth asking the service again, without end."""
        async with self._signals.signal(lambda _: True) as bell:
            while True:
                yield
                await bell.wait()

    async def event(self, event_id: str) -> Event:
        """Give one event."""
        return Event.from_json(parse_object(await self.event_body(event_id)))

    async def event_body(self, event_id: str) -> bytes:
        """Give one event in the very bytes that destinations receive."""
        return (await self._request_with_retry("GET", f"/api/events/{_quoted(event_id)}")).content

    async def list_events(
        self,
        *,
        types: str | Sequence[str] = (),
        task: str | None = None,
        batch: str | None = None,
        after: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """List events that have happened, newest first; with *after*, those after an event, oldest first."""
        asked = _query(type=types, task=task, batch=batch, after=after, limit=str(limit), cursor=cursor)
        return Page.from_json(await self.get("/api/events", asked), Event.from_json)

    async def deliveries(
        self,
        *,
        status: str | Sequence[str] = (),
        route: str | None = None,
        task: str | None = None,
        event: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Json]:
        """List deliveries, newest first."""
        asked = _query(status=status, route=route, task=task, event=event, limit=str(limit), cursor=cursor)
        return Page.from_json(await self.get("/api/deliveries", asked), dict)

    async def delivery(self, delivery_id: str) -> Json:
        """Give one delivery and each attempt at it."""
        return await self.get(f"/api/deliveries/{_quoted(delivery_id)}")

    async def get(self, path: str, query: Query | None = None) -> Json:
        """Ask the API for an object; ``/openapi.json`` says which there are."""
        return parse_object((await self._request_with_retry("GET", path, query=query)).content)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Hand the API an object, and get the answer's object."""
        return parse_object((await self._request_with_retry("POST", path, body=body)).content)

    async def _get_within(self, path: str, within: float | None) -> Json:
        return parse_object((await self._request_with_retry("GET", path, within=within)).content)

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
        """Ask until there is an answer, or the service is away for too long.

        What may have been done is asked once, unless to ask twice is to ask once.
        """
        outage = self._outage_timer(within)
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

    def _outage_timer(self, limit: float | None = None) -> OutageTimer:
        """Begin to count how long the service is away; where none has answered yet, there may be none."""
        return OutageTimer(lambda: shorter(limit, self._outage_tolerance.total_seconds() if self._has_answered else 0))

    @asynccontextmanager
    async def _stream(self, query: Query | None = None) -> AsyncIterator[AsyncIterator[httpx.ServerSentEvent]]:
        """Follow the stream of events, each in its frame; entered once it has begun."""
        try:
            async with self._http.sse(
                "/api/stream",
                params=query,
                timeout=httpx.Timeout(_STREAM_IDLE_SECONDS, connect=_CONNECT_SECONDS),
                max_event_size=None,  # what the service has taken, we take
            ) as source:
                if source.response.status_code != httpx.codes.OK:
                    raise to_error(source.response.status_code, await source.response.aread())
                self._has_answered = True
                yield (event async for event in source if event.data)
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise self._unreachable(exc) from exc

    async def _cursor_from_now(self, query: Query) -> EventCursor:
        """Tell what is new from here on: all but the newest events there are."""
        page = Page.from_json(await self.get("/api/events", {**query, "limit": str(LOOK_BACK)}), Event.from_json)
        known = [event.id for event in reversed(page.items)]
        return EventCursor(known[0] if len(known) == LOOK_BACK else BEFORE_ALL, known)

    def _unreachable(self, exc: Exception) -> ServiceUnreachable:
        if isinstance(exc, _NOT_SENT):
            return ServiceUnreachable(
                f"No service answers at {self.url}.",
                remedy="Start it with `kling-receiver serve`, or name the configuration it runs on with --config.",
            )
        return ServiceUnreachable(
            f"The service at {self.url} did not answer in full ({type(exc).__name__}).",
            remedy="Look at its log, and at `kling-receiver tasks list` before you submit again.",
        )


def _tls_for(url: str) -> ssl.SSLContext | bool:
    """Read the machine's certificates only where TLS is spoken: it takes a command longer than to ask."""
    return True if url.lower().startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _query(**values: str | Sequence[str] | None) -> dict[str, str | Sequence[str]]:
    return {name: value for name, value in values.items() if value}


def _quoted(ref: str) -> str:
    return quote(ref, safe="")


def _seconds(length: timedelta | float | None) -> float | None:
    return length.total_seconds() if isinstance(length, timedelta) else length
