"""What tasks cost: exact amounts, by unit."""

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from enum import StrEnum

import msgspec

EXACT_DECIMAL = Context(prec=200)
"""The context for adding amounts. Its precision never rounds a sum of amounts that Kling writes."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What Kling charged for a task: ``charges`` maps a unit to an amount, ``raw`` is Kling's own JSON."""

    charges: Mapping[str, Decimal]
    raw: str


class CostGrouping(StrEnum):
    """What costs are grouped by."""

    TAG = "tag"
    ENDPOINT = "endpoint"
    DAY = "day"  # the UTC day on which the task ended
    LABEL = "label"
    BATCH = "batch"


class CostTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of one group of tasks, by unit. ``tasks`` counts the tasks whose cost is known."""

    name: str | None
    tasks: int
    charges: Mapping[str, Decimal]


def add_charges(several: Iterable[Mapping[str, Decimal]]) -> Mapping[str, Decimal]:
    """Add amounts by unit, exactly."""
    sums: dict[str, Decimal] = {}
    for charges in several:
        for unit, amount in charges.items():
            sums[unit] = EXACT_DECIMAL.add(sums.get(unit, Decimal()), amount)
    return sums
