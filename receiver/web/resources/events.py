"""Events over HTTP: list and show."""

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.errors import NotFound
from receiver.events.payload import serialize
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.api_requests import EventQuery, NoQuery
from receiver.web.params import read_query
from receiver.web.resources.stream import resolve_task_id


class EventApi:
    """Answers ``/api/events``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list(self, request: Request) -> Response:
        """List events, newest first; with ``after``, oldest first."""
        query = read_query(request, EventQuery)
        found = await self._catalog.events(
            types=query.type,
            task_id=await resolve_task_id(self._catalog, query.task),
            batch=query.batch,
            after=query.after,
            since=query.from_,
            until=query.to,
            limit=query.limit,
            cursor=query.cursor,
        )
        return serializers.event_page_response(found)

    async def show(self, request: Request) -> Response:
        """Return one event, in exactly the bytes that destinations receive."""
        read_query(request, NoQuery)
        event_id = request.path_params["id"]
        event = await self._catalog.event(event_id)
        if event is None:
            raise NotFound(f"There is no event {event_id[:64]!r}.")
        return serializers.raw_json_response(serialize(event))
