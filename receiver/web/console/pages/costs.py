"""Costs: bars by day, tag, endpoint, label or batch, and the same as CSV."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.costs import CostGrouping, CostTotal
from receiver.web.console import charts
from receiver.web.console.filters import CostFilter
from receiver.web.console.gate import Gate, Visit
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query
from receiver.web.resources.costs import MAX_TOTALS, grand_total

PATH = "/console/costs"

_DAYS = 30  # by day, which reads no tasks
_OTHER_DAYS = 7
_SHOWN = 100
_BY_OPTIONS = (("day", "day"), ("endpoint", "endpoint"), ("label", "label"), ("batch", "batch"))
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula."""


class CostPages:
    """Answers ``/console/costs``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the page and of the table."""
        return [gate.page(PATH, self.show), gate.page(f"{PATH}/csv", self.table)]

    async def show(self, visit: Visit) -> Response:
        """Show the sums as bars."""
        given = read_query(visit.request, CostFilter)
        since = given.from_ or self._first_day(given)
        totals = await self._totals(given, since)
        total = grand_total(totals)
        units = sorted({unit for each in totals for unit, amount in each.charges.items() if amount})
        highest = {unit: max(each.charges.get(unit, Decimal()) for each in totals) or Decimal(1) for unit in units}
        by, tag = given.by
        return visit.page(
            "costs.html",
            title="Costs",
            units=units,
            rows=[
                (
                    each,
                    {
                        unit: charts.share_bar(float(each.charges.get(unit, Decimal()) / highest[unit]))
                        for unit in units
                    },
                )
                for each in totals[:_SHOWN]
            ],
            left_out=max(0, len(totals) - _SHOWN),
            total=total,
            by=by.value if tag is None else f"{by.value}:{tag}",
            since=since,
            given=visit.request.query_params,
            by_options=_BY_OPTIONS,
        )

    async def table(self, visit: Visit) -> Response:
        """Return the sums as a file for spreadsheets."""
        given = read_query(visit.request, CostFilter)
        totals = await self._totals(given, given.from_ or self._first_day(given))
        return Response(
            _csv(given.by[0].value, totals[:MAX_TOTALS]),
            media_type="text/csv",
            headers={
                "content-disposition": 'attachment; filename="costs.csv"',
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
            },
        )

    async def _totals(self, given: CostFilter, since: datetime) -> Sequence[CostTotal]:
        by, tag = given.by
        totals = await self._services.costs.totals(by, tag=tag, since=since, until=given.to)
        return sorted(totals, key=lambda each: each.name or "", reverse=by is CostGrouping.DAY)

    def _first_day(self, given: CostFilter) -> datetime:
        now, days = self._services.clock.now(), _DAYS if given.by[0] is CostGrouping.DAY else _OTHER_DAYS
        return datetime.combine(now.date() - timedelta(days=days - 1), time(), now.tzinfo)


def _csv(by: str, totals: Sequence[CostTotal]) -> str:
    units = sorted({unit for each in totals for unit in each.charges})
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([by, "tasks", *map(_cell, units)])
    for each in totals:
        amounts = [format(each.charges[unit], "f") if unit in each.charges else "" for unit in units]
        writer.writerow([_cell(each.name or ""), each.tasks, *amounts])
    return file.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
