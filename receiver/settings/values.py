"""Parses single values of the configuration, and writes them back.

Every reader accepts any TOML value, returns an already parsed value unchanged, and raises InvalidValue with a sentence
that says what to write instead. URLs are never quoted, because they may contain secrets.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import msgspec

from receiver.domain.control_characters import is_surrogate

Choice = TypeVar("Choice")

MAX_DURATION = timedelta(days=3650)

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_DURATION = re.compile(r"(?:[0-9]{1,15}(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_MALFORMED_SIZE = re.compile(r"([0-9]{1,15}) ?([kmg])i?b?", re.IGNORECASE)
_TIME_OF_DAY = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d")
_RATE = re.compile(r"([0-9]{1,6})/((?:[0-9]{1,6})?(?:ms|s|m|h|d))")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")
_WHOLE = 100
_MIN_WRITTEN_IN_DAYS = timedelta(days=7)
_MAX_SUGGESTED_SECONDS = 10**9
_MAX_QUOTED = 60


class InvalidValue(ValueError):
    """An invalid value. ``at`` is the path from the value to its invalid part."""

    def __init__(self, message: str, *, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.at = at


class InvalidValues(ValueError):
    """Several invalid parts of one value, each with its ``at``, so that all are reported at once."""

    def __init__(self, parts: Sequence[InvalidValue]) -> None:
        super().__init__("; ".join(str(part) for part in parts))
        self.parts = tuple(parts)


class Size(int):
    """A number of bytes, written with a unit: ``64KiB``."""

    __slots__ = ()

    def __str__(self) -> str:
        for unit, weight in _SIZES.items():
            if self and self % weight == 0:
                return f"{int(self) // weight}{unit}"
        return f"{int(self)}B"


class Share(float):
    """A share from 0 to 1, written as a percentage: ``10%``."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self * _WHOLE:g}%"


class Rate(msgspec.Struct, frozen=True):
    """At most ``count`` operations per period ``per``."""

    count: int
    per: timedelta

    def __str__(self) -> str:
        per = write_duration(self.per)
        return f"{self.count}/{per[1:] if re.fullmatch('1[a-z]+', per) else per}"


def closest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar known word, or None."""
    from difflib import get_close_matches  # noqa: PLC0415 -- only needed for an error

    known = {each.lower(): each for each in words}
    found = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown *word*: a suggestion, or all known words."""
    known = list(words)
    near = closest(word, known)
    return f'did you mean "{near}"?' if near else "expected: " + ", ".join(f'"{each}"' for each in known)


def read_text(raw: object) -> str:
    """Parse any text."""
    if not isinstance(raw, str):
        raise InvalidValue(f"must be text in quotes, not {type_name(raw)}")
    if any(map(is_surrogate, raw)):  # from a variable: TOML allows none
        raise InvalidValue("is not UTF-8 text")
    return raw


def read_bool(raw: object) -> bool:
    """Parse true or false."""
    if not isinstance(raw, bool):
        raise InvalidValue(f"must be true or false, without quotes, not {type_name(raw)}")
    return raw


def read_int(raw: object, *, least: int, most: int) -> int:
    """Parse an integer within bounds."""
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise InvalidValue(f"must be a whole number without quotes, not {type_name(raw)}")
    if not least <= raw <= most:
        raise InvalidValue(f"must be {least} to {most}")
    return raw


def read_duration(raw: object, *, least: timedelta = _UNITS["ms"], most: timedelta = MAX_DURATION) -> timedelta:
    """Parse a duration: ``"250ms" "5s" "10m" "24h" "30d"``, or a combination such as ``"1h30m"``."""
    if isinstance(raw, timedelta):
        length = raw
    elif isinstance(raw, int) and not isinstance(raw, bool):
        raise InvalidValue(
            "has no unit; write it like " + (f'"{raw}s"' if 0 <= raw <= _MAX_SUGGESTED_SECONDS else '"30s"')
        )
    elif not isinstance(raw, str):
        raise InvalidValue(f'must be a duration in quotes, such as "30s", not {type_name(raw)}')
    elif not _DURATION.fullmatch(raw):
        raise InvalidValue(f'{quoted(raw)} is not a duration; write it like "250ms", "5s", "10m", "24h" or "30d"')
    else:
        length = _sum_parts(raw, most)
    if not least <= length <= most:
        raise InvalidValue(f'must be "{write_duration(least)}" to "{write_duration(most)}"')
    return length


