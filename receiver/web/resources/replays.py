"""Replays over HTTP: preview, start, progress and cancel."""

from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.delivery.replay import ReplayPreview
from receiver.domain.replays import Replay, ReplaySelection
from receiver.settings import Rate
from receiver.settings.values import InvalidValue, read_rate
from receiver.store.interfaces import Catalog, DeliveryView, Page
from receiver.web import serializers
from receiver.web.api_requests import ActionRequest, NoQuery, PageQuery, ReplayRequest
from receiver.web.params import actor, read_json_body, read_query
from receiver.web.resources.stream import resolve_task_id
from receiver.web.server.problems import bad_request


class ReplayService(Protocol):
    """Delivers past events again."""

    async def retry(self, delivery_id: str, *, why: str, actor: str) -> DeliveryView:
        """Retry a delivery now; return the delivery that will be tried."""
        ...

    async def preview(self, selection: ReplaySelection) -> ReplayPreview:
        """Return what a replay would deliver."""
        ...

    async def start(self, selection: ReplaySelection, *, rate: Rate | None, why: str, actor: str) -> Replay:
        """Start a replay."""
        ...

    async def cancel(self, replay_id: str, *, why: str, actor: str) -> Replay:
        """Cancel a replay."""
        ...

    async def find(self, replay_id: str) -> Replay:
        """Return a replay; raise NotFound if there is none."""
        ...

    async def list(self, *, limit: int, cursor: str | None) -> Page[Replay]:
        """List replays, newest first."""
        ...


class ReplayApi:
    """Answers ``/api/replays``."""

    def __init__(self, replays: ReplayService, catalog: Catalog) -> None:
        self._replays = replays
        self._catalog = catalog

    async def create(self, request: Request) -> Response:
        """Start a replay, or with ``dry_run`` only preview it."""
        read_query(request, NoQuery)
        body = await read_json_body(request, ReplayRequest)
        selection = await self._selection(body)
        rate = parse_rate(body.pace)
        if body.dry_run:
            return serializers.json_response(serializers.replay_preview_json(await self._replays.preview(selection)))
        replay = await self._replays.start(selection, rate=rate, why=body.why, actor=actor(request))
        headers = {"location": f"/api/replays/{replay.id}"}
        return serializers.json_response(serializers.replay_json(replay), HTTPStatus.ACCEPTED, headers)

    async def _selection(self, body: ReplayRequest) -> ReplaySelection:
        return ReplaySelection(
            deliveries=body.deliveries,
            events=body.events,
            task_id=await resolve_task_id(self._catalog, body.task),
            route=body.route,
            statuses=body.status,
            since=body.from_,
            until=body.to,
            to_route=body.to_route,
        )

    async def list(self, request: Request) -> Response:
        """List replays, newest first."""
        query = read_query(request, PageQuery)
        return serializers.page_response(
            await self._replays.list(limit=query.limit, cursor=query.cursor), serializers.replay_json
        )

    async def show(self, request: Request) -> Response:
        """Return one replay and its progress."""
        read_query(request, NoQuery)
        return serializers.json_response(serializers.replay_json(await self._replays.find(request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        """Cancel a replay; deliveries that it has already created continue."""
        read_query(request, NoQuery)
        body = await read_json_body(request, ActionRequest)
        replay = await self._replays.cancel(request.path_params["id"], why=body.why, actor=actor(request))
        return serializers.json_response(serializers.replay_json(replay))


def parse_rate(text: str | None) -> Rate | None:
    """Return the maximum rate of a replay; raise ``Problem`` (400) for any other text."""
    try:
        return read_rate(text or "")
    except InvalidValue as exc:
        raise bad_request(f"'pace': {exc}.") from None
