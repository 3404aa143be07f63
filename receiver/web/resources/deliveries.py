"""What happened, over HTTP: events, and the deliveries that came of them."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import Clock
from receiver.domain.errors import NotFound
from receiver.domain.model import DeliveryStatus
from receiver.events.payload import serialize
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.params import QueryParams, actor, read_json_body
from receiver.web.resources.replays import ReplayService
from receiver.web.resources.stream import resolve_task_id


class EventApi:
    """Answers ``/api/events``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list(self, request: Request) -> Response:
        """List events, newest first; after an event, oldest first."""
        query = QueryParams(request, filters=("type", "task", "batch", "after"))
        found = await self._catalog.events(
            types=query.multi("type"),
            task_id=await resolve_task_id(self._catalog, query.single("task")),
            batch=query.single("batch"),
            after=query.event_id("after"),
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.event_page_response(found)

    async def show(self, request: Request) -> Response:
        """Show one event, in the bytes that destinations receive."""
        QueryParams(request, paged=False)
        event = await self._catalog.event(request.path_params["id"])
        if event is None:
            raise NotFound("There is no such event.")
        return serializers.raw_json_response(serialize(event))


class DeliveryApi:
    """Answers ``/api/deliveries``."""

    def __init__(self, catalog: Catalog, replays: ReplayService, *, clock: Clock) -> None:
        self._catalog = catalog
        self._replays = replays
        self._clock = clock

    async def list(self, request: Request) -> Response:
        """List deliveries, newest first."""
        query = QueryParams(request, filters=("status", "route", "task", "event"))
        found = await self._catalog.deliveries(
            statuses=query.enums("status", DeliveryStatus),
            route=query.single("route"),
            task_id=await resolve_task_id(self._catalog, query.single("task")),
            event_id=query.single("event"),
            limit=query.limit,
            cursor=query.cursor,
        )
        now = self._clock.now()
        return serializers.page_response(found, lambda view: serializers.delivery_json(view, now=now))

    async def show(self, request: Request) -> Response:
        """Show one delivery and each attempt at it."""
        QueryParams(request, paged=False)
        view = await self._catalog.delivery(request.path_params["id"])
        if view is None:
            raise NotFound("There is no such delivery.")
        attempts = await self._catalog.attempts(view.delivery.id)
        return serializers.json_response(
            {
                **serializers.delivery_json(view, now=self._clock.now()),
                "attempts_made": [serializers.attempt_json(attempt) for attempt in attempts],
            }
        )

    async def retry(self, request: Request) -> Response:
        """Have a delivery tried now: itself while it waits, else anew. Answers with the one that goes out."""
        QueryParams(request, paged=False)
        fields = await read_json_body(request, known=("why",))
        view = await self._replays.retry(request.path_params["id"], why=fields.text("why") or "", actor=actor(request))
        return serializers.json_response(serializers.delivery_json(view, now=self._clock.now()), HTTPStatus.ACCEPTED)
