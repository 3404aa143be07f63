"""What happened, over HTTP: events, and the deliveries that came of them."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import Clock
from receiver.domain.errors import NotFound
from receiver.domain.model import DeliveryStatus
from receiver.events.payload import joined
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.params import Query, actor, read_fields
from receiver.web.resources.replays import Replayer
from receiver.web.resources.stream import task_id


class EventApi:
    """Answers ``/api/events``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list(self, request: Request) -> Response:
        """List events, newest first; after an event, oldest first."""
        query = Query(request, filters=("type", "task", "batch", "after"))
        found = await self._catalog.events(
            types=query.many("type"),
            task_id=await task_id(self._catalog, query.one("task")),
            batch=query.one("batch"),
            after=query.event_id("after"),
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.event_page(found)

    async def show(self, request: Request) -> Response:
        """Show one event, in the bytes that destinations receive."""
        Query(request, paged=False)
        event = await self._catalog.event(request.path_params["id"])
        if event is None:
            raise NotFound("There is no such event.")
        return serializers.raw_answer(joined(event))


class DeliveryApi:
    """Answers ``/api/deliveries``."""

    def __init__(self, catalog: Catalog, replayer: Replayer, *, clock: Clock) -> None:
        self._catalog = catalog
        self._replayer = replayer
        self._clock = clock

    async def list(self, request: Request) -> Response:
        """List deliveries, newest first."""
        query = Query(request, filters=("status", "route", "task", "event"))
        found = await self._catalog.deliveries(
            statuses=query.words("status", DeliveryStatus),
            route=query.one("route"),
            task_id=await task_id(self._catalog, query.one("task")),
            event_id=query.one("event"),
            limit=query.limit,
            cursor=query.cursor,
        )
        now = self._clock.now()
        return serializers.page(found, lambda view: serializers.delivery(view, now=now))

    async def show(self, request: Request) -> Response:
        """Show one delivery and each attempt at it."""
        Query(request, paged=False)
        view = await self._catalog.delivery(request.path_params["id"])
        if view is None:
            raise NotFound("There is no such delivery.")
        attempts = await self._catalog.attempts(view.delivery.id)
        return serializers.answer(
            {
                **serializers.delivery(view, now=self._clock.now()),
                "attempts_made": [serializers.attempt(attempt) for attempt in attempts],
            }
        )

    async def retry(self, request: Request) -> Response:
        """Have a delivery tried now: itself while it waits, else anew. Answers with the one that goes out."""
        Query(request, paged=False)
        fields = await read_fields(request, known=("why",))
        view = await self._replayer.retry(request.path_params["id"], why=fields.text("why") or "", actor=actor(request))
        return serializers.answer(serializers.delivery(view, now=self._clock.now()), HTTPStatus.ACCEPTED)
