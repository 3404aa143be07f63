"""Options of a simulator: its keys, slots and timing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from receiver.kling.simulator.endpoints import Endpoints
from receiver.kling.simulator.faults import NO_FAULTS, Faults, InvalidOption, parse_duration
from receiver.kling.simulator.slots import NO_PLAN, SlotPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a simulated account.

    Without ``api_key`` and ``access_key`` any key is accepted, but one is required. The dialect "gateway" also accepts
    subject images as plain strings. ``slots`` is the plan of the account. For ``rate`` (creates per second), 0 means
    no limit. A ``postpaid`` account pays with money, any other with units from packs of ``pack_units``. A task stays
    ``submitted_for`` and ``processing_for`` in these statuses; ``push_submitted`` also sends a callback for the first.
    ``endpoints`` are additional ones, as :class:`Endpoints` parses them. ``keep`` limits the recorded tasks and creates
    and the charges; four times as many callbacks are kept.
    """

    listen: str = "127.0.0.1:0"
    public_url: str = ""
    api_key: str = field(default="", repr=False)
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    dialect: str = "official"
    slots: SlotPlan = NO_PLAN
    rate: int = 0
    postpaid: bool = False
    pack_units: int = 10_000
    submitted_for: timedelta = timedelta(milliseconds=300)
    processing_for: timedelta = timedelta(seconds=1)
    slow_for: timedelta = timedelta(seconds=30)
    push_submitted: bool = False
    push_timeout: timedelta = timedelta(seconds=10)
    results_for: timedelta = timedelta(days=30)
    check_images: bool = True
    endpoints: tuple[str, ...] = ()
    keep: int = 10_000
    seed: int | None = None
    faults: Faults = NO_FAULTS

    def __post_init__(self) -> None:
        if self.dialect not in ("official", "gateway"):
            raise ValueError(f"dialect must be official or gateway, not {self.dialect!r}")
        if bool(self.access_key) != bool(self.secret_key):
            raise ValueError("access_key and secret_key must be given together")
        Endpoints(self.endpoints)
        if self.keep < 1:
            raise ValueError("keep must be at least 1")

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> "Options":
        """Parse options and faults by name, from a command line or a test; None means the default."""
        given = {name: value for name, value in raw.items() if value is not None}
        options: dict[str, Any] = {name: parse_option(name, given[name]) for name in given if name in _PARSERS}
        faults = Faults.parse({name: value for name, value in given.items() if name not in _PARSERS})
        return cls(**{"faults": faults} | options)


def parse_option(name: str, value: object) -> object:
    """Parse the value of an option. Raises InvalidOption, which names it."""
    try:
        return _PARSERS[name](value)
    except ValueError as exc:
        raise InvalidOption(name, exc) from exc


def _parse_texts(raw: object) -> tuple[str, ...]:
    return (raw,) if isinstance(raw, str) else tuple(str(part) for part in raw) if isinstance(raw, list | tuple) else ()


def _unchanged(raw: object) -> object:
    return raw


_BY_TYPE: dict[type, Callable[[object], object]] = {
    str: str,
    bool: lambda given: str(given).lower() not in ("", "0", "false", "no", "off"),
    int: lambda given: int(str(given)),
    type(None): lambda given: int(str(given)),
    tuple: _parse_texts,
    timedelta: parse_duration,
    Faults: _unchanged,
    SlotPlan: SlotPlan.parse,
}
_PARSERS = {each.name: _BY_TYPE[type(each.default)] for each in fields(Options)}
