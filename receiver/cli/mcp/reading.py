"""The tools that only read: tasks, what happened to one, deliveries, costs."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, TypeAlias
from urllib.parse import quote

from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult
from pydantic import AwareDatetime, Field

from receiver.cli.mcp.answers import answer, result_links
from receiver.client import Client
from receiver.domain.errors import NotFound, ReceiverError

_MAX_NAMED = 5  # tasks of one label that an error names

Connect: TypeAlias = Callable[[], Client]

TaskRef: TypeAlias = Annotated[str, Field(description="ID of the task: the service's, Kling's or the external one.")]
Limit: TypeAlias = Annotated[int, Field(ge=1, le=100, description="Maximum number of items.")]
Cursor: TypeAlias = Annotated[str, Field(description="`next` of the previous page.")]
From: TypeAlias = Annotated[AwareDatetime | None, Field(description="At or after this time, with a zone.")]
To: TypeAlias = Annotated[AwareDatetime | None, Field(description="Before this time, with a zone.")]


@asynccontextmanager
async def connection(connect: Connect) -> AsyncIterator[Client]:
    """Yield a client of the service. Its errors become errors of the tool, with their remedies."""
    try:
        async with connect() as client:
            yield client
    except ReceiverError as exc:
        raise ToolError(f"{exc.message} {exc.remedy}".strip()) from exc


class ReadingTools:
    """Each method is a tool; its docstring is what the agent reads about it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def tasks_read(
        self,
        *,
        task: Annotated[str, Field(description="Return this task with its results, by any of its IDs.")] = "",
        state: Annotated[
            str | Sequence[str], Field(description="Only these states, such as queued, processing, failed.")
        ] = (),
        endpoint: Annotated[str, Field(description="Only this endpoint.")] = "",
        label: Annotated[str, Field(description="Only this label.")] = "",
        tags: Annotated[dict[str, str] | None, Field(description="Only tasks with these tags.")] = None,
        batch: Annotated[str, Field(description="Only this batch.")] = "",
        since: From = None,
        until: To = None,
        limit: Limit = 20,
        cursor: Cursor = "",
    ) -> CallToolResult:
        """Read one task with its results and cost, or list tasks, newest first."""
        async with connection(self._connect) as client:
            if task:
                found = await client.task(task)
                return answer(found.raw, links=result_links(found))
            page = await client.tasks(
                state=state,
                endpoint=endpoint or None,
                label=label or None,
                tags=tags,
                batch=batch or None,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor or None,
            )
            return answer({"items": [each.raw for each in page.items], "next": page.next})

    async def task_explain(
        self,
        task: Annotated[str, Field(description="ID of the task: the service's, Kling's or external; or its label.")],
    ) -> CallToolResult:
        """Explain a task: its request, each push and poll, each route's decision, each attempt, and what is next."""
        async with connection(self._connect) as client:
            try:
                return answer(await client.get(f"/api/tasks/{quote(task, safe='')}/explain"))
            except NotFound:
                labelled = (await client.tasks(label=task, limit=_MAX_NAMED)).items
                if not labelled:
                    raise
            if len(labelled) > 1:
                ids = ", ".join(each.id for each in labelled)
                raise ToolError(f"Several tasks have the label {task!r}: {ids}. Explain one of them by its ID.")
            return answer(await client.get(f"/api/tasks/{labelled[0].id}/explain"))

    async def deliveries_read(
        self,
        *,
        delivery: Annotated[str, Field(description="Return this delivery with its attempts.")] = "",
        status: Annotated[
            str | Sequence[str], Field(description="Only these: pending, delivered, dead, cancelled.")
        ] = (),
        route: Annotated[str, Field(description="Only deliveries to this route.")] = "",
        task: Annotated[str, Field(description="Only this task's, by any of its IDs.")] = "",
        event: Annotated[str, Field(description="Only this event's.")] = "",
        since: From = None,
        until: To = None,
        limit: Limit = 20,
        cursor: Cursor = "",
    ) -> CallToolResult:
        """Read one delivery with its attempts, or list deliveries, newest first."""
        async with connection(self._connect) as client:
            if delivery:
                return answer(await client.delivery(delivery))
            page = await client.deliveries(
                status=status,
                route=route or None,
                task=task or None,
                event=event or None,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor or None,
            )
            return answer({"items": list(page.items), "next": page.next})

    async def costs_read(
        self,
        *,
        by: Annotated[str, Field(description="tag:NAME, endpoint, day, label or batch.")] = "endpoint",
        since: From = None,
        until: To = None,
    ) -> CallToolResult:
        """Sum what Kling charged for the tasks that ended in a period."""
        async with connection(self._connect) as client:
            return answer(await client.costs(by, since=since, until=until))
