"""The asyncio client of the admin API."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from receiver.client import event_signal
from receiver.client.discovery import discover
from receiver.client.event_signal import EventSignal, EventSignals
from receiver.client.models import (
    Batch,
    BatchNotFinished,
    Event,
    Page,
    Task,
    TaskNotFinished,
    TaskRefused,
    parse_object,
)
from receiver.client.queries import query as params
from receiver.client.queries import quoted, span
from receiver.client.transport import Query, Transport
from receiver.client.watch import watch
from receiver.domain.clock import BEFORE_ALL_EVENTS
from receiver.domain.errors import NotFound, ReceiverError
from receiver.domain.model import Json

OUTAGE_TOLERANCE = timedelta(minutes=1)

_LEDGER_SECONDS = 600.0  # many pages of a ledger, one a second
_MAX_CONCURRENT = 8


class Client:
    """A client of the service's admin API, for asyncio programs.

    Without *url* and *token*, the service is found through a *profile* of the user's ``profiles.toml``, through
    ``KLING_RECEIVER_URL``, ``KLING_RECEIVER_TOKEN`` or ``KLING_RECEIVER_PROFILE``, or through its configuration:
    *config*, or the default locations.
    Once the service has responded, it may be down for *outage_tolerance*, as during a restart. Safe requests are then
    repeated, and waiting and following continue without losing events.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        config: Path | str | None = None,
        profile: str | None = None,
        outage_tolerance: timedelta = OUTAGE_TOLERANCE,
    ) -> None:
        is_address_given = url is not None or token is not None
        url, token = discover(url, token, None if config is None else Path(config), profile)
        self._transport = Transport(url, token, outage_tolerance=outage_tolerance, is_address_given=is_address_given)
        self._signals = EventSignals(self._transport.stream)
        self.url = self._transport.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

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
        reuse: bool = False,
        reply: str | None = None,
        wait: bool = True,
    ) -> Task:
        """Submit a task. It is stored when this returns, and sent when Kling has a free slot.

        If a slot is free now, this waits for Kling's response. With ``wait=False`` it returns once the task is stored.

        *batch* is a name, or ``{"name": ..., "size": ...}``. Queued tasks of higher *priority* are sent first.

        *reply* is what the ``callback_url`` in *body* receives: "all" of Kling's statuses, or only the "final" one.

        A repeated *idempotency_key* returns the first task, so a submit without a response can be repeated safely.
        With another body it fails with status 409, unless *reuse* permits it.

        A task that Kling refused is returned too: its ``state`` is ``rejected``, and its ``message`` is the reason.
        """
        request: Json = {"endpoint": endpoint, "body": dict(body)}
        options: Json = {"label": label, "tags": dict(tags or {}), "batch": batch, "priority": priority}
        options |= {"idempotency_key": idempotency_key, "reuse": reuse, "reply": reply}
        request |= {name: value for name, value in options.items() if value}
        headers = None if wait else {"prefer": "respond-async"}
        is_repeatable = bool(idempotency_key)  # an empty key counts as none
        try:
            return Task.from_json(
                await self._transport.post("/api/tasks", request, headers=headers, repeatable=is_repeatable)
            )
        except TaskRefused as refused:
            return refused.task

    async def task(self, ref: str) -> Task:
        """Return a task with its results, by our ID, Kling's or the external one."""
        return Task.from_json(await self.get(f"/api/tasks/{quoted(ref)}"))

    async def tasks(
        self,
        *,
        state: str | Sequence[str] = (),
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
        batch: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Task]:
        """List tasks, newest first, without their results. *since* and *until* limit the time of creation."""
        query = params(state=state, endpoint=endpoint, label=label, batch=batch, limit=str(limit), cursor=cursor)
        query |= params(tag=[f"{key}:{value}" for key, value in (tags or {}).items()]) | span(since, until)
        return Page.from_json(await self.get("/api/tasks", query), Task.from_json)

    async def cancel(self, ref: str, *, why: str = "") -> Task:
        """Cancel a queued task for good. Idempotent.

        Raises :class:`~receiver.domain.errors.Conflict` if Kling may already have it: Kling cannot cancel tasks.
        """
        path = f"/api/tasks/{quoted(ref)}/cancel"
        return Task.from_json(await self._transport.post(path, {"why": why}, repeatable=True))

    async def retry(self, ref: str, *, why: str = "") -> Task:
        """Submit a task that failed again, as a new task with the tag ``retry_of``. Idempotent.

        Raises :class:`~receiver.domain.errors.Conflict` if the task did not fail.
        """
        path = f"/api/tasks/{quoted(ref)}/retry"
        return Task.from_json(await self._transport.post(path, {"why": why}, repeatable=True))

    async def delete(self, ref: str, *, results: bool = False, dry_run: bool = False, why: str = "") -> Json:
        """Delete an ended task with everything stored about it, or with *dry_run* return what would be deleted.

        With *results* its archived files and objects are removed too. Its costs stay in the sums.
        Raises :class:`~receiver.domain.errors.Conflict` if the task has not ended.
        """
        query = {"results": str(results).lower(), "dry_run": str(dry_run).lower(), "why": why}
        return await self._transport.delete(f"/api/tasks/{quoted(ref)}", query)

    async def details(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return tasks of a list with their results, in the same order. One that was deleted stays as it was."""
        places = asyncio.Semaphore(_MAX_CONCURRENT)

        async def fetch(task: Task) -> Task:
            async with places:
                try:
                    return await self.task(task.id)
                except NotFound:
                    return task

        return await asyncio.gather(*map(fetch, tasks))

    async def counts(self, *, tags: Mapping[str, str] | None = None, batch: str | None = None) -> Mapping[str, int]:
        """Count tasks by state."""
        query = params(batch=batch, tag=[f"{key}:{value}" for key, value in (tags or {}).items()])
        counts: Mapping[str, int] = (await self.get("/api/tasks/counts", query))["counts"]
        return counts

    async def wait(self, ref: str, *, timeout: timedelta | float | None = None) -> Task:  # noqa: ASYNC109 -- it ends only between two polls, unlike a cancellation
        """Wait until a task is finished, successfully or not, and its results are archived if the archive is on.

        Raises :class:`TaskNotFinished`, a ``TimeoutError``, after *timeout* (seconds, if a number); the task continues.
        """
        async with aclosing(self.follow(ref, timeout=timeout)) as updates:
            task = [task async for task in updates][-1]
        if not task.is_finished:
            raise TaskNotFinished(task)
        return task

    async def follow(
        self,
        ref: str,
        *,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 -- as for wait
    ) -> AsyncGenerator[Task, None]:
        """Yield the task now and after each change of state, until it is finished or *timeout* has passed.

        Events only trigger a poll; the task always comes from the service. Without an event stream, the task is polled
        at intervals.
        """
        task_ref = ref

        async def fetch(within: float | None) -> Task:
            nonlocal task_ref
            task = Task.from_json(await self._transport.get(f"/api/tasks/{quoted(task_ref)}", within=within))
            task_ref = task.id  # another task may later get the same external ID
            return task

        def signal_for(task: Task) -> AbstractAsyncContextManager[EventSignal]:
            return self._signals.signal(lambda event: Event.from_json(event).task_id == task.id)

        async with aclosing(watch(fetch, signal_for, _seconds(timeout))) as updates:
            async for task in updates:
                yield task

    async def batch(self, name: str) -> Batch:
        """Return a batch by its name."""
        return Batch.from_json(await self.get(f"/api/batches/{quoted(name)}"))

    async def batches(
        self, *, state: str | Sequence[str] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[Batch]:
        """List batches, newest first."""
        query = params(state=state, limit=str(limit), cursor=cursor)
        return Page.from_json(await self.get("/api/batches", query), Batch.from_json)

    async def close_batch(self, name: str, *, why: str = "") -> Batch:
        """Close a batch: it accepts no more tasks, and is finished when all its tasks are. Idempotent."""
        path = f"/api/batches/{quoted(name)}/close"
        return Batch.from_json(await self._transport.post(path, {"why": why}, repeatable=True))

    async def wait_for_batch(self, name: str, *, timeout: timedelta | float | None = None) -> Batch:  # noqa: ASYNC109 -- as for wait
        """Wait until a batch is finished and its event is stored; return the batch.

        Raises :class:`BatchNotFinished`, a ``TimeoutError``, after *timeout* (seconds, if a number).
        """
        async with aclosing(self.follow_batch(name, timeout=timeout)) as updates:
            batch = [batch async for batch in updates][-1]
        if not batch.is_finished:
            raise BatchNotFinished(batch)
        return batch

    async def follow_batch(
        self,
        name: str,
        *,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 -- as for wait
    ) -> AsyncGenerator[Batch, None]:
        """Yield the batch now and after each change of its counts, until it is finished or *timeout* has passed."""

        async def fetch(within: float | None) -> Batch:
            return Batch.from_json(await self._transport.get(f"/api/batches/{quoted(name)}", within=within))

        def signal_for(_: Batch) -> AbstractAsyncContextManager[EventSignal]:
            return self._signals.signal(lambda event: event["type"] == "batch.finished")

        async with aclosing(watch(fetch, signal_for, _seconds(timeout))) as updates:
            async for batch in updates:
                yield batch

    async def costs(
        self, by: str = "endpoint", *, since: datetime | None = None, until: datetime | None = None
    ) -> Json:
        """Sum the costs of tasks by ``tag:NAME``, ``endpoint``, ``day``, ``label`` or ``batch``.

        Amounts are text; read them with :class:`decimal.Decimal`.
        """
        return await self.get("/api/costs", {"by": by, **span(since, until)})

    async def estimate_cost(self, endpoint: str, body: Mapping[str, object]) -> Json:
        """Estimate the cost of a task from past charges. Nothing is submitted."""
        return await self._transport.post("/api/costs/estimate", {"endpoint": endpoint, "body": dict(body)})

    async def check_costs(self, *, since: datetime | None = None, until: datetime | None = None) -> Json:
        """Compare Kling's ledgers with the stored costs; by default for the last 30 days. May take minutes."""
        return await self._transport.post("/api/costs/check", span(since, until), seconds=_LEDGER_SECONDS)

    async def events(
        self, *, types: str | Sequence[str] = (), task: str | None = None, after: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield events as they happen, from now on or after the event *after*, without end.

        A broken connection is resumed, and each event is yielded once. Raises ServiceUnreachable if the service is down
        for longer than the client's outage tolerance. To continue, pass the ID of the last event as *after*.
        """
        query = params(type=types, task=task)
        last = after or await self._newest_event_id(query)
        outage = self._transport.outage_timer()
        while True:
            try:
                async with self._transport.stream({**query, "after": last}) as source:
                    outage.reset()
                    async for each in source:
                        last = each.id
                        yield Event.from_json(parse_object(each.data))
            except ReceiverError as exc:
                outage.check(exc)
            await asyncio.sleep(event_signal.RECONNECT_SECONDS)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield now and whenever the service may have news, without end."""
        async with self._signals.signal(lambda _: True) as signal:
            while True:
                yield
                await signal.wait()

    async def event(self, event_id: str) -> Event:
        """Return one event."""
        return Event.from_json(parse_object(await self.event_body(event_id)))

    async def event_body(self, event_id: str) -> bytes:
        """Return one event in exactly the bytes that destinations receive."""
        return await self._transport.get_bytes(f"/api/events/{quoted(event_id)}")

    async def list_events(
        self,
        *,
        types: str | Sequence[str] = (),
        task: str | None = None,
        batch: str | None = None,
        after: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """List past events, newest first; with *after*, those after an event, oldest first."""
        query = params(type=types, task=task, batch=batch, after=after, limit=str(limit), cursor=cursor)
        query |= span(since, until)
        return Page.from_json(await self.get("/api/events", query), Event.from_json)

    async def deliveries(
        self,
        *,
        status: str | Sequence[str] = (),
        route: str | None = None,
        task: str | None = None,
        event: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Json]:
        """List deliveries, newest first."""
        query = params(status=status, route=route, task=task, event=event, limit=str(limit), cursor=cursor)
        query |= span(since, until)
        return Page.from_json(await self.get("/api/deliveries", query), dict)

    async def delivery(self, delivery_id: str) -> Json:
        """Return one delivery and its attempts."""
        return await self.get(f"/api/deliveries/{quoted(delivery_id)}")

    async def alerts(
        self,
        *,
        state: str | Sequence[str] = (),
        types: str | Sequence[str] = (),
        subject: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Json]:
        """List alerts, newest first: with cause, remedy, since when and how often."""
        query = params(state=state, type=types, subject=subject, limit=str(limit), cursor=cursor)
        return Page.from_json(await self.get("/api/alerts", query | span(since, until)), dict)

    async def alert(self, alert_id: str) -> Json:
        """Return one alert."""
        return await self.get(f"/api/alerts/{quoted(alert_id)}")

    async def acknowledge_alert(self, alert_id: str, *, note: str = "") -> Json:
        """Acknowledge an alert, so that it stays quiet until it changes. Idempotent.

        Raises :class:`~receiver.domain.errors.Conflict` if it is closed.
        """
        path = f"/api/alerts/{quoted(alert_id)}/ack"
        return await self._transport.post(path, {"note": note}, repeatable=True)

    async def get(self, path: str, query: Query | None = None) -> Json:
        """Return an object of the API; ``/openapi.json`` lists the paths."""
        return await self._transport.get(path, query)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Post an object to the API and return the response's object."""
        return await self._transport.post(path, body)

    async def _newest_event_id(self, query: Query) -> str:
        """Return the ID after which only events from now on follow."""
        page = Page.from_json(await self.get("/api/events", {**query, "limit": "1"}), Event.from_json)
        return page.items[0].id if page.items else BEFORE_ALL_EVENTS


def _seconds(duration: timedelta | float | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
