"""Options that many commands share, and how their values are read."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from receiver.domain.clock import SystemClock
from receiver.domain.errors import InvalidRequest, NotFound, ReceiverError
from receiver.settings.values import read_duration

MAX_LIMIT = 500  # the longest page the API gives

_OPTION_OF_PARAMETER = {"events": "event", "deliveries": "delivery", "tags": "tag"}
_API_PARAMETERS = (
    "after|batch|by|cursor|deliveries|endpoint|events?|from|idempotency_key|label|limit|pace|priority|route"
)
_QUOTED_PARAMETER = re.compile(rf"'({_API_PARAMETERS}|state|status|tags?|task|to|to_route|type|why)'")

_GLOBAL_OPTIONS = Group("Everywhere", sort_key=9)


class UsageError(ReceiverError):
    """An argument that cannot be understood."""

    code = "usage"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """What every command takes."""

    config: Annotated[
        Path | None,
        Parameter(
            group=_GLOBAL_OPTIONS, help="The configuration file, instead of the first one found in the usual places."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions(CommonOptions):
    """What every command takes that has something to tell."""

    json: Annotated[bool, Parameter(group=_GLOBAL_OPTIONS, help="Print JSON instead of a table.")] = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Which part of a list is wanted."""

    limit: Annotated[int, Parameter(help="How many at most, 1 to 500 (default 50).")] = 50
    cursor: Annotated[str | None, Parameter(help="Go on where an earlier list ended.")] = None

    @property
    def size(self) -> int:
        """How many at most, as the API takes it."""
        return check_limit("--limit", self.limit)

    def query(self) -> dict[str, str]:
        """Give the options as the API's query."""
        return {"limit": str(self.size)} | ({"cursor": self.cursor} if self.cursor else {})


COMMON = CommonOptions()
OUTPUT = OutputOptions()
PAGING = Paging()


@contextmanager
def usage_errors() -> Iterator[None]:
    """Tell what the service refuses of a request as wrong usage, by the options that asked for it."""
    try:
        yield
    except InvalidRequest as exc:
        raise UsageError(
            _QUOTED_PARAMETER.sub(lambda found: _option(found[1]), exc.message), remedy=exc.remedy
        ) from exc


@contextmanager
def not_found_hint(command: str) -> Iterator[None]:
    """Say of what is not there which command shows what is."""
    try:
        yield
    except NotFound as exc:
        raise NotFound(exc.message, remedy=exc.remedy or f"Those there are: kling-receiver {command}.") from exc


def check_limit(option: str, number: int) -> int:
    """Check that a list may have so many items."""
    if not 1 <= number <= MAX_LIMIT:
        raise UsageError(f"{option} {number} is out of range.", remedy=f"Give a number from 1 to {MAX_LIMIT}.")
    return number


def _option(member: str) -> str:
    return f"--{_OPTION_OF_PARAMETER.get(member, member).replace('_', '-')}"


def key_values(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read ``key=value`` arguments; the last one of a key counts."""
    read = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {text!r} is not of the form key=value.", remedy=f"Write {option} key=value.")
        read[key] = value
    return read


def parse_time(option: str, text: str, *, days_are_utc: bool = False) -> str:
    """Read a moment: ``2026-11-22 10:00``, in this machine's zone if it names none, or ``2h`` for so long ago.

    A date alone is the beginning of that day: here, or with *days_are_utc* in UTC.
    """
    try:
        at = SystemClock().now() - read_duration(text.strip())
    except ValueError:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError:
            raise UsageError(
                f"{option} {text!r} is no moment.",
                remedy='Write "2026-11-22 10:00", "2026-11-22T10:00:00Z", or "2h" for two hours ago.',
            ) from None
        if days_are_utc and _is_date(text.strip()):
            at = at.replace(tzinfo=UTC)
    return at.astimezone(UTC).isoformat()


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def duration(option: str, text: str) -> timedelta:
    """Read a duration such as ``250ms``, ``5s``, ``10m``, ``24h`` or ``30d``."""
    try:
        return read_duration(text.strip())
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}.") from exc
