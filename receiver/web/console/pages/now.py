"""The first page: whether all is well, what needs attention, and what the tasks made last."""

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from decimal import Decimal

import msgspec
from markupsafe import Markup
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from receiver.domain.api_schema.resources import Route
from receiver.domain.costs import CostGrouping
from receiver.domain.model import Event, Task
from receiver.domain.slot_keys import SlotLimit, split_slot_key
from receiver.domain.tracked_alerts import AlertState
from receiver.store.interfaces import BriefDelivery, EventSearch, Total
from receiver.web.console import charts
from receiver.web.console.gate import HOME, Gate, Visit
from receiver.web.console.pages.tasks import END_EVENTS
from receiver.web.console.services import ConsoleServices
from receiver.web.console.shown_results import ShownResult, results_of_event
from receiver.web.resources.costs import grand_total
from receiver.web.resources.routes import RouteApi

_LATEST = 12
_MAX_ALERTS = 10
_NOT_OVER = (AlertState.OPEN, AlertState.ACKNOWLEDGED)
_ALMOST_FULL = 0.999


class Concern(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs attention, what to do, and the page that shows more."""

    title: str
    detail: str
    path: str


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """The slots of a pack, or of one of its models: in use, and the limit if one is known."""

    name: str
    used: int
    limit: int | None
    is_learned: bool
    bar: Markup


class LatestEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A task that ended lately."""

    task: Task
    event: Event
    deliveries: Sequence[BriefDelivery]
    charges: Mapping[str, Decimal]
    cover: ShownResult | None


class NowPage:
    """Answers ``/console``."""

    def __init__(self, services: ConsoleServices, routes: RouteApi) -> None:
        self._services = services
        self._routes = routes

    def routes(self, gate: Gate) -> list[HttpRoute]:
        """Return the route of the page."""
        return [gate.page(HOME, self.show)]

    async def show(self, visit: Visit) -> Response:
        """Show the counts that matter, the concerns, the slots and the latest ends."""
        services = self._services
        workload = await services.console.overview.workload()
        held = [route for route in await self._routes.all_routes() if route.held_at is not None]
        totals = await services.console.totals.read()
        return visit.page(
            "now.html",
            title="Now",
            workload=workload,
            held=held,
            missed=int(totals[Total.CALLBACKS_MISSED].get("", 0)),
            spent=await self._spent_today(),
            concerns=await self._concerns(held, workload.dead),
            alerts=(await services.alerts.list(states=_NOT_OVER, limit=_MAX_ALERTS)).items,
            gauges=slot_gauges(await services.console.slots_in_use(), services.console.slot_limits()),
            ends=await self._latest_ends(),
        )

    async def _spent_today(self) -> Mapping[str, Decimal]:
        now = self._services.clock.now()
        midnight = datetime.combine(now.date(), time(), now.tzinfo)
        return grand_total(await self._services.costs.totals(CostGrouping.DAY, since=midnight)).charges

    async def _concerns(self, held: Sequence[Route], dead: int) -> Sequence[Concern]:
        """Return what is wrong now, whether an alert reported it or not."""
        checks = [check for check in await self._services.readiness() if not check.ok]
        concerns = [Concern(title=f"Not ready: {check.name}", detail=check.reason, path="") for check in checks]
        concerns += [
            Concern(title=f"Route {route.name} is held", detail=route.held_why, path="/console/routes")
            for route in held
        ]
        if dead:
            noun = "delivery is" if dead == 1 else "deliveries are"
            path = "/console/deliveries?status=dead"
            concerns.append(Concern(title=f"{dead} {noun} dead", detail="Fix the cause, then replay.", path=path))
        return concerns

    async def _latest_ends(self) -> Sequence[LatestEnd]:
        overview = self._services.console.overview
        found = await overview.find_events(EventSearch(types=END_EVENTS), limit=_LATEST)
        events = [event for event in found.items if event.task_id is not None]
        deliveries = await overview.deliveries_of([event.id for event in events])
        costs = await overview.costs_of([event.task_id for event in events if event.task_id is not None])
        ends = []
        for event in events:
            task = await self._services.catalog.task(event.task_id or "")
            if task is not None:
                own = [each for each in deliveries if each.event_id == event.id]
                cover = results_of_event(event, self._services.results.previews).cover
                charges = costs.get(task.id, {})
                ends.append(LatestEnd(task=task, event=event, deliveries=own, charges=charges, cover=cover))
        return ends


def slot_gauges(used: Mapping[str, int], limits: Sequence[SlotLimit]) -> Sequence[Gauge]:
    """Return a gauge for each pack and model that is in use or has a limit of its own.

    A pack alone is shown if it is in use, or if none of its models is shown.
    """
    known = {each.key: each for each in limits}
    shown = {*used, *(each.key for each in limits if each.is_named or each.learned is not None)}
    packs = {split_slot_key(key)[0] for key in shown}
    shown |= {each.key for each in limits if each.limit and split_slot_key(each.key)[0] not in packs}
    return [_slot_gauge(key, used.get(key, 0), known.get(key, SlotLimit(key=key))) for key in sorted(shown)]


def _slot_gauge(key: str, used: int, limits: SlotLimit) -> Gauge:
    limit = min((each for each in (limits.limit or None, limits.learned) if each is not None), default=None)
    pack, model = split_slot_key(key)
    share = used / limit if limit else 0.0
    return Gauge(
        name=f"{pack} · {model}" if model else pack,
        used=used,
        limit=limit,
        is_learned=limit is not None and limit != limits.limit,
        bar=charts.share_bar(share, "warn" if share > _ALMOST_FULL else "ink"),
    )
