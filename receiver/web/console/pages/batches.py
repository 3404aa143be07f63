"""Batches: the list, one batch, and closing it."""

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.batches import BatchView
from receiver.domain.listed_state import ListedState
from receiver.store.interfaces import TaskSearch
from receiver.web.console import charts
from receiver.web.console.filters import PAGE_SIZE, ListFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query

PATH = "/console/batches"

_ENDED = (
    ListedState.SUCCEED,
    ListedState.FAILED,
    ListedState.REJECTED,
    ListedState.CANCELLED,
    ListedState.EXPIRED,
)


class BatchPages:
    """Answers ``/console/batches``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the pages and of closing a batch."""
        return [
            gate.page(PATH, self.list),
            gate.page(f"{PATH}/{{name}}", self.show),
            gate.action(f"{PATH}/{{name}}/close", self.close),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show the batches and their progress."""
        given = read_query(visit.request, ListFilter)
        found = await self._services.batches.list(limit=PAGE_SIZE, cursor=given.cursor)
        return visit.page(
            "batches.html",
            title="Batches",
            found=found,
            views=[
                (view, _ended(view), charts.share_bar(_ended(view) / (view.batch.size or view.batch.task_count)))
                for view in found.items
            ],
        )

    async def show(self, visit: Visit) -> Response:
        """Show one batch and its newest tasks."""
        view = await self._services.batches.find(visit.request.path_params["name"])
        found = await self._services.console.overview.find_tasks(TaskSearch(batch=view.batch.name), limit=12)
        return visit.page(
            "batch.html",
            title=f"Batch {view.batch.name}",
            view=view,
            ended=_ended(view),
            bar=charts.share_bar(_ended(view) / (view.batch.size or view.batch.task_count)),
            tasks=found.items,
        )

    async def close(self, visit: Visit) -> Response:
        """Close a batch: it accepts no more tasks."""
        name = visit.request.path_params["name"]
        await self._services.batches.close(name, why=reason(await visit.form()), actor=visit.visitor.name)
        return visit.redirect(f"{PATH}/{name}", notice="The batch is closed.")


def _ended(view: BatchView) -> int:
    return sum(view.counts.get(state, 0) for state in _ENDED)
