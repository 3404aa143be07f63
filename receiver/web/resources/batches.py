"""Batches over HTTP: list, show and close."""

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.batches import BatchState, BatchView
from receiver.store.interfaces import Page
from receiver.web import serializers
from receiver.web.api_requests import ActionRequest, BatchQuery, NoQuery
from receiver.web.params import actor, read_json_body, read_query


class BatchService(Protocol):
    """Manages batches."""

    async def close(self, name: str, *, why: str, actor: str) -> BatchView:
        """Close a batch, so that it accepts no more tasks."""
        ...

    async def find(self, name: str) -> BatchView:
        """Return a batch; raise NotFound if there is none."""
        ...

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        ...


class BatchApi:
    """Answers ``/api/batches``."""

    def __init__(self, batches: BatchService) -> None:
        self._batches = batches

    async def list(self, request: Request) -> Response:
        """List batches, newest first."""
        query = read_query(request, BatchQuery)
        found = await self._batches.list(states=query.state, limit=query.limit, cursor=query.cursor)
        return serializers.page_response(found, serializers.batch_json)

    async def show(self, request: Request) -> Response:
        """Return one batch."""
        read_query(request, NoQuery)
        return serializers.json_response(serializers.batch_json(await self._batches.find(request.path_params["name"])))

    async def close(self, request: Request) -> Response:
        """Close a batch. Idempotent."""
        read_query(request, NoQuery)
        body = await read_json_body(request, ActionRequest)
        view = await self._batches.close(request.path_params["name"], why=body.why, actor=actor(request))
        return serializers.json_response(serializers.batch_json(view))
