"""Deliveries over HTTP: list, show and retry."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import Clock
from receiver.domain.errors import NotFound
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.api_requests import ActionRequest, DeliveryQuery, NoQuery
from receiver.web.params import actor, read_json_body, read_query
from receiver.web.resources.replays import ReplayService
from receiver.web.resources.stream import resolve_task_id


class DeliveryApi:
    """Answers ``/api/deliveries``."""

    def __init__(self, catalog: Catalog, replays: ReplayService, *, clock: Clock) -> None:
        self._catalog = catalog
        self._replays = replays
        self._clock = clock

    async def list(self, request: Request) -> Response:
        """List deliveries, newest first."""
        query = read_query(request, DeliveryQuery)
        found = await self._catalog.deliveries(
            statuses=query.status,
            route=query.route,
            task_id=await resolve_task_id(self._catalog, query.task),
            event_id=query.event,
            since=query.from_,
            until=query.to,
            limit=query.limit,
            cursor=query.cursor,
        )
        now = self._clock.now()
        return serializers.page_response(found, lambda view: serializers.delivery_json(view, now=now))

    async def show(self, request: Request) -> Response:
        """Return one delivery and its attempts."""
        read_query(request, NoQuery)
        delivery_id = request.path_params["id"]
        view = await self._catalog.delivery(delivery_id)
        if view is None:
            raise NotFound(f"There is no delivery {delivery_id[:64]!r}.")
        attempts = await self._catalog.attempts(view.delivery.id)
        return serializers.json_response(serializers.delivery_with_attempts_json(view, attempts, now=self._clock.now()))

    async def retry(self, request: Request) -> Response:
        """Retry a pending delivery now, or create a new delivery if it is finished. Return the delivery to be tried."""
        read_query(request, NoQuery)
        body = await read_json_body(request, ActionRequest)
        view = await self._replays.retry(request.path_params["id"], why=body.why, actor=actor(request))
        return serializers.json_response(serializers.delivery_json(view, now=self._clock.now()), HTTPStatus.ACCEPTED)
