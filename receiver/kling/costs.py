"""Parses a task's cost, in either generation's fields. Pure and exact: no amount is ever a float.

Documented are ``final_unit_deduction``, ``final_balance_deduction`` with ``quota`` and ``list_price``, and the new
generation's ``billing``, a list of amounts. Other members are kept as raw text, and summed if they are named numbers.
"""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation

from receiver.domain.costs import EXACT_DECIMAL, Cost
from receiver.domain.model import Json

UNITS = "units"

_COST_FIELDS = ("final_unit_deduction", "final_balance_deduction", "billing")
_MAX_DIGITS = 30  # before the point and after it
_AMOUNT = re.compile(rf"[+-]?[0-9]{{1,{_MAX_DIGITS}}}(?:\.[0-9]{{1,{_MAX_DIGITS}}})?")
_MAX_CHARGES = 16
_MAX_RAW = 4096
_MAX_UNIT = 32


def parse_cost(task: Json, parse_exactly: Callable[[], Json]) -> Cost | None:
    """Return a task's cost, or None if it reports none.

    *parse_exactly* returns the same task with fractions as decimals; it is called only if an amount is a fraction.
    """
    reported = _cost_fields(task)
    if not reported:
        return None
    if any(isinstance(value, float) for value in _scalars(reported)):
        reported = _cost_fields(parse_exactly())
    charges: dict[str, Decimal] = {}
    for unit, value in _amounts(reported):
        amount = _amount(value)
        if amount is not None and (unit in charges or len(charges) < _MAX_CHARGES):
            charges[unit] = EXACT_DECIMAL.add(charges.get(unit, Decimal()), amount)
    raw = json.dumps(reported, default=str, separators=(",", ":"))
    return Cost(charges=charges, raw=raw if len(raw) <= _MAX_RAW else "{}")


def parse_decimal(digits: str) -> Decimal | None:
    """Parse a fraction exactly; None if its exponent is out of range."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None


def _cost_fields(task: Json) -> Json:
    return {name: task[name] for name in _COST_FIELDS if name in task and task[name] not in (None, "", {}, [])}


def _scalars(value: object) -> Iterator[object]:
    left = [value]
    while left:
        match left.pop():
            case dict() as inner:
                left += inner.values()
            case list() as inner:
                left += inner
            case scalar:
                yield scalar


def _amounts(raw: Json) -> Iterator[tuple[str, object]]:
    """Yield each amount with its unit; both generations' units are named ``units``."""
    yield UNITS, raw.get("final_unit_deduction")
    match raw.get("final_balance_deduction"):
        case dict() as parts:
            yield from ((_unit(name), value) for name, value in parts.items())
        case value:
            yield "balance", value
    bills = raw.get("billing")
    for bill in bills if isinstance(bills, list) else [bills]:
        if isinstance(bill, dict):
            yield _unit(bill.get("charge_type")), bill.get("amount")


def _unit(raw: object) -> str:
    name = re.sub(r"[^a-z0-9_.:-]+", "_", raw.strip().lower())[:_MAX_UNIT] if isinstance(raw, str) else ""
    return UNITS if name in ("unit", UNITS) else name or "amount"


def _amount(value: object) -> Decimal | None:
    match value:
        case bool():
            return None
        case Decimal():  # written in full only if that is not a million zeros
            text = format(value, "f") if abs(value.adjusted()) <= _MAX_DIGITS else ""
        case int() | str():
            text = str(value).strip()
        case _:
            return None
    return Decimal(text) if _AMOUNT.fullmatch(text) else None