def read_optional_duration(raw: object) -> timedelta | None:
    """Parse a duration like :func:`read_duration`; None for ``""`` and zero."""
    if raw is None or (isinstance(raw, str) and re.fullmatch(r"(?:0+(?:ms|[smhd])?)?", raw)):
        return None
    return read_duration(raw)


def _sum_parts(text: str, most: timedelta) -> timedelta:
    try:
        return sum((int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)), timedelta())
    except OverflowError:
        raise InvalidValue(f'must be at most "{write_duration(most)}"') from None


def write_duration(length: timedelta) -> str:
    """Return a duration as the file would write it, such as ``30s``. Days are used from a week on: ``48h`` stays."""
    for unit, weight in _UNITS.items():
        if unit == "d" and length < _MIN_WRITTEN_IN_DAYS:
            continue
        if length and length % weight == timedelta():
            return f"{length // weight}{unit}"
    return f"{length / _UNITS['ms']:g}ms" if length else "0s"


def read_size(raw: object, *, least: int, most: int) -> Size:
    """Parse a size such as ``"64KiB"`` or ``"1MiB"``, or a number of bytes."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        size = Size(raw)
    elif not isinstance(raw, str):
        raise InvalidValue(f'must be a size in quotes, such as "1MiB", not {type_name(raw)}')
    elif match := _SIZE.fullmatch(raw):
        size = Size(int(match[1]) * _SIZES[match[2]])
    elif match := _MALFORMED_SIZE.fullmatch(raw):
        raise InvalidValue(f'{quoted(raw)} is not a size; write "{match[1]}{match[2].upper()}iB"')
    else:
        raise InvalidValue(f'{quoted(raw)} is not a size; write it like "512B", "64KiB" or "1MiB"')
    if not least <= size <= most:
        raise InvalidValue(f'must be "{Size(least)}" to "{Size(most)}"')
    return size


def read_share(raw: object) -> Share | None:
    """Parse a percentage such as ``"10%"`` into a share from 0 to 1; None if empty."""
    if isinstance(raw, Share):
        return raw
    if raw is None or raw == "":
        return None
    match = _PERCENT.fullmatch(raw) if isinstance(raw, str) else None
    if not match or float(match[1]) > _WHOLE:
        raise InvalidValue('must be a percentage from 0% to 100%, such as "10%"; empty for none')
    return Share(float(match[1]) / _WHOLE)


def read_rate(raw: object) -> Rate | None:
    """Parse a rate such as ``"10/s"``, ``"100/m"`` or ``"5/10s"``; None, for no limit, if empty."""
    if isinstance(raw, Rate):
        return raw
    if raw is None or raw == "":
        return None
    match = _RATE.fullmatch(raw) if isinstance(raw, str) else None
    if not match:
        raise InvalidValue('must be a rate such as "10/s", "100/m" or "5/10s"; empty for no limit')
    span = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    count = read_int(int(match[1]), least=1, most=100_000)
    return Rate(count, read_duration(span, most=_UNITS["d"]))


def read_choice(raw: object, *, choices: Mapping[str, Choice]) -> Choice:
    """Return the value of one of the *choices*."""
    text = read_text(raw)
    if text not in choices:
        raise InvalidValue(f"{quoted(text)} is not a valid choice; {did_you_mean(text, choices)}")
    return choices[text]


def read_time_of_day(raw: object) -> str:
    """Parse a local time of day such as ``"08:00"``; an empty string stays empty."""
    text = read_text(raw)
    if text and not _TIME_OF_DAY.fullmatch(text):
        raise InvalidValue(f'{quoted(text)} is not a time of day; write it like "08:00" or "17:30"')
    return text


def as_list(raw: object) -> object:
    """Return a list; one text becomes a list of one."""
    if isinstance(raw, str):
        return [raw]
    if not isinstance(raw, list | tuple | set | frozenset):
        raise InvalidValue(f'must be a list, such as ["..."], not {type_name(raw)}')
    return list(raw)


def quoted(text: str) -> str:
    """Return a value in quotes for a message, truncated."""
    return f'"{printable(text[:_MAX_QUOTED])}..."' if len(text) > _MAX_QUOTED else f'"{printable(text)}"'


def printable(text: str) -> str:
    """Return a text on one line, with ``?`` for unprintable characters."""
    return "".join(each if each.isprintable() else "?" for each in text)


def type_name(raw: object) -> str:
    """Return the name of a value's type, for an error message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", dict: "a table", list: "a list"}
    return names.get(type(raw), "a date or a time" if hasattr(raw, "isoformat") else "nothing")
