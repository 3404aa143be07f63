"""Deliveries and their attempts: the lists, one delivery, and the retry of one."""

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import NotFound
from receiver.domain.model import DeliveryStatus
from receiver.store.interfaces import DeliverySearch
from receiver.web.console.filters import PAGE_SIZE, AttemptFilter, DeliveryFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query

PATH = "/console/deliveries"

_STATUS_OPTIONS = (("", "any"), *((status.value, status.value) for status in DeliveryStatus))


class DeliveryPages:
    """Answers ``/console/deliveries`` and ``/console/attempts``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the pages and of the retry."""
        return [
            gate.page(PATH, self.list),
            gate.page(f"{PATH}/{{id}}", self.show),
            gate.action(f"{PATH}/{{id}}/retry", self.retry),
            gate.page("/console/attempts", self.attempts),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show the deliveries that match the filters."""
        given = read_query(visit.request, DeliveryFilter)
        search = DeliverySearch(status=given.status, route=given.route)
        found = await self._services.console.overview.find_deliveries(search, limit=PAGE_SIZE, cursor=given.cursor)
        return visit.page(
            "deliveries.html",
            title="Deliveries",
            found=found,
            given=visit.request.query_params,
            status_options=_STATUS_OPTIONS,
            route_names=[route.name for route in self._services.routes],
        )

    async def attempts(self, visit: Visit) -> Response:
        """Show the attempts of the newest deliveries."""
        given = read_query(visit.request, AttemptFilter)
        search = DeliverySearch(route=given.route, attempted=True)
        found = await self._services.console.overview.find_deliveries(search, limit=PAGE_SIZE, cursor=given.cursor)
        views = {view.delivery.id: view for view in found.items}
        attempts = await self._services.console.overview.attempts_of(list(views))
        return visit.page(
            "attempts.html",
            title="Attempts",
            found=found,
            attempts=[(views[attempt.delivery_id], attempt) for attempt in attempts],
            given=visit.request.query_params,
            route_names=[route.name for route in self._services.routes],
        )

    async def show(self, visit: Visit) -> Response:
        """Show one delivery and its attempts."""
        delivery_id = visit.request.path_params["id"]
        view = await self._services.catalog.delivery(delivery_id)
        if view is None:
            raise NotFound(f"There is no delivery {delivery_id[:64]!r}.")
        attempts = await self._services.catalog.attempts(view.delivery.id)
        return visit.page(
            "delivery.html",
            title=f"Delivery to {view.delivery.route}",
            view=view,
            attempts=[(attempt, attempt.excerpt.decode("utf-8", "replace")) for attempt in reversed(attempts)],
        )

    async def retry(self, visit: Visit) -> Response:
        """Retry a delivery now, or repeat a finished one as a new delivery."""
        old = visit.request.path_params["id"]
        why = reason(await visit.form())
        view = await self._services.replays.retry(old, why=why, actor=visit.visitor.name)
        is_new = view.delivery.id != old
        notice = "This new delivery replaces the finished one." if is_new else "The delivery is due now."
        return visit.redirect(f"{PATH}/{view.delivery.id}", notice=notice)
