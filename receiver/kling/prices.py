"""What a create will probably cost: the median of what tasks like it were charged. Pure.

Kling publishes its prices as tables that change, so the receiver learns them from its own charges.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec

from receiver.domain.costs import EXACT_DECIMAL
from receiver.domain.model import Json
from receiver.domain.quantity_text import amount_text
from receiver.kling.endpoints import Endpoint
from receiver.kling.models import requested_model

MAX_SAMPLES: Final = 12
"""The most charges that a price is learned from, the newest."""

_MEMBERS: Final = ("mode", "duration", "resolution", "aspect_ratio", "n", "result_type", "series_amount")
_SWITCHES: Final = ("sound", "audio", "enable_audio", "generate_audio", "with_sound", "voice_list", "multi_shot")
_OFF: Final = ("", "off", "false", "0", "none")
_MAX_VALUE = 40

PriceKind: TypeAlias = tuple[str, ...]
"""What tasks of equal price have in common: the endpoint, the model, and the options that Kling charges for."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks of one kind cost: the median by unit, and of how many ``tasks``."""

    charges: Mapping[str, Decimal]
    tasks: int

    def __str__(self) -> str:
        amounts = " and ".join(amount_text(amount, unit) for unit, amount in self.charges.items())
        return f"about {amounts} (median of {self.tasks} like it)"


UNKNOWN_PRICE: Final = "unknown: no task like it has been charged yet"


def price_kind(endpoint: Endpoint, body: Json) -> PriceKind:
    """Return the kind of a create by its endpoint and body."""
    settings = body.get("settings")  # of the new generation
    fields = body | settings if isinstance(settings, dict) else body
    values = [str(fields.get(member) or "")[:_MAX_VALUE].lower() for member in _MEMBERS]
    switches = [name for name in _SWITCHES if str(fields.get(name) or "").lower() not in _OFF]
    return endpoint.path, requested_model(endpoint, body), *values, *switches


def learn_price(kind: PriceKind, past: Iterable[tuple[PriceKind, Mapping[str, Decimal]]]) -> Price | None:
    """Return the price of *kind* from the *past* charges, newest first, or None if it is unknown.

    Units of a pack and money are never mixed: the newest charge decides which of them count. Units that cost nothing
    are left out.
    """
    samples = [_without_zeros(charges) for other, charges in past if other == kind and charges]
    alike = [charges for charges in samples if charges.keys() == samples[0].keys()][:MAX_SAMPLES]
    if not alike:
        return None
    medians = {unit: _median([charges[unit] for charges in alike]) for unit in alike[0]}
    return Price(charges=medians, tasks=len(alike))


def learn_prices(
    past: Iterable[tuple[PriceKind, Mapping[str, Decimal]]], *, limit: int
) -> Sequence[tuple[PriceKind, Price]]:
    """Return the prices of the first *limit* kinds in the *past* charges, newest first."""
    by_kind: dict[PriceKind, list[tuple[PriceKind, Mapping[str, Decimal]]]] = {}
    for kind, charges in past:
        by_kind.setdefault(kind, []).append((kind, charges))
    prices = ((kind, learn_price(kind, charges)) for kind, charges in by_kind.items())
    return [(kind, price) for kind, price in prices if price is not None][:limit]


def kind_model(kind: PriceKind) -> str:
    """Return the model of a kind."""
    return kind[1]


def kind_options(kind: PriceKind) -> Sequence[str]:
    """Return the options of a kind as people read them, such as ``duration 5``."""
    _, _, *values = kind
    named = [f"{name} {value}" for name, value in zip(_MEMBERS, values, strict=False) if value]
    return [*named, *values[len(_MEMBERS) :]]


def _without_zeros(charges: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    return {unit: amount for unit, amount in charges.items() if amount} or charges


def _median(amounts: list[Decimal]) -> Decimal:
    ordered = sorted(amounts)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else EXACT_DECIMAL.divide(EXACT_DECIMAL.add(low, high), Decimal(2))
