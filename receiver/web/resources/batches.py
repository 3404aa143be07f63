"""Batches over HTTP: list, show and close."""

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.batches import BatchState, BatchView
from receiver.domain.model import Json
from receiver.events.payload import batch_summary
from receiver.store.interfaces import Page
from receiver.web import serializers
from receiver.web.params import QueryParams, actor, read_json_body


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
        query = QueryParams(request, filters=("state",))
        found = await self._batches.list(
            states=query.enums("state", BatchState), limit=query.limit, cursor=query.cursor
        )
        return serializers.page_response(found, _batch_json)

    async def show(self, request: Request) -> Response:
        """Return one batch."""
        QueryParams(request, paged=False)
        return serializers.json_response(_batch_json(await self._batches.find(request.path_params["name"])))

    async def close(self, request: Request) -> Response:
        """Close a batch. Idempotent."""
        QueryParams(request, paged=False)
        fields = await read_json_body(request, known=("why",))
        name = request.path_params["name"]
        return serializers.json_response(
            _batch_json(await self._batches.close(name, why=fields.text("why") or "", actor=actor(request)))
        )


def _batch_json(view: BatchView) -> Json:
    return {**batch_summary(view.batch, view.counts), "event_id": view.batch.event_id}
