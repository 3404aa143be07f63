"""What tasks have cost, over HTTP: sums by what they share. Amounts are texts: a float would round them."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import iso
from receiver.domain.model import EXACT, Cost, Json
from receiver.domain.replays import CostBy, Spent
from receiver.web import serializers
from receiver.web.params import Query
from receiver.web.server.problems import bad_request

MOST_SUMS = 1000


class Costs(Protocol):
    """Knows what tasks have cost."""

    async def find(self, task_id: str) -> Cost | None:
        """Tell what a task has cost, None where nobody has said."""
        ...

    async def spent(
        self, by: CostBy, *, tag: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[Spent]:
        """Sum what tasks have cost that ended from *since* on and before *until*, by what they share."""
        ...


class CostApi:
    """Answers ``/api/costs``."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    async def sums(self, request: Request) -> Response:
        """Tell what was spent, by a tag, the endpoint, the day, the label or the batch, and all in all."""
        query = Query(request, filters=("by", "from", "to"), paged=False)
        by, tag = _by(query.one("by") or CostBy.ENDPOINT)
        since, until = query.moment("from"), query.moment("to")
        spent = await self._costs.spent(by, tag=tag, since=since, until=until)
        return serializers.answer(
            {
                "by": by.value if tag is None else f"{by}:{tag}",
                "from": None if since is None else iso(since),
                "to": None if until is None else iso(until),
                "items": [_spent(each) for each in spent[:MOST_SUMS]],
                "left_out": max(0, len(spent) - MOST_SUMS),
                "total": _spent(_all_in_all(spent)),
            }
        )


def _by(word: str) -> tuple[CostBy, str | None]:
    name, colon, tag = word.partition(":")
    words = [each.value for each in CostBy if each is not CostBy.TAG]
    if name == CostBy.TAG and tag:
        return CostBy.TAG, tag
    if colon or name not in words:
        raise bad_request(f"'by' is tag:NAME, or one of {', '.join(words)}.")
    return CostBy(name), None


def _all_in_all(spent: Sequence[Spent]) -> Spent:
    charges: dict[str, Decimal] = {}
    for each in spent:
        for unit, amount in each.charges.items():
            charges[unit] = EXACT.add(charges.get(unit, Decimal()), amount)
    return Spent(name=None, tasks=sum(each.tasks for each in spent), charges=charges)


def _spent(each: Spent) -> Json:
    return {"name": each.name, "tasks": each.tasks, "charges": serializers.charges(each.charges)}
