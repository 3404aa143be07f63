"""Replays: the list, a preview with counts, start and cancel."""

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.replays import ReplaySelection
from receiver.web.console.filters import PAGE_SIZE, ListFilter, ReplayFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query, validate
from receiver.web.resources.replays import parse_rate
from receiver.web.resources.stream import resolve_task_id

PATH = "/console/replays"


class ReplayPages:
    """Answers ``/console/replays``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the pages and actions."""
        return [
            gate.page(PATH, self.list),
            gate.page(f"{PATH}/new", self.preview),
            gate.action(f"{PATH}/start", self.start),
            gate.action(f"{PATH}/{{id}}/cancel", self.cancel),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show the replays and their progress."""
        given = read_query(visit.request, ListFilter)
        found = await self._services.replays.list(limit=PAGE_SIZE, cursor=given.cursor)
        return visit.page("replays.html", title="Replays", found=found)

    async def preview(self, visit: Visit) -> Response:
        """Show the conditions, and what they would deliver."""
        given = read_query(visit.request, ReplayFilter)
        is_chosen = any(visit.request.query_params.values())
        preview = await self._services.replays.preview(await self._selection(given)) if is_chosen else None
        return visit.page(
            "replay_new.html",
            title="Replay",
            live=False,
            given=given,
            fields=[(name, value) for name, value in visit.request.query_params.multi_items() if value],
            preview=preview,
            route_names=[route.name for route in self._services.routes],
        )

    async def start(self, visit: Visit) -> Response:
        """Start the replay that was previewed."""
        form = await visit.form()
        values: dict[str, list[str]] = {}
        for name, value in form.multi_items():
            if name != "why":
                values.setdefault(name, []).append(value)
        given = validate(ReplayFilter, values)
        replay = await self._services.replays.start(
            await self._selection(given), rate=parse_rate(given.pace), why=reason(form), actor=visit.visitor.name
        )
        noun = "delivery" if replay.total == 1 else "deliveries"
        return visit.redirect(PATH, notice=f"The replay of {replay.total} {noun} has started.")

    async def cancel(self, visit: Visit) -> Response:
        """Cancel a replay; deliveries that it has already created continue."""
        why = reason(await visit.form())
        await self._services.replays.cancel(visit.request.path_params["id"], why=why, actor=visit.visitor.name)
        return visit.redirect(PATH, notice="The replay is cancelled.")

    async def _selection(self, given: ReplayFilter) -> ReplaySelection:
        return ReplaySelection(
            deliveries=given.delivery,
            events=given.event,
            task_id=await resolve_task_id(self._services.catalog, given.task),
            route=given.route,
            statuses=given.status,
            since=given.from_,
            until=given.to,
            to_route=given.to_route,
        )
