"""Routes: their state and their last hour; hold, release and test."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import msgspec
from markupsafe import Markup
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from receiver.domain.model import RouteState
from receiver.store.interfaces import RecentAttempt
from receiver.web.console import charts
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.resources.routes import RouteApi

PATH = "/console/routes"

_HOUR = timedelta(hours=1)
_STEPS = 30
_GOOD = ("accepted", "delivered")


class LastHour(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of a route in the last hour: numbers, and charts over time. ``share`` is that of successes."""

    attempts: int
    share: float | None
    median: timedelta | None
    counts_chart: Markup
    latency_chart: Markup


class RoutePages:
    """Answers ``/console/routes``."""

    def __init__(self, services: ConsoleServices, api: RouteApi) -> None:
        self._services = services
        self._api = api

    def routes(self, gate: Gate) -> list[HttpRoute]:
        """Return the routes of the page and its actions."""
        path = f"{PATH}/{{name}}"
        return [
            gate.page(PATH, self.list),
            gate.action(f"{path}/hold", self.hold),
            gate.action(f"{path}/release", self.release),
            gate.action(f"{path}/test", self.test),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show every route."""
        routes, now = await self._api.all_routes(), self._services.clock.now()
        attempts = await self._services.console.overview.recent_attempts(since=now - _HOUR)
        return visit.page(
            "routes.html",
            title="Routes",
            routes=[
                (route, last_hour([each for each in attempts if each.route == route.name], now)) for route in routes
            ],
        )

    async def hold(self, visit: Visit) -> Response:
        """Hold a route until it is released."""
        return await self._change(visit, self._services.route_states.hold, "is held. Its deliveries wait.")

    async def release(self, visit: Visit) -> Response:
        """Release a route."""
        return await self._change(visit, self._services.route_states.release, "delivers again.")

    async def _change(self, visit: Visit, change: Callable[..., Awaitable[RouteState]], outcome: str) -> Response:
        name = visit.request.path_params["name"]
        await self._api.change(name, change, why=reason(await visit.form()), actor=visit.visitor.name)
        return visit.redirect(PATH, notice=f"Route {name} {outcome}")

    async def test(self, visit: Visit) -> Response:
        """Send a sample event to a route once, and show the outcome. Nothing is stored."""
        name = visit.request.path_params["name"]
        outcome = await self._services.route_tests.send_sample(name)
        return visit.page("route_test.html", title=f"Test of {name}", live=False, name=name, outcome=outcome)


def last_hour(attempts: Sequence[RecentAttempt], now: datetime) -> LastHour:
    """Summarize the attempts of one route."""
    good, bad = [0] * _STEPS, [0] * _STEPS
    slowest: list[float | None] = [None] * _STEPS
    for each in attempts:
        step = min(int((each.started_at - (now - _HOUR)) / _HOUR * _STEPS), _STEPS - 1)
        (good if each.outcome in _GOOD else bad)[step] += 1
        slowest[step] = max(slowest[step] or 0.0, each.duration.total_seconds())
    durations = sorted(each.duration for each in attempts)
    return LastHour(
        attempts=len(attempts),
        share=sum(good) / len(attempts) if attempts else None,
        median=durations[len(durations) // 2] if durations else None,
        counts_chart=charts.stacked_bars(good, bad),
        latency_chart=charts.sparkline(slowest),
    )
