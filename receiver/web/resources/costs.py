"""Task costs over HTTP, summed by a grouping. Amounts are text: a float would round them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import iso
from receiver.domain.costs import EXACT_DECIMAL, Cost, CostGrouping, CostTotal
from receiver.domain.model import Json
from receiver.web import serializers
from receiver.web.params import QueryParams
from receiver.web.server.problems import bad_request

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
        query = QueryParams(request, filters=("by", "from", "to"), paged=False)
        by, tag = _parse_grouping(query.single("by") or CostGrouping.ENDPOINT)
        since, until = query.timestamp("from"), query.timestamp("to")
        spent = await self._costs.totals(by, tag=tag, since=since, until=until)
        return serializers.json_response(
            {
                "by": by.value if tag is None else f"{by}:{tag}",
                "from": None if since is None else iso(since),
                "to": None if until is None else iso(until),
                "items": [_total_json(each) for each in spent[:MAX_TOTALS]],
                "left_out": max(0, len(spent) - MAX_TOTALS),
                "total": _total_json(_grand_total(spent)),
            }
        )


def _parse_grouping(text: str) -> tuple[CostGrouping, str | None]:
    name, colon, tag = text.partition(":")
    words = [each.value for each in CostGrouping if each is not CostGrouping.TAG]
    if name == CostGrouping.TAG and tag:
        return CostGrouping.TAG, tag
    if colon or name not in words:
        raise bad_request(f"'by' must be tag:NAME or one of: {', '.join(words)}.")
    return CostGrouping(name), None


def _grand_total(totals: Sequence[CostTotal]) -> CostTotal:
    charges: dict[str, Decimal] = {}
    for each in totals:
        for unit, amount in each.charges.items():
            charges[unit] = EXACT_DECIMAL.add(charges.get(unit, Decimal()), amount)
    return CostTotal(name=None, tasks=sum(each.tasks for each in totals), charges=charges)


def _total_json(total: CostTotal) -> Json:
    return {"name": total.name, "tasks": total.tasks, "charges": serializers.charges_json(total.charges)}
