"""The tools that change something: submit and cancel a task, replay events.

A submit costs money, and agents repeat calls. So its idempotency key is made from the call: the same call is one task.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import AwareDatetime, Field

from receiver.cli.mcp.answers import answer, result_links
from receiver.cli.mcp.reading import Connect, TaskRef, connection
from receiver.client import Client, Task
from receiver.domain.model import Json
from receiver.kling.endpoints import resolve

MAX_WAIT = 3600
"""The longest time in seconds that a call waits for the end of its task."""

_PROGRESS_EVERY = 10.0  # seconds; many agents give up on a call that reports nothing for a minute
_EXISTING = (
    "This call was made before, so no task was created and nothing was paid: this is the first call's task. "
    "To create another one on purpose, pass a new `run`."
)
_RUNNING = "The task is still running, and continues. Read it later with tasks_read."

Why = Annotated[str, Field(description="Reason, for the audit log.")]


def call_key(endpoint: str, body: Json, *, label: str, tags: Mapping[str, str] | None, batch: str, run: str) -> str:
    """Return the idempotency key of a submit. Equal JSON makes an equal key, in any order of its members."""
    known = resolve(endpoint)
    call = [endpoint if known is None else known.path, body, label, dict(tags or {}), batch, run]
    return "mcp-" + hashlib.sha256(json.dumps(call, sort_keys=True).encode()).hexdigest()[:40]


class WritingTools:
    """Each method is a tool; its docstring is what the agent reads about it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def task_submit(
        self,
        ctx: Context[Any, Any],
        *,
        endpoint: Annotated[str, Field(description="Kling's endpoint, such as images/multi-image2image.")],
        body: Annotated[Json, Field(description="Kling's JSON for this endpoint. Images are URLs or raw base64.")],
        label: Annotated[str, Field(description="Label of the task.")] = "",
        tags: Annotated[dict[str, str] | None, Field(description="Tags for routes and costs.")] = None,
        batch: Annotated[str, Field(description="Batch to add the task to.")] = "",
        priority: Annotated[int, Field(ge=-1000, le=1000, description="Higher is sent first.")] = 0,
        wait: Annotated[bool, Field(description="Wait for the end, with progress.")] = False,
        timeout_seconds: Annotated[int, Field(ge=1, le=MAX_WAIT, description="With wait: how long.")] = 600,
        run: Annotated[str, Field(max_length=100, description="A new text runs an equal call again, and pays.")] = "",
    ) -> CallToolResult:
        """Submit a task to Kling. It costs money.

        The same call again returns the first task and pays nothing: the same endpoint, body, label, tags, batch, run.
        """
        key = call_key(endpoint, body, label=label, tags=tags, batch=batch, run=run)
        async with connection(self._connect) as client:
            task = await client.submit(
                endpoint,
                body,
                label=label or None,
                tags=tags,
                batch=batch or None,
                priority=priority,
                idempotency_key=key,
            )
            note = _EXISTING if task.raw.get("existing") else ""
            if wait:
                task = await _follow(client, task, ctx, timeout_seconds)
            else:
                task = await client.task(task.id)
            if wait and not task.is_finished:
                note = f"{note} {_RUNNING}".strip()
            return answer({**task.raw, "idempotency_key": key}, note=note, links=result_links(task))

    async def task_cancel(self, task: TaskRef, why: Why = "") -> CallToolResult:
        """Cancel a queued task for good. Kling cannot cancel a task that it has."""
        async with connection(self._connect) as client:
            return answer((await client.cancel(task, why=why)).raw)

    async def replay_write(
        self,
        *,
        deliveries: Annotated[Sequence[str], Field(description="IDs of deliveries.")] = (),
        events: Annotated[Sequence[str], Field(description="IDs of events.")] = (),
        task: Annotated[str, Field(description="Only this task, by any of its IDs.")] = "",
        route: Annotated[str, Field(description="Only deliveries to this route.")] = "",
        status: Annotated[
            Sequence[Literal["dead", "delivered", "cancelled"]], Field(description="Only these statuses.")
        ] = (),
        since: Annotated[AwareDatetime | None, Field(description="Created at or after this time.")] = None,
        until: Annotated[AwareDatetime | None, Field(description="Created before this time.")] = None,
        to_route: Annotated[str, Field(description="Deliver to this route instead.")] = "",
        pace: Annotated[str, Field(description='Maximum rate, such as "5/s".')] = "",
        dry_run: Annotated[bool, Field(description="Only return what would be sent.")] = False,
        why: Why = "",
    ) -> CallToolResult:
        """Deliver past events again, as new deliveries. Each call sends again; try it with dry_run first."""
        selection: Json = {
            "deliveries": deliveries,
            "events": events,
            "task": task,
            "route": route,
            "status": status,
            "from": since.isoformat() if since else None,
            "to": until.isoformat() if until else None,
            "to_route": to_route,
            "pace": pace,
            "dry_run": dry_run,
            "why": why,
        }
        async with connection(self._connect) as client:
            return answer(await client.post("/api/replays", {key: value for key, value in selection.items() if value}))


async def _follow(client: Client, task: Task, ctx: Context[Any, Any], seconds: int) -> Task:
    """Wait for the end of a task, at most *seconds*, and report each change and every few seconds."""
    started_at, count = monotonic(), 0
    async with aclosing(client.follow(task.id, timeout=seconds)) as updates:
        async for update in _with_ticks(updates):
            task, count = update or task, count + 1
            reason = f": {task.message}" if task.message else ""
            await ctx.report_progress(count, message=f"{task.state} after {monotonic() - started_at:.0f} s{reason}")
    return task


async def _with_ticks(updates: AsyncIterator[Task]) -> AsyncIterator[Task | None]:
    """Yield the updates, and None whenever there was none for a while."""
    pending: asyncio.Future[Task] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(updates))
            if not (await asyncio.wait([pending], timeout=_PROGRESS_EVERY))[0]:
                yield None
                continue
            try:
                yield pending.result()
            except StopAsyncIteration:
                return
            pending = None
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait([pending])
