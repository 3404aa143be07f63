"""Costs of tasks as rows, and back: amounts are stored as text, because a database's numbers are not exact."""

import json
from collections.abc import Mapping
from decimal import Decimal

from receiver.domain.clock import micros
from receiver.domain.costs import Cost
from receiver.domain.model import Task
from receiver.store import rows


def cost_row(task: Task, cost: Cost) -> rows.Values:
    """Return the row of a task's cost for ``save_cost``."""
    return (task.id, micros(task.updated_at), write_charges(cost.charges), cost.raw)


def write_charges(charges: Mapping[str, Decimal]) -> str:
    """Return the stored form of amounts by unit: JSON with exact decimals as text."""
    return json.dumps({unit: format(amount, "f") for unit, amount in charges.items()}, separators=(",", ":"))


def read_charges(text: str) -> Mapping[str, Decimal]:
    """Read amounts by unit from their stored form."""
    return {unit: Decimal(amount) for unit, amount in json.loads(text).items()}
