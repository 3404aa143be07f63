"""Tasks over HTTP: submit, find and cancel; callback URLs for tasks that are submitted elsewhere."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.archive.deletion import Deletion
from receiver.domain.api_schema.json_object import Page
from receiver.domain.api_schema.resources import CallbackUrl, Endpoint, TaskCounts, TaskRefused
from receiver.domain.api_schema.tasks import TASK_REFUSED, SubmittedTask
from receiver.domain.errors import NotFound
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ClientCallbacks, EndReason, Task
from receiver.kling.endpoints import CATALOGUE
from receiver.store.interfaces import Catalog
from receiver.submission.request import SubmitRequest, SubmitResult, TaskMetadata
from receiver.web import api_requests as requests
from receiver.web import serializers
from receiver.web.api_requests import NoQuery
from receiver.web.params import actor, read_json_body, read_query
from receiver.web.resources.costs import CostStore
from receiver.web.server.body import MAX_JOB_BODY, BodyMemoryBudget
from receiver.web.server.problems import MEDIA_TYPE, Problem

_END_EVENTS = ("task.succeed", "task.failed")


class Submitter(Protocol):
    """Submits tasks to Kling."""

    async def submit(self, request: SubmitRequest, *, wait: bool = True) -> SubmitResult:
        """Store a task; it is sent when a slot is free. Without *wait*, return as soon as it is stored."""
        ...

    async def cancel(self, task_id: str, *, reason: str, actor: str) -> Task:
        """Cancel a queued task."""
        ...

    async def retry(self, task: Task, *, reason: str, actor: str) -> SubmitResult:
        """Submit a task that failed again, as a new task."""
        ...

    async def create_callback_url(self, *, endpoint: str | None, metadata: TaskMetadata) -> tuple[Task, str]:
        """Create a callback URL for a task submitted elsewhere."""
        ...

    async def revoke_callback_url(self, task_id: str) -> Task:
        """Revoke a task's callback URL."""
        ...


class Deleter(Protocol):
    """Deletes ended tasks."""

    async def preview(self, task_id: str, *, results: bool) -> Deletion:
        """Return what would be deleted."""
        ...

    async def delete(self, task_id: str, *, results: bool, actor: str, reason: str) -> Deletion:
        """Delete a task, and with *results* its archived files and objects."""
        ...


