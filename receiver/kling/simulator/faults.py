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
class Dial:
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
    def read(cls, given: object) -> "Dial":
        """Read ``0.5``, ``true``, ``"30%"``, ``"next:3"`` or ``{"share" or "next": ..., "on": [...]}``."""
        match given:
            case Dial():
                return given
            case bool() | int() | float():
                return cls(share=float(given))
            case str():
                return cls._of_text(given.strip().lower())
            case Mapping():
                strange = given.keys() - {"share", "next", "on"}
                if strange:
                    raise ValueError(f"share, next and on are known, not {', '.join(sorted(strange))}")
                words = given.get("on", ())
                return cls(
                    share=float(given.get("share", 0)),
                    next=int(given.get("next", 0)),
                    on=frozenset([words] if isinstance(words, str) else words),
                )
            case _:
                raise ValueError(f"how often is a share, a number of times or an object, not {given!r}")

    @classmethod
    def _of_text(cls, text: str) -> "Dial":
        if text in ("on", "true", "always"):
            return cls(share=1.0)
        if text in ("", "off", "false", "never"):
            return cls()
        if text.startswith("next"):
            return cls(next=int(text.removeprefix("next").strip(" :=") or 1))
        if text.endswith("%"):
            return cls(share=float(text[:-1]) / 100)
        return cls(share=float(text))

    def strikes(self, rng: Random, status: str = "") -> bool:
        """Tell whether the fault strikes this time."""
        if self.on and status not in self.on:
            return False
        return self.next > 0 or (self.share > 0 and rng.random() < self.share)

    def spent(self) -> "Dial":
        """Give what is left after it has struck once."""
        return replace(self, next=self.next - 1) if self.next else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """An error answered instead of what was asked for.

    ``code`` is Kling's own (1303), or an HTTP status (502) that something in front of Kling answers with a page of
    HTML. With ``created`` the task is made all the same, as after a 5000 or 5002 it may be.
    """

    code: int
    dial: Dial
    created: bool = False
    retry_after: int | None = None

    @classmethod
    def read(cls, given: object) -> "Denial":
        """Read ``1303`` (once), ``"1303:3"``, ``"1302:20%"`` or an object: code, next, share, created, retry_after."""
        match given:
            case Denial():
                return given
            case int():
                return cls(code=given, dial=Dial(next=1))
            case str():
                code, _, often = given.partition(":")
                dial = Dial(next=int(often or 1)) if often.isdigit() or not often else Dial.read(often)
                return cls(code=int(code), dial=dial)
            case Mapping():
                rest = {name: given[name] for name in given if name not in ("code", "created", "retry_after")}
                after = given.get("retry_after")
                return cls(
                    code=int(given["code"]),
                    dial=Dial.read(rest or {"next": 1}),
                    created=bool(given.get("created", False)),
                    retry_after=None if after is None else int(after),
                )
            case _:
                raise ValueError(f"an error to answer is a code or an object with one, not {given!r}")


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

    drop: Dial = Dial()
    duplicate: Dial = Dial()
    reorder: Dial = Dial()
    delay: Dial = Dial()
    delay_by: timedelta = timedelta(seconds=2)
    forge: Dial = Dial()
    truncate: Dial = Dial()
    wrap: Dial = Dial()
    wrap_code: int | str = 0
    lose: Dial = Dial()
    hang_up: Dial = Dial()
    late: Dial = Dial()
    late_by: timedelta = timedelta(seconds=2)
    after_callback: Dial = Dial()
    refuse: tuple[Denial, ...] = ()
    gateway_ids: Dial = Dial()
    drop_external: Dial = Dial()
    fail: Dial = Dial()
    fail_reason: str = "Image pixel is invalid"
    slow: Dial = Dial()
    stall: Dial = Dial()
    result_missing: Dial = Dial()
    result_late: Dial = Dial()
    result_late_by: timedelta = timedelta(0)
    refuse_queries: tuple[Denial, ...] = ()
    listed: Dial = Dial()
    fresh_urls: Dial = Dial()

    @classmethod
    def read(cls, given: Mapping[str, object], base: "Faults | None" = None) -> "Faults":
        """Read faults by name, over those of *base*; a name or a value that means nothing is a ValueError."""
        changes: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _READERS:
                raise ValueError(f"no fault is called {name}; there are {', '.join(_READERS)}")
            try:
                changes[name] = _READERS[name](value)
            except (TypeError, KeyError, ValueError) as exc:
                raise ValueError(f"{name}: {exc}") from exc
        return replace(base or QUIET, **changes)


QUIET = Faults()


class FaultBoard:
    """The faults as they stand just now; one that was set for the next so many counts down here."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def strikes(self, name: str, rng: Random, status: str = "") -> bool:
        """Tell whether the fault of that name strikes this time, and count it."""
        dial: Dial = getattr(self.faults, name)
        if not dial.strikes(rng, status):
            return False
        changes: dict[str, Any] = {name: dial.spent()}
        self.faults = replace(self.faults, **changes)
        return True

    def denial(self, name: str, rng: Random) -> Denial | None:
        """Find the first error of *name* that is to be answered this time, and count it."""
        denials: tuple[Denial, ...] = getattr(self.faults, name)
        for place, denial in enumerate(denials):
            if denial.dial.strikes(rng):
                left = replace(denial, dial=denial.dial.spent())
                changes: dict[str, Any] = {name: (*denials[:place], left, *denials[place + 1 :])}
                self.faults = replace(self.faults, **changes)
                return denial
        return None

    def clear(self) -> None:
        """End every fault."""
        self.faults = QUIET

    def shown(self) -> dict[str, object]:
        """Give the faults in force, in the words that set them."""
        return {name: plain(value) for name, value in _changed(self.faults)}


def duration(given: object) -> timedelta:
    """Read a duration: ``"250ms"``, ``"2s"``, ``"5m"``, or a number of seconds."""
    if isinstance(given, timedelta):
        return given
    read = _DURATION.fullmatch(str(given).strip())
    if read is None:
        raise ValueError(f'a duration is such as "250ms", "2s" or a number of seconds, not {given!r}')
    return timedelta(seconds=float(read[1]) * _SECONDS[read[2]])


def plain(value: object) -> object:
    """Turn a setting into what JSON can say."""
    match value:
        case timedelta():
            return value.total_seconds()
        case Dial():
            shown = {name: part for name, part in asdict(value).items() if part}
            return {**shown, "on": sorted(value.on)} if value.on else shown
        case Denial():
            rest = {"created": value.created, "retry_after": value.retry_after}
            dial = plain(value.dial)
            assert isinstance(dial, dict)  # noqa: S101 - what the case above makes of a Dial
            return {"code": value.code, **dial, **{name: part for name, part in rest.items() if part}}
        case tuple():
            return [plain(part) for part in value]
        case _:
            return value


def _changed(faults: Faults) -> list[tuple[str, object]]:
    current = ((field.name, getattr(faults, field.name)) for field in fields(faults))
    return [(name, value) for name, value in current if value != getattr(QUIET, name)]


def _denials(given: object) -> tuple[Denial, ...]:
    if isinstance(given, str):
        return tuple(Denial.read(part.strip()) for part in given.split(",") if part.strip())
    return tuple(Denial.read(part) for part in given) if isinstance(given, list | tuple) else (Denial.read(given),)


_BY_TYPE: dict[type, Callable[[object], object]] = {
    Dial: Dial.read,
    tuple: _denials,
    timedelta: duration,
    str: str,
    int: lambda given: int(str(given)) if str(given).isdigit() else str(given),
}
_READERS = {field.name: _BY_TYPE[type(field.default)] for field in fields(Faults)}
