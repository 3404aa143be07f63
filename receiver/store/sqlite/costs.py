"""Costs of tasks in the store's file: amounts are stored as text and added as exact decimals."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from receiver.domain.clock import micros
from receiver.domain.costs import EXACT_DECIMAL, Cost, CostGrouping, CostTotal
from receiver.domain.model import Task
from receiver.store.sqlite import rows
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql


class SqliteCostStore:
    """Costs of tasks, in the store's file."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find(self, task_id: str) -> Cost | None:
        """Return the cost of a task; None if Kling has not reported it."""
        return await self._lists.read(_find, task_id)

    async def totals(
        self, by: CostGrouping, *, tag: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[CostTotal]:
        """Sum the costs of the tasks that ended from *since* until before *until*, grouped by *by*.

        Grouping by tag uses the tag *tag*. Tasks without a value are in the first group, named None.
        """
        arguments = {
            by.value: tag if by is CostGrouping.TAG else True,
            "since": None if since is None else micros(since),
            "until": None if until is None else micros(until),
        }
        return await self._lists.read(_totals, arguments)


def cost_row(task: Task, cost: Cost) -> rows.Values:
    """Return the row of a task's cost for ``save_cost``."""
    charges = {unit: format(amount, "f") for unit, amount in cost.charges.items()}
    return (task.id, micros(task.updated_at), json.dumps(charges, separators=(",", ":")), cost.raw)


def _find(connection: sqlite3.Connection, task_id: str) -> Cost | None:
    row = connection.execute(sql("cost"), {"task_id": task_id}).fetchone()
    if row is None:
        return None
    charges = json.loads(row["charges"])
    return Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, raw=row["raw"])


def _totals(connection: sqlite3.Connection, arguments: Mapping[str, object]) -> Sequence[CostTotal]:
    tasks: dict[str | None, int] = {}
    charges: dict[str | None, dict[str, Decimal]] = {}
    for row in connection.execute(queries()["cost_totals"].with_optional(arguments), arguments):
        name, unit = row["name"], row["unit"]
        if unit is None:
            tasks[name] = row["times"]
            continue
        sums = charges.setdefault(name, {})
        product = EXACT_DECIMAL.multiply(Decimal(row["amount"]), Decimal(row["times"]))
        sums[unit] = EXACT_DECIMAL.add(sums.get(unit, Decimal()), product)
    return [CostTotal(name=name, tasks=tasks[name], charges=charges.get(name, {})) for name in tasks]
