"""A test task over HTTP."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.model import Task, TaskState
from receiver.web import serializers
from receiver.web.api_requests import NoQuery, TriggerRequest
from receiver.web.params import read_json_body, read_query


class TriggerService(Protocol):
    """Makes test tasks."""

    async def trigger(
        self,
        state: TaskState,
        *,
        endpoint: str | None = None,
        label: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Task:
        """Send a test task through all states up to *state*."""
        ...


class TriggerApi:
    """Answers ``/api/trigger``."""

    def __init__(self, trigger: TriggerService) -> None:
        self._trigger = trigger

    async def create(self, request: Request) -> Response:
        """Send a test task through the routes."""
        read_query(request, NoQuery)
        body = await read_json_body(request, TriggerRequest)
        task = await self._trigger.trigger(body.state, endpoint=body.endpoint, label=body.label, tags=body.tags)
        headers = {"location": f"/api/tasks/{task.id}"}
        return serializers.json_response(serializers.task_json(task), HTTPStatus.CREATED, headers)