class TaskApi:
    """Answers ``/api/tasks``, ``/api/endpoints`` and ``/api/callback-urls``."""

    def __init__(
        self,
        submitter: Submitter,
        deleter: Deleter,
        catalog: Catalog,
        costs: CostStore,
        body_memory: BodyMemoryBudget,
    ) -> None:
        self._submitter = submitter
        self._deleter = deleter
        self._body_memory = body_memory
        self._catalog = catalog
        self._costs = costs

    async def create(self, request: Request) -> Response:
        """Submit a task. It is stored before the response, but may not have been sent yet.

        If a slot is free, the response waits for Kling's, unless the client sends ``Prefer: respond-async``. A task
        that Kling refused is answered 422, also if an earlier request with the same key submitted it.
        """
        read_query(request, NoQuery)
        async with self._body_memory.reserve(request.scope, limit=MAX_JOB_BODY):
            result = await self._submit(request)
        if result.task.end_reason is EndReason.REFUSED and not _prefers_async(request):
            return _refused_response(result)
        return _submitted_response(result)

    async def _submit(self, request: Request) -> SubmitResult:
        body = await read_json_body(request, requests.SubmitRequest, limit=MAX_JOB_BODY)
        return await self._submitter.submit(
            SubmitRequest(
                endpoint=body.endpoint,
                body=body.body,
                label=body.label,
                tags=body.tags,
                batch=body.batch.name if body.batch else None,
                batch_size=body.batch.size if body.batch else None,
                priority=body.priority,
                idempotency_key=body.idempotency_key,
                reuse=body.reuse,
                callbacks=None if body.reply is None else ClientCallbacks(body.reply),
            ),
            wait=not _prefers_async(request),
        )

    async def endpoints(self, request: Request) -> Response:
        """List the known endpoints, in one page."""
        read_query(request, NoQuery)
        endpoints = [Endpoint(**endpoint.describe()) for endpoint in CATALOGUE.values()]
        return serializers.json_response(Page(items=endpoints, next=None))

    async def list(self, request: Request) -> Response:
        """List tasks, newest first."""
        query = read_query(request, requests.TaskQuery)
        found = await self._catalog.tasks(
            states=query.state,
            endpoint=query.endpoint,
            label=query.label,
            tags=query.tag,
            batch=query.batch,
            since=query.from_,
            until=query.to,
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.page_response(found, serializers.task_json)

    async def counts(self, request: Request) -> Response:
        """Count tasks by state."""
        query = read_query(request, requests.TaskCountQuery)
        found = await self._catalog.counts(tags=query.tag, batch=query.batch)
        return serializers.json_response(TaskCounts(counts={state: found.get(state, 0) for state in ListedState}))

    async def show(self, request: Request) -> Response:
        """Return one task with its results, by our ID, Kling's or the external one."""
        read_query(request, NoQuery)
        task = await self._find(request.path_params["ref"])
        ends = await self._catalog.events(types=_END_EVENTS, task_id=task.id, limit=1)
        cost = await self._costs.find(task.id)
        return serializers.json_response(
            serializers.task_with_result_json(task, ends.items[0] if ends.items else None, cost)
        )

    async def cancel(self, request: Request) -> Response:
        """Cancel a queued task."""
        read_query(request, NoQuery)
        body = await read_json_body(request, requests.ActionRequest)
        task = await self._find(request.path_params["ref"])
        cancelled = await self._submitter.cancel(task.id, reason=body.why, actor=actor(request))
        return serializers.json_response(serializers.task_json(cancelled))

    async def delete(self, request: Request) -> Response:
        """Delete an ended task with everything stored about it, or preview that. Its costs stay in the sums."""
        query = read_query(request, requests.DeletionQuery)
        task = await self._find(request.path_params["ref"])
        if query.dry_run:
            deletion = await self._deleter.preview(task.id, results=query.results)
        else:
            who = actor(request)
            deletion = await self._deleter.delete(task.id, results=query.results, actor=who, reason=query.why)
        return serializers.json_response(serializers.deletion_json(deletion, dry_run=query.dry_run))

    async def retry(self, request: Request) -> Response:
        """Submit a task that failed again. A repeat returns the first new task."""
        read_query(request, NoQuery)
        body = await read_json_body(request, requests.ActionRequest)
        task = await self._find(request.path_params["ref"])
        return _submitted_response(await self._submitter.retry(task, reason=body.why, actor=actor(request)))

    async def create_callback_url(self, request: Request) -> Response:
        """Create a callback URL. Only this response contains it: the service stores only its hash."""
        read_query(request, NoQuery)
        body = await read_json_body(request, requests.CallbackUrlRequest)
        metadata = TaskMetadata(label=body.label, tags=body.tags)
        task, url = await self._submitter.create_callback_url(endpoint=body.endpoint, metadata=metadata)
        return serializers.json_response(
            CallbackUrl(task=serializers.task_json(task), callback_url=url), HTTPStatus.CREATED
        )

    async def revoke_callback_url(self, request: Request) -> Response:
        """Revoke a task's callback URL. The task is still polled."""
        read_query(request, NoQuery)
        task = await self._find(request.path_params["ref"])
        return serializers.json_response(serializers.task_json(await self._submitter.revoke_callback_url(task.id)))

    async def _find(self, ref: str) -> Task:
        task = await self._catalog.task(ref)
        if task is None:
            raise NotFound(
                f"There is no task {ref[:64]!r}.", remedy="Use the receiver's id, Kling's id or the external id."
            )
        return task


def _submitted_response(result: SubmitResult) -> Response:
    return serializers.json_response(_submitted_task(result), HTTPStatus.ACCEPTED, _location(result))


def _refused_response(result: SubmitResult) -> Response:
    task, status = result.task, HTTPStatus.UNPROCESSABLE_ENTITY
    detail = f"Task {task.id} was rejected: {task.message or 'Kling gave no reason.'}"
    problem = Problem(status, TASK_REFUSED, detail).definition()
    refused = TaskRefused(**vars(problem), id=result.task.id, task=_submitted_task(result))
    return serializers.json_response(refused, status, _location(result), media_type=MEDIA_TYPE)


def _submitted_task(result: SubmitResult) -> SubmittedTask:
    return SubmittedTask(**vars(serializers.task_json(result.task)), existing=result.deduplicated)


def _location(result: SubmitResult) -> Mapping[str, str]:
    return {"location": f"/api/tasks/{result.task.id}"}


def _prefers_async(request: Request) -> bool:
    """Return whether the client wants its response as soon as the task is stored (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("prefer"))
    return "respond-async" in [each.strip().lower() for each in preferences.split(",")]
