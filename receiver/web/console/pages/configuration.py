"""The configuration in force, and where each value came from. Secrets are masked."""

from itertools import groupby

from starlette.responses import Response
from starlette.routing import Route

from receiver.web.console.gate import Gate, Visit
from receiver.web.console.services import ConsoleServices


class ConfigurationPage:
    """Answers ``/console/configuration``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the route of the page."""
        return [gate.page("/console/configuration", self.show)]

    async def show(self, visit: Visit) -> Response:
        """Show every key with its value and source."""
        settings = sorted(self._services.console.configuration(), key=lambda each: each.key.rpartition(".")[0])
        groups = groupby(settings, key=lambda each: each.key.rpartition(".")[0])
        return visit.page(
            "configuration.html",
            title="Configuration",
            live=False,
            sections=[(name, list(items)) for name, items in groups],
        )
