"""Numbers with their nouns, for people: ``1 task``, ``2 tasks``."""

from decimal import Decimal

_UNITS = "units"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, whose *plural* ends in s if none is given."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def amount_text(amount: Decimal | str, unit: str) -> str:
    """Return a charge with its unit. Kling names most of them; only units have a singular."""
    number = Decimal(amount)
    return f"{number:f} {'unit' if unit == _UNITS and number == 1 else unit}"
