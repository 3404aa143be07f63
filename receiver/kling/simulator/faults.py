"""Injectable faults and their rates. Each task has its own random generator, so a seed repeats a run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from random import Random
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_RATE_FORM = "must be written like next:2, 30%, 0.3 or always"
_ERROR_FORM = "must be written like 1303, 1303:3 or 1302:20%"


class InvalidOption(ValueError):
    """A value of an option or a fault that cannot be used. ``name`` is the option, ``reason`` what is wrong."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = str(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRate:
    """How often a fault occurs: in a ``share`` (0 to 1) of cases, or the ``next`` n times. ``on`` limits statuses."""

    share: float = 0.0
    next: int = 0
    on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be 0 to 1, not {self.share}")
        if self.next < 0:
            raise ValueError(f"next must not be negative, as {self.next} is")

    @classmethod
    def parse(cls, raw: object) -> "FaultRate":
        """Parse ``0.5``, ``true``, ``"30%"``, ``"next:3"`` or ``{"share" or "next": ..., "on": [...]}``."""
        match raw:
            case FaultRate():
                return raw
            case bool() | int() | float():
                return cls(share=float(raw))
            case str():
                try:
                    return cls._parse_text(raw.strip().lower())
                except ValueError as exc:
                    raise ValueError(f"{_RATE_FORM}, not {raw!r}") from exc
            case Mapping():
                unknown = raw.keys() - {"share", "next", "on"}
                if unknown:
                    raise ValueError(f"unknown key {', '.join(sorted(unknown))}; expected: share, next, on")
                statuses = raw.get("on", ())
                return cls(
                    share=float(raw.get("share", 0)),
                    next=int(raw.get("next", 0)),
                    on=frozenset([statuses] if isinstance(statuses, str) else statuses),
                )
            case _:
                raise ValueError(f"a rate must be a share, a count or an object, not {raw!r}")

    @classmethod
    def _parse_text(cls, text: str) -> "FaultRate":
        if text in ("on", "true", "always"):
            return cls(share=1.0)
        if text in ("", "off", "false", "never"):
            return cls()
        if text.startswith("next"):
            return cls(next=int(text.removeprefix("next").strip(" :=") or 1))
        if text.endswith("%"):
            return cls(share=float(text[:-1]) / 100)
        return cls(share=float(text))

    def triggers(self, rng: Random, status: str = "") -> bool:
        """Return whether the fault occurs this time."""
        if self.on and status not in self.on:
            return False
        return self.next > 0 or (self.share > 0 and rng.random() < self.share)

    def consumed(self) -> "FaultRate":
        """Return the rate that remains after one occurrence."""
        return replace(self, next=self.next - 1) if self.next else self


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedError:
    """An error to answer instead of the normal answer.

    ``code`` is Kling's (1303), or an HTTP status (502) that a proxy in front of Kling answers with an HTML page. With
    ``created`` the task is created anyway, as may happen with a 5000 or 5002.
    """

    code: int
    rate: FaultRate
    created: bool = False
    retry_after: int | None = None

    @classmethod
    def parse(cls, raw: object) -> "InjectedError":
        """Parse ``1303`` (once), ``"1303:3"``, ``"1302:20%"`` or an object: code, next, share, created, retry_after."""
        match raw:
            case InjectedError():
                return raw
            case int():
                return cls(code=raw, rate=FaultRate(next=1))
            case str():
                try:
                    return cls._parse_text(raw)
                except ValueError as exc:
                    raise ValueError(f"{_ERROR_FORM}, not {raw!r}") from exc
            case Mapping():
                rest = {name: raw[name] for name in raw if name not in ("code", "created", "retry_after")}
                after = raw.get("retry_after")
                return cls(
                    code=int(raw["code"]),
                    rate=FaultRate.parse(rest or {"next": 1}),
                    created=bool(raw.get("created", False)),
                    retry_after=None if after is None else int(after),
                )
            case _:
                raise ValueError(f"an error must be a code or an object with a code, not {raw!r}")

    @classmethod
    def _parse_text(cls, text: str) -> "InjectedError":
        code, _, frequency = text.partition(":")
        is_count = frequency.isdigit() or not frequency
        rate = FaultRate(next=int(frequency or 1)) if is_count else FaultRate.parse(frequency)
        return cls(code=int(code), rate=rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All faults, off by default.

    Callbacks: ``drop`` sends none, ``duplicate`` sends two, ``reorder`` sends it after the following one, ``delay``
    sends it ``delay_by`` later. ``forge`` adds a false success before the real end, ``truncate`` cuts the body in half,
    ``wrap`` puts it into ``{code, message, request_id, data}`` like gateways, with ``wrap_code``.

    Creates: ``lose`` hangs up before the task is created, ``hang_up`` after. ``late`` answers ``late_by`` later,
    ``after_callback`` after the last callback, ``refuse`` with an error. ``gateway_ids`` answers with an id that is in
    no callback, ``drop_external`` drops the external id.

    Tasks: ``fail`` ends them as failed with ``fail_reason``. ``slow`` makes them slow, ``stall`` never ends them.
    ``result_missing`` lets them succeed without a result, ``result_late`` shows it only in queries, after
    ``result_late_by``. ``unbilled`` leaves them out of the account's ledger, ``overbilled`` charges them twice.

    Queries: ``refuse_queries`` answers with an error, ``listed`` with a list of one task, ``fresh_urls`` with newly
    signed URLs.
    """

    drop: FaultRate = FaultRate()
    duplicate: FaultRate = FaultRate()
    reorder: FaultRate = FaultRate()
    delay: FaultRate = FaultRate()
    delay_by: timedelta = timedelta(seconds=2)
    forge: FaultRate = FaultRate()
    truncate: FaultRate = FaultRate()
    wrap: FaultRate = FaultRate()
    wrap_code: int | str = 0
    lose: FaultRate = FaultRate()
    hang_up: FaultRate = FaultRate()
    late: FaultRate = FaultRate()
    late_by: timedelta = timedelta(seconds=2)
    after_callback: FaultRate = FaultRate()
    refuse: tuple[InjectedError, ...] = ()
    gateway_ids: FaultRate = FaultRate()
    drop_external: FaultRate = FaultRate()
    fail: FaultRate = FaultRate()
    fail_reason: str = "Image pixel is invalid"
    slow: FaultRate = FaultRate()
    stall: FaultRate = FaultRate()
    result_missing: FaultRate = FaultRate()
    result_late: FaultRate = FaultRate()
    result_late_by: timedelta = timedelta(0)
    unbilled: FaultRate = FaultRate()
    overbilled: FaultRate = FaultRate()
    refuse_queries: tuple[InjectedError, ...] = ()
    listed: FaultRate = FaultRate()
    fresh_urls: FaultRate = FaultRate()

    @classmethod
    def parse(cls, raw: Mapping[str, object], base: "Faults | None" = None) -> "Faults":
        """Parse faults by name, on top of *base*; an unknown name or invalid value raises ValueError."""
        changes: dict[str, Any] = {}
        for name, value in raw.items():
            if name not in _PARSERS:
                raise ValueError(f"unknown fault {name}; expected: {', '.join(_PARSERS)}")
            try:
                changes[name] = _PARSERS[name](value)
            except (TypeError, KeyError, ValueError) as exc:
                raise InvalidOption(name, exc) from exc
        return replace(base or NO_FAULTS, **changes)


NO_FAULTS = Faults()


class ActiveFaults:
    """The current faults; those set for the next n cases count down here."""

    def __init__(self, faults: Faults) -> None:
        self.current = faults

    def triggers(self, name: str, rng: Random, status: str = "") -> bool:
        """Return whether the named fault occurs this time, and count it."""
        rate: FaultRate = getattr(self.current, name)
        if not rate.triggers(rng, status):
            return False
        changes: dict[str, Any] = {name: rate.consumed()}
        self.current = replace(self.current, **changes)
        return True

    def next_error(self, name: str, rng: Random) -> InjectedError | None:
        """Return the first error of *name* that occurs this time, and count it; else None."""
        errors: tuple[InjectedError, ...] = getattr(self.current, name)
        for index, error in enumerate(errors):
            if error.rate.triggers(rng):
                remaining = replace(error, rate=error.rate.consumed())
                changes: dict[str, Any] = {name: (*errors[:index], remaining, *errors[index + 1 :])}
                self.current = replace(self.current, **changes)
                return error
        return None

    def clear(self) -> None:
        """End every fault."""
        self.current = NO_FAULTS

    def as_json(self) -> dict[str, object]:
        """Return the current faults, in the form that sets them."""
        return {name: to_json(value) for name, value in _changed(self.current)}


def parse_duration(raw: object) -> timedelta:
    """Parse a duration: ``"250ms"``, ``"2s"``, ``"5m"``, or a number of seconds."""
    if isinstance(raw, timedelta):
        return raw
    read = _DURATION.fullmatch(str(raw).strip())
    if read is None:
        raise ValueError(f"must be a duration like 250ms, 5s or 10m, not {raw!r}")
    return timedelta(seconds=float(read[1]) * _SECONDS[read[2]])


def to_json(value: object) -> object:
    """Return a setting as a JSON value."""
    match value:
        case timedelta():
            return value.total_seconds()
        case FaultRate():
            shown = {name: part for name, part in asdict(value).items() if part}
            return {**shown, "on": sorted(value.on)} if value.on else shown
        case InjectedError():
            rest = {"created": value.created, "retry_after": value.retry_after}
            frequency = to_json(value.rate)
            assert isinstance(frequency, dict)  # noqa: S101 - the case above returns a dict for a FaultRate
            return {"code": value.code, **frequency, **{name: part for name, part in rest.items() if part}}
        case tuple():
            return [to_json(part) for part in value]
        case _:
            return value


def _changed(faults: Faults) -> list[tuple[str, object]]:
    current = ((field.name, getattr(faults, field.name)) for field in fields(faults))
    return [(name, value) for name, value in current if value != getattr(NO_FAULTS, name)]


def _parse_errors(raw: object) -> tuple[InjectedError, ...]:
    if isinstance(raw, str):
        return tuple(InjectedError.parse(part.strip()) for part in raw.split(",") if part.strip())
    return (
        tuple(InjectedError.parse(part) for part in raw)
        if isinstance(raw, list | tuple)
        else (InjectedError.parse(raw),)
    )


_BY_TYPE: dict[type, Callable[[object], object]] = {
    FaultRate: FaultRate.parse,
    tuple: _parse_errors,
    timedelta: parse_duration,
    str: str,
    int: lambda given: int(str(given)) if str(given).isdigit() else str(given),
}
_PARSERS = {field.name: _BY_TYPE[type(field.default)] for field in fields(Faults)}
