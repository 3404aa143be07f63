"""Tasks over HTTP: hand one in, find one, cancel one, or get a callback URL for one that is submitted elsewhere."""

from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.errors import NotFound
from receiver.domain.model import Task, TaskState
from receiver.kling.endpoints import CATALOGUE
from receiver.store.interfaces import Catalog
from receiver.submission.request import MOST_PRIORITY, Marks, SubmitRequest, Taken
from receiver.web import serializers
from receiver.web.params import Query, actor, read_fields
from receiver.web.resources.costs import Costs
from receiver.web.server.body import MAX_JOB, Room

_ENDS = ("task.succeed", "task.failed")


class Submitter(Protocol):
    """Takes jobs for Kling."""

    async def submit(self, request: SubmitRequest, *, wait: bool = True) -> Taken:
        """Store a job, and send it when it is its turn; without *wait* give it as stored."""
        ...

    async def cancel(self, task_id: str, *, why: str, actor: str) -> Task:
        """Take a task that waits to be sent out of the line."""
        ...

    async def mint(self, *, endpoint: str | None, marks: Marks) -> tuple[Task, str]:
        """Make a callback URL for a job submitted elsewhere."""
        ...

    async def revoke(self, task_id: str) -> Task:
        """Let a task's callback URL lead nowhere from now on."""
        ...


class TaskApi:
    """Answers ``/api/tasks``, ``/api/endpoints`` and ``/api/callback-urls``."""

    def __init__(self, submitter: Submitter, catalog: Catalog, costs: Costs, room: Room) -> None:
        self._submitter = submitter
        self._room = room
        self._catalog = catalog
        self._costs = costs

    async def create(self, request: Request) -> Response:
        """Take a job; it is stored when the answer is given, and may not have been sent yet.

        One whose turn it is gets Kling's answer first, unless the client would rather not wait for that.
        """
        Query(request, paged=False)
        async with self._room.of(request.scope, limit=MAX_JOB):
            taken = await self._take(request)
        told = {**serializers.task(taken.task), "existing": taken.existing}
        return serializers.answer(told, HTTPStatus.ACCEPTED, {"location": f"/api/tasks/{taken.task.id}"})

    async def _take(self, request: Request) -> Taken:
        fields = await read_fields(
            request,
            known=("endpoint", "body", "label", "tags", "batch", "priority", "idempotency_key"),
            limit=MAX_JOB,
        )
        batch, batch_size = fields.batch("batch")
        return await self._submitter.submit(
            SubmitRequest(
                endpoint=fields.required_text("endpoint"),
                body=fields.required_object("body"),
                label=fields.text("label"),
                tags=fields.tags("tags"),
                batch=batch,
                batch_size=batch_size,
                priority=fields.number("priority", least=-MOST_PRIORITY, most=MOST_PRIORITY),
                idempotency_key=fields.text("idempotency_key"),
            ),
            wait=not _only_queues(request),
        )

    async def endpoints(self, request: Request) -> Response:
        """List the endpoints that are known; the list is short and has one page."""
        Query(request, paged=False)
        return serializers.answer({"items": [endpoint.facts() for endpoint in CATALOGUE.values()], "next": None})

    async def list(self, request: Request) -> Response:
        """List tasks, newest first."""
        query = Query(request, filters=("state", "endpoint", "label", "tag", "batch"))
        found = await self._catalog.tasks(
            states=query.words("state", TaskState),
            endpoint=query.one("endpoint"),
            label=query.one("label"),
            tags=query.pairs("tag"),
            batch=query.one("batch"),
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.page(found, serializers.task)

    async def counts(self, request: Request) -> Response:
        """Count tasks by state."""
        query = Query(request, filters=("tag", "batch"), paged=False)
        found = await self._catalog.counts(tags=query.pairs("tag"), batch=query.one("batch"))
        return serializers.answer({"counts": {state.value: found.get(state, 0) for state in TaskState}})

    async def show(self, request: Request) -> Response:
        """Show one task, found by our id, Kling's or the external one, and what came of it."""
        Query(request, paged=False)
        task = await self._found(request.path_params["ref"])
        ends = await self._catalog.events(types=_ENDS, task_id=task.id, limit=1)
        cost = await self._costs.find(task.id)
        return serializers.answer(serializers.task_with_end(task, ends.items[0] if ends.items else None, cost))

    async def cancel(self, request: Request) -> Response:
        """Cancel a task that waits to be sent."""
        Query(request, paged=False)
        fields = await read_fields(request, known=("why",))
        task = await self._found(request.path_params["ref"])
        cancelled = await self._submitter.cancel(task.id, why=fields.text("why") or "", actor=actor(request))
        return serializers.answer(serializers.task(cancelled))

    async def mint(self, request: Request) -> Response:
        """Make a callback URL. It is told in this answer alone: only its hash is kept."""
        Query(request, paged=False)
        fields = await read_fields(request, known=("label", "tags", "endpoint"))
        marks = Marks(label=fields.text("label"), tags=fields.tags("tags"))
        task, url = await self._submitter.mint(endpoint=fields.text("endpoint"), marks=marks)
        return serializers.answer({"task": serializers.task(task), "callback_url": url}, HTTPStatus.CREATED)

    async def revoke(self, request: Request) -> Response:
        """Revoke a task's callback URL. The task itself is followed on by polling."""
        Query(request, paged=False)
        task = await self._found(request.path_params["ref"])
        return serializers.answer(serializers.task(await self._submitter.revoke(task.id)))

    async def _found(self, ref: str) -> Task:
        task = await self._catalog.task(ref)
        if task is None:
            raise NotFound(f"No task goes by {ref[:64]!r}.", remedy="Ask by our id, Kling's, or the external one.")
        return task


def _only_queues(request: Request) -> bool:
    """Tell whether a client wants its answer as soon as its job is stored (RFC 7240)."""
    wishes = ",".join(request.headers.getlist("prefer"))
    return "respond-async" in [wish.strip().lower() for wish in wishes.split(",")]
