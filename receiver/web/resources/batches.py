"""Batches over HTTP: how they stand, and the word that closes them."""

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.model import Json
from receiver.domain.replays import BatchState, BatchView
from receiver.events.payload import describe_batch
from receiver.store.interfaces import Page
from receiver.web import serializers
from receiver.web.params import Query, actor, read_fields


class Gatherer(Protocol):
    """Looks after batches."""

    async def close(self, name: str, *, why: str, actor: str) -> BatchView:
        """Let a batch take no more tasks in."""
        ...

    async def find(self, name: str) -> BatchView:
        """Find a batch."""
        ...

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        ...


class BatchApi:
    """Answers ``/api/batches``."""

    def __init__(self, gatherer: Gatherer) -> None:
        self._gatherer = gatherer

    async def list(self, request: Request) -> Response:
        """List batches, newest first."""
        query = Query(request, filters=("state",))
        found = await self._gatherer.list(
            states=query.words("state", BatchState), limit=query.limit, cursor=query.cursor
        )
        return serializers.page(found, _batch)

    async def show(self, request: Request) -> Response:
        """Show one batch."""
        Query(request, paged=False)
        return serializers.answer(_batch(await self._gatherer.find(request.path_params["name"])))

    async def close(self, request: Request) -> Response:
        """Close a batch; one that is closed stays so."""
        Query(request, paged=False)
        fields = await read_fields(request, known=("why",))
        name = request.path_params["name"]
        return serializers.answer(
            _batch(await self._gatherer.close(name, why=fields.text("why") or "", actor=actor(request)))
        )


def _batch(view: BatchView) -> Json:
    return {**describe_batch(view.batch, view.counts), "event_id": view.batch.event_id}
