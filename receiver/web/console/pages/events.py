"""Events: the list, and one event with the routes' decisions and its deliveries."""

import json

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import NotFound
from receiver.events.payload import serialize
from receiver.store.interfaces import EventSearch
from receiver.web.console.filters import PAGE_SIZE, EventFilter
from receiver.web.console.formats import pretty_json
from receiver.web.console.gate import Gate, Visit
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query
from receiver.web.resources.stream import resolve_task_id

PATH = "/console/events"

_TYPES = ("", *(f"task.{state}" for state in ("submitted", "processing", "succeed", "failed", "rejected", "expired")))
_MAX_TEXT = 64 * 1024


class EventPages:
    """Answers ``/console/events``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the pages."""
        return [gate.page(PATH, self.list), gate.page(f"{PATH}/{{id}}", self.show)]

    async def list(self, visit: Visit) -> Response:
        """Show the events that match the filters."""
        given = read_query(visit.request, EventFilter)
        search = EventSearch(
            types=given.type,
            task_id=await resolve_task_id(self._services.catalog, given.task),
            since=given.from_,
            until=given.to,
        )
        found = await self._services.console.overview.find_events(search, limit=PAGE_SIZE, cursor=given.cursor)
        deliveries = await self._services.console.overview.deliveries_of([event.id for event in found.items])
        return visit.page(
            "events.html",
            title="Events",
            found=found,
            dots={event.id: [each for each in deliveries if each.event_id == event.id] for event in found.items},
            messages={event.id: message_of(event.envelope) for event in found.items},
            given=visit.request.query_params,
            types=_TYPES,
        )

    async def show(self, visit: Visit) -> Response:
        """Show one event as destinations receive it."""
        event_id = visit.request.path_params["id"]
        event = await self._services.catalog.event(event_id)
        if event is None:
            raise NotFound(f"There is no event {event_id[:64]!r}.")
        deliveries = await self._services.catalog.deliveries(event_id=event.id, limit=100)
        body = serialize(event)
        return visit.page(
            "event.html",
            title=event.type,
            event=event,
            deliveries=deliveries.items,
            text=pretty_json(json.loads(body))[:_MAX_TEXT],
            is_cut=len(body) > _MAX_TEXT,
        )


def message_of(envelope: bytes) -> str:
    """Return the message of an event, or an empty text."""
    message = json.loads(envelope).get("data", {}).get("message", "")
    return message if isinstance(message, str) else ""
