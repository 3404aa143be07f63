"""Task costs over HTTP, summed by a grouping. Amounts are text: a float would round them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.costs import CostReport
from receiver.domain.clock import iso
from receiver.domain.costs import Cost, CostGrouping, CostTotal, add_charges
from receiver.web import serializers
from receiver.web.api_requests import CostQuery
from receiver.web.params import read_query

MAX_TOTALS = 1000


class CostStore(Protocol):
    """Stores the costs of tasks."""

    async def find(self, task_id: str) -> Cost | None:
        """Return a task's cost, or None if it is unknown."""
        ...

    async def totals(
        self, by: CostGrouping, *, tag: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[CostTotal]:
        """Sum the costs of tasks that ended at or after *since* and before *until*, by a grouping."""
        ...


class CostApi:
    """Answers ``/api/costs``."""

    def __init__(self, costs: CostStore) -> None:
        self._costs = costs

    async def totals(self, request: Request) -> Response:
        """Sum costs by a tag, the endpoint, the day, the label or the batch, and in total."""
        query = read_query(request, CostQuery)
        by, tag = query.by
        totals = await self._costs.totals(by, tag=tag, since=query.from_, until=query.to)
        return serializers.json_response(
            CostReport(
                by=by.value if tag is None else f"{by}:{tag}",
                from_=None if query.from_ is None else iso(query.from_),
                to=None if query.to is None else iso(query.to),
                items=[serializers.cost_total_json(each) for each in totals[:MAX_TOTALS]],
                left_out=max(0, len(totals) - MAX_TOTALS),
                total=serializers.cost_total_json(grand_total(totals)),
            )
        )


def grand_total(totals: Sequence[CostTotal]) -> CostTotal:
    """Return the sum of all groups."""
    charges = add_charges(each.charges for each in totals)
    return CostTotal(name=None, tasks=sum(each.tasks for each in totals), charges=charges)
