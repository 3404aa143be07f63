"""Costs of tasks as rows, and back: amounts are stored as text, because a database's numbers are not exact."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache

from receiver.domain.bill import OwnCharge
from receiver.domain.clock import from_micros, micros
from receiver.domain.costs import EXACT_DECIMAL, Cost, CostTotal
from receiver.domain.model import Task, TaskState
from receiver.store import rows

CHARGES_PER_QUERY = 500
"""Tasks whose charges are read or written at once."""

MAX_RUNTIME = timedelta(days=7)
"""How long before its end a task may have been made."""

NEWEST_CHARGES = {"searched": 2000, "limit": 200, "max_bytes": 8 * 1024 * 1024}
"""How many of the newest costs are searched for an endpoint's, how many of these are read, and bytes of bodies."""

_DAY = 86_400_000_000  # microseconds
_FOREVER = 2**62

CostCounts = Counter[tuple[str | None, str]]
"""How many tasks of a group, which has a name or none, have the same charges, which are JSON."""


def cost_row(task: Task, cost: Cost) -> rows.Values:
    """Return the row of a task's cost for ``save_cost``."""
    return (task.id, micros(task.updated_at), write_charges(cost.charges), cost.raw)


def write_charges(charges: Mapping[str, Decimal]) -> str:
    """Return the stored form of amounts by unit: JSON with exact decimals as text."""
    amounts = {rows.storable_text(unit): format(amount, "f") for unit, amount in charges.items()}
    return json.dumps(amounts, separators=(",", ":"))


def read_charges(text: str) -> Mapping[str, Decimal]:
    """Read amounts by unit from their stored form."""
    return {unit: Decimal(amount) for unit, amount in json.loads(text).items()}


def read_own_charges(found: Iterable[rows.Row]) -> Sequence[OwnCharge]:
    """Read our tasks with what they cost."""
    return [
        OwnCharge(
            task_id=row["id"],
            kling_id=row["kling_id"],
            endpoint=row["endpoint"] or "",
            ended_at=from_micros(row["updated_at"]),
            succeeded=row["state"] == TaskState.SUCCEED,
            charges=None if row["charges"] is None else read_charges(row["charges"]),
        )
        for row in found
    ]


def split_period(since: datetime | None, until: datetime | None) -> tuple[range, Sequence[tuple[int, int]]]:
    """Split a period into its whole UTC days, counted from the epoch, and the rest: from a moment until another."""
    start = 0 if since is None else micros(since)
    end = _FOREVER if until is None else micros(until)
    first, last = -(-start // _DAY), end // _DAY
    if first > last:  # a part of one day
        return range(0), [(start, end)]
    rest = [(start, first * _DAY), (last * _DAY, end)]
    return range(first, last), [(begin, stop) for begin, stop in rest if begin < stop]


def read_counts(found: Iterable[rows.Row]) -> CostCounts:
    """Read the numbers of tasks by name and charges."""
    return Counter({(row["name"], row["charges"]): row["times"] for row in found})


def with_unnamed(named: CostCounts, every: CostCounts) -> CostCounts:
    """Add the tasks without a name: *every* task but the *named* ones."""
    unnamed: CostCounts = Counter()
    for (_, charges), times in every.items():
        unnamed[None, charges] += times
    for (_, charges), times in named.items():
        unnamed[None, charges] -= times
    return named + unnamed  # without those that are 0


def add_counts(counts: CostCounts) -> Sequence[CostTotal]:
    """Multiply and add the charges of each group. The group without a name is the first."""
    tasks: Counter[str | None] = Counter()
    sums: dict[str | None, dict[str, Decimal]] = {}
    read = cache(read_charges)
    for (name, charges), times in counts.items():
        tasks[name] += times
        group = sums.setdefault(name, {})
        for unit, amount in read(charges).items():
            product = EXACT_DECIMAL.multiply(amount, Decimal(times))
            group[unit] = EXACT_DECIMAL.add(group.get(unit, Decimal()), product)
    names = sorted(tasks, key=lambda name: (name is not None, name))
    return [CostTotal(name=name, tasks=tasks[name], charges=sums[name]) for name in names]
