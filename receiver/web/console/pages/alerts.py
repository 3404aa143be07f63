"""Alerts: open and past ones, and their acknowledgement with a note."""

from typing import Annotated

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.tracked_alerts import AlertState
from receiver.web import request_types as types
from receiver.web.console.filters import PAGE_SIZE, ListFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query
from receiver.web.request_types import CommaSeparated

PATH = "/console/alerts"

_STATE_OPTIONS = (
    ("open,acknowledged", "not over"),
    ("open", "open"),
    ("acknowledged", "acknowledged"),
    ("closed", "over"),
    ("open,acknowledged,closed", "all"),
)
_NOT_OVER = (AlertState.OPEN, AlertState.ACKNOWLEDGED)


class AlertFilter(ListFilter):
    """Which alerts to show."""

    state: CommaSeparated[Annotated[AlertState, types.one_of(AlertState)]] = _NOT_OVER


class AlertPages:
    """Answers ``/console/alerts``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the list and of the acknowledgement."""
        return [gate.page(PATH, self.list), gate.action(f"{PATH}/{{id}}/acknowledge", self.acknowledge)]

    async def list(self, visit: Visit) -> Response:
        """Show the alerts, newest first."""
        given = read_query(visit.request, AlertFilter)
        found = await self._services.alerts.list(states=given.state, limit=PAGE_SIZE, cursor=given.cursor)
        return visit.page(
            "alerts.html",
            title="Alerts",
            found=found,
            state=",".join(given.state),
            state_options=_STATE_OPTIONS,
        )

    async def acknowledge(self, visit: Visit) -> Response:
        """Acknowledge an alert, so that it stays quiet until it changes."""
        note = reason(await visit.form())
        alert = await self._services.alerts.acknowledge(
            visit.request.path_params["id"], note=note, actor=visit.visitor.name
        )
        return visit.redirect(PATH, notice=f"{alert.type} is acknowledged. It stays quiet until it changes.")
