"""The first page: whether all is well, and what the tasks made last."""

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.model import TaskState
from receiver.web.console.gate import HOME, Gate, Visit
from receiver.web.console.services import ConsoleServices


class NowPage:
    """Answers ``/console``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the route of the page."""
        return [gate.page(HOME, self.show)]

    async def show(self, visit: Visit) -> Response:
        """Show the counts that matter."""
        counts = await self._services.catalog.counts()
        running = sum(counts.get(state, 0) for state in TaskState if state.is_running)
        return visit.page("now.html", title="Now", running=running, waiting=counts.get(TaskState.QUEUED, 0))
