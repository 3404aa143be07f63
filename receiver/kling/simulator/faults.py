"""What can be made to go wrong, how often, and for whom. Chance is each task's own, so that a seed repeats a run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from random import Random
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRate:
    """How often a fault strikes: a ``share`` (0 to 1) of all cases, or the ``next`` so many; ``on`` names statuses."""

    share: float = 0.0
    next: int = 0
    on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"a share is from 0 to 1, not {self.share}")
        if self.next < 0:
            raise ValueError(f"the next {self.next} is not a number of times")

    @classmethod
    def parse(cls, raw: object) -> "FaultRate":
        """Read ``0.5``, ``true``, ``"30%"``, ``"next:3"`` or ``{"share" or "next": ..., "on": [...]}``."""
        match raw:
            case FaultRate():
                return raw
            case bool() | int() | float():
                return cls(share=float(raw))
            case str():
                return cls._parse_text(raw.strip().lower())
            case Mapping():
                strange = raw.keys() - {"share", "next", "on"}
                if strange:
                    raise ValueError(f"share, next and on are known, not {', '.join(sorted(strange))}")
                words = raw.get("on", ())
                return cls(
                    share=float(raw.get("share", 0)),
                    next=int(raw.get("next", 0)),
                    on=frozenset([words] if isinstance(words, str) else words),
                )
            case _:
                raise ValueError(f"how often is a share, a number of times or an object, not {raw!r}")

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
        """Tell whether the fault strikes this time."""
        if self.on and status not in self.on:
            return False
        return self.next > 0 or (self.share > 0 and rng.random() < self.share)

    def consumed(self) -> "FaultRate":
        """Give what is left after it has struck once."""
        return replace(self, next=self.next - 1) if self.next else self


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedError:
    """An error answered instead of what was asked for.

    ``code`` is Kling's own (1303), or an HTTP status (502) that something in front of Kling answers with a page of
    HTML. With ``created`` the task is made all the same, as after a 5000 or 5002 it may be.
    """

    code: int
    rate: FaultRate
    created: bool = False
    retry_after: int | None = None

    @classmethod
    def parse(cls, raw: object) -> "InjectedError":
        """Read ``1303`` (once), ``"1303:3"``, ``"1302:20%"`` or an object: code, next, share, created, retry_after."""
        match raw:
            case InjectedError():
                return raw
            case int():
                return cls(code=raw, rate=FaultRate(next=1))
            case str():
                code, _, often = raw.partition(":")
                dial = FaultRate(next=int(often or 1)) if often.isdigit() or not often else FaultRate.parse(often)
                return cls(code=int(code), rate=dial)
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
                raise ValueError(f"an error to answer is a code or an object with one, not {raw!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Every fault that can be shown, all of them off by default.

    Callbacks: ``drop`` never sends one, ``duplicate`` sends it twice, ``reorder`` after the one that follows, ``delay``
    by ``delay_by``; ``forge`` adds a false succeed before the true end, ``truncate`` cuts the body in half, ``wrap``
    puts it into ``{code, message, request_id, data}`` as gateways do, with ``wrap_code``.

    Creates: ``lose`` hangs up before anything is made, ``hang_up`` after; ``late`` answers ``late_by`` later,
    ``after_callback`` once the last callback has been sent, ``refuse`` with an error; ``gateway_ids`` answers with an
    id that no callback will carry, ``drop_external`` forgets the client's own id.

    Tasks: ``fail`` ends them as failed with ``fail_reason``, ``slow`` and ``stall`` make them take long or for ever,
    ``result_missing`` lets them succeed without a result, ``result_late`` tells it to queries alone, from
    ``result_late_by`` on.

    Queries: ``refuse_queries`` answers with an error, ``listed`` with a list of one, ``fresh_urls`` with URLs signed
    anew.
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
    refuse_queries: tuple[InjectedError, ...] = ()
    listed: FaultRate = FaultRate()
    fresh_urls: FaultRate = FaultRate()

    @classmethod
    def parse(cls, raw: Mapping[str, object], base: "Faults | None" = None) -> "Faults":
        """Read faults by name, over those of *base*; a name or a value that means nothing is a ValueError."""
        changes: dict[str, Any] = {}
        for name, value in raw.items():
            if name not in _PARSERS:
                raise ValueError(f"no fault is called {name}; there are {', '.join(_PARSERS)}")
            try:
                changes[name] = _PARSERS[name](value)
            except (TypeError, KeyError, ValueError) as exc:
                raise ValueError(f"{name}: {exc}") from exc
        return replace(base or NO_FAULTS, **changes)


NO_FAULTS = Faults()


class ActiveFaults:
    """The faults as they stand just now; one that was set for the next so many counts down here."""

    def __init__(self, faults: Faults) -> None:
        self.current = faults

    def triggers(self, name: str, rng: Random, status: str = "") -> bool:
        """Tell whether the fault of that name strikes this time, and count it."""
        dial: FaultRate = getattr(self.current, name)
        if not dial.triggers(rng, status):
            return False
        changes: dict[str, Any] = {name: dial.consumed()}
        self.current = replace(self.current, **changes)
        return True

    def next_error(self, name: str, rng: Random) -> InjectedError | None:
        """Find the first error of *name* that is to be answered this time, and count it."""
        denials: tuple[InjectedError, ...] = getattr(self.current, name)
        for place, denial in enumerate(denials):
            if denial.rate.triggers(rng):
                left = replace(denial, rate=denial.rate.consumed())
                changes: dict[str, Any] = {name: (*denials[:place], left, *denials[place + 1 :])}
                self.current = replace(self.current, **changes)
                return denial
        return None

    def clear(self) -> None:
        """End every fault."""
        self.current = NO_FAULTS

    def as_json(self) -> dict[str, object]:
        """Give the faults in force, in the words that set them."""
        return {name: to_json(value) for name, value in _changed(self.current)}


def parse_duration(raw: object) -> timedelta:
    """Read a duration: ``"250ms"``, ``"2s"``, ``"5m"``, or a number of seconds."""
    if isinstance(raw, timedelta):
        return raw
    read = _DURATION.fullmatch(str(raw).strip())
    if read is None:
        raise ValueError(f'a duration is such as "250ms", "2s" or a number of seconds, not {raw!r}')
    return timedelta(seconds=float(read[1]) * _SECONDS[read[2]])


def to_json(value: object) -> object:
    """Turn a setting into what JSON can say."""
    match value:
        case timedelta():
            return value.total_seconds()
        case FaultRate():
            shown = {name: part for name, part in asdict(value).items() if part}
            return {**shown, "on": sorted(value.on)} if value.on else shown
        case InjectedError():
            rest = {"created": value.created, "retry_after": value.retry_after}
            dial = to_json(value.rate)
            assert isinstance(dial, dict)  # noqa: S101 - what the case above makes of a Dial
            return {"code": value.code, **dial, **{name: part for name, part in rest.items() if part}}
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
