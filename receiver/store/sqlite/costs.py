"""What tasks have cost, in the store's file: amounts are kept as they are written, and added as exact numbers."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from receiver.domain.clock import micros
from receiver.domain.model import EXACT, Cost, Task
from receiver.domain.replays import CostBy, Spent
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import queries, sql


class CostStore:
    """What tasks have cost."""

    def __init__(self, read: Callable[..., Awaitable[Any]]) -> None:
        self._read = read

    async def find(self, task_id: str) -> Cost | None:
        """Tell what a task has cost, None where nobody has said."""
        found: Cost | None = await self._read(_find, task_id)
        return found

    async def spent(
        self, by: CostBy, *, tag: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[Spent]:
        """Sum what tasks have cost that ended from *since* on and before *until*, by what they share.

        By a tag it is the one called *tag*. What does not have it goes by None, first.
        """
        wanted = {
            by.value: tag if by is CostBy.TAG else True,
            "since": None if since is None else micros(since),
            "until": None if until is None else micros(until),
        }
        found: Sequence[Spent] = await self._read(_sum, wanted)
        return found


def cost_row(task: Task, cost: Cost) -> rows.Values:
    """Write what a task has cost for ``save_cost``."""
    charges = {unit: format(amount, "f") for unit, amount in cost.charges.items()}
    return (task.id, micros(task.updated_at), json.dumps(charges, separators=(",", ":")), cost.said)


def _find(connection: sqlite3.Connection, task_id: str) -> Cost | None:
    row = connection.execute(sql("cost"), {"task_id": task_id}).fetchone()
    if row is None:
        return None
    charges = json.loads(row["charges"])
    return Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, said=row["said"])


def _sum(connection: sqlite3.Connection, wanted: dict[str, object]) -> Sequence[Spent]:
    tasks: dict[str | None, int] = {}
    charges: dict[str | None, dict[str, Decimal]] = {}
    for row in connection.execute(queries()["sum_costs"].given(wanted), wanted):
        name, unit = row["name"], row["unit"]
        if unit is None:
            tasks[name] = row["times"]
            continue
        sums = charges.setdefault(name, {})
        taken = EXACT.multiply(Decimal(row["amount"]), Decimal(row["times"]))
        sums[unit] = EXACT.add(sums.get(unit, Decimal()), taken)
    return [Spent(name=name, tasks=tasks[name], charges=charges.get(name, {})) for name in tasks]
