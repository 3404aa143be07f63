"""How the console writes times, durations, amounts and sizes. The templates use them as filters."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from markupsafe import Markup, escape

from receiver.domain.clock import iso

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_MILLISECOND = 0.001
_KIBI = 1024


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago a time was, or how long until it, in the largest unit."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{span(abs(seconds))} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Return a number of seconds in one unit: ``45 s``, ``3 min``, ``2 h``, ``5 d``."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= unit:
            return (
                f"{seconds / unit:.0f} {name}"
                if seconds >= 10 * unit
                else f"{seconds / unit:.1f}".removesuffix(".0") + f" {name}"
            )
    return f"{seconds:.0f} s"


def duration(value: timedelta) -> str:
    """Return a duration with the precision that its size deserves: ``12 ms``, ``1.52 s``, ``3 min 4 s``."""
    seconds = value.total_seconds()
    if seconds < _MILLISECOND:
        return "< 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(at: datetime) -> str:
    """Return a time to the second, in UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def clock_time(at: datetime) -> str:
    """Return the time of day to the millisecond, in UTC."""
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"


def count(number: int) -> str:
    """Return a number with separated thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def size(number: int) -> str:
    """Return a number of bytes in the largest unit."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _KIBI:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"  # noqa: PLR2004 -- three digits
        value /= _KIBI
    return f"{value:.1f} TiB"


def short_id(text: str) -> str:
    """Return the last characters of an id, which tell it apart from its neighbours."""
    prefix, _, rest = text.rpartition("_")
    return f"{prefix}_…{rest[-6:]}" if prefix and len(rest) > 8 else text  # noqa: PLR2004 -- shorter ones stay whole


def pretty_json(value: object) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


_KINDS = {
    "good": ("succeed", "delivered", "finished", "done", "accepted", "ok", "applied", "ready"),
    "bad": ("failed", "dead", "rejected", "held", "refused", "forged", "mismatch", "error"),
    "warn": ("expired", "cancelled", "stale", "unrecognized", "open"),
    "busy": ("submitting", "submitted", "processing", "running", "pending", "queued", "awaiting", "closed"),
}
_KIND_OF = {state: kind for kind, states in _KINDS.items() for state in states}


def read_iso(text: str) -> datetime:
    """Return the time that the API wrote."""
    return datetime.fromisoformat(text)


def amount(value: Decimal) -> str:
    """Return an exact amount without superfluous zeros."""
    return format(value.normalize(), "f")


def nonzero(charges: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    """Return the amounts that are not zero."""
    return {unit: value for unit, value in charges.items() if value}


def commands(text: str) -> Markup:
    """Return a sentence whose commands, which are in backticks, are marked as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)  # a backtick without its other half
    return Markup("").join(Markup("<code>{}</code>").format(each) if at % 2 else each for at, each in enumerate(parts))


def kind(state: object) -> str:
    """Return the class of a state's colour: good, bad, warn, busy, or empty."""
    return _KIND_OF.get(str(state), "")


FILTERS: Mapping[str, Callable[..., object]] = {
    "amount": amount,
    "clock_time": clock_time,
    "commands": commands,
    "count": count,
    "duration": duration,
    "iso": iso,
    "kind": kind,
    "moment": moment,
    "nonzero": nonzero,
    "pretty_json": pretty_json,
    "read_iso": read_iso,
    "short_id": short_id,
    "size": size,
    "span": span,
}
