"""Task costs over HTTP, summed by a grouping. Amounts are text: a float would round them."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.costs import CostEstimate, CostReport
from receiver.domain.clock import iso
from receiver.domain.costs import Cost, CostGrouping, CostTotal, add_charges
from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Json
from receiver.kling import endpoints
from receiver.kling.endpoints import Endpoint
from receiver.kling.models import requested_model
from receiver.kling.prices import UNKNOWN_PRICE, PriceKind, learn_price, price_kind
from receiver.kling.protocol import parse_object
from receiver.web import serializers
from receiver.web.api_requests import CostQuery, EstimateRequest, NoQuery
from receiver.web.params import read_json_body, read_query

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

    async def newest_charges(self, endpoint: str) -> Sequence[tuple[bytes, Mapping[str, Decimal]]]:
        """Return the bodies of an endpoint's newest charged tasks with their charges, newest first."""
        ...


async def past_charges(costs: CostStore, endpoint: Endpoint) -> Sequence[tuple[PriceKind, Mapping[str, Decimal]]]:
    """Return the kinds of an endpoint's newest charged tasks with their charges, newest first."""
    newest = await costs.newest_charges(endpoint.path)

    def read() -> Sequence[tuple[PriceKind, Mapping[str, Decimal]]]:
        return [(price_kind(endpoint, parse_object(sent)), charges) for sent, charges in newest]

    return await asyncio.to_thread(read)  # bodies may contain pictures


async def estimate(costs: CostStore, path: str, body: Json) -> CostEstimate:
    """Estimate the cost of a task. Raises InvalidRequest if the endpoint is unknown."""
    endpoint = endpoints.resolve(path)
    if endpoint is None:
        raise InvalidRequest(
            f"Kling has no asynchronous endpoint {path!r}.",
            remedy='Write it without "/v1/", such as "images/multi-image2image".',
        )
    price = learn_price(price_kind(endpoint, body), await past_charges(costs, endpoint))
    return CostEstimate(
        endpoint=endpoint.path,
        model=requested_model(endpoint, body),
        pack=endpoint.pack,
        slots=endpoints.slot_weight(endpoint, body) if endpoint.pack else 0,
        charges={} if price is None else serializers.charges_json(price.charges),
        tasks=0 if price is None else price.tasks,
        summary=UNKNOWN_PRICE if price is None else str(price),
    )


class CostApi:
    """Answers ``/api/costs``."""

    def __init__(self, costs: CostStore) -> None:
        self._costs = costs

    async def estimate(self, request: Request) -> Response:
        """Estimate the cost of a task that is not submitted."""
        read_query(request, NoQuery)
        read = await read_json_body(request, EstimateRequest)
        return serializers.json_response(await estimate(self._costs, read.endpoint, read.body))

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
