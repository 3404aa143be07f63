"""Options that several commands share, and the parsing of their values."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Group, Parameter

from receiver.cli.value_kinds import (
    BATCH,
    CURSOR,
    DELIVERY_ID,
    DURATION,
    EVENT_ID,
    FILE,
    KEY_VALUE,
    LABEL,
    NUMBER,
    PROFILE,
    REPLAY_ID,
    ROUTE,
    TASK_ID,
    TEXT,
    TIME,
    TOKEN,
    URL,
)
from receiver.domain.errors import InvalidRequest, NotFound, ReceiverError
from receiver.settings.config_file import FILE_NAME, find, skipped_file_warning
from receiver.settings.values import read_duration

if TYPE_CHECKING:
    from receiver.client import Client, SyncClient
    from receiver.settings.dialect import Dialect

MAX_LIMIT = 500  # the API's maximum page size

_OPTION_OF_PARAMETER = {"events": "event", "deliveries": "delivery", "tags": "tag"}
_API_PARAMETERS = (
    "after|batch|by|cursor|deliveries|endpoint|events?|from|idempotency_key|label|limit|pace|priority|reply|route"
)
_QUOTED_PARAMETER = re.compile(
    rf"(?<!found )'({_API_PARAMETERS}|note|state|status|subject|tags?|task|to|to_route|type|why)'"
)

GLOBAL_OPTIONS = Group("Global options", sort_key=9)


class UsageError(ReceiverError):
    """An argument is invalid."""

    code = "usage"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options of every command."""

    config: Annotated[
        Path | None,
        FILE,
        Parameter(
            group=GLOBAL_OPTIONS, help="Configuration file (default: the first one found in the standard places)."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OutputOptions(CommonOptions):
    """Options of every command that prints data."""

    json: Annotated[bool, Parameter(group=GLOBAL_OPTIONS, help="Print JSON instead of a table.")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClientOptions(OutputOptions):
    """Options of every command that talks to the running service, here or on another machine."""

    url: Annotated[
        str | None,
        URL,
        Parameter(group=GLOBAL_OPTIONS, help="URL of the admin listener (default: KLING_RECEIVER_URL)."),
    ] = None
    token: Annotated[
        str | None,
        TOKEN,
        Parameter(
            group=GLOBAL_OPTIONS,
            help="Admin token, or a reference: env:NAME, file:PATH (default: KLING_RECEIVER_TOKEN).",
        ),
    ] = None

    profile: Annotated[
        str | None,
        PROFILE,
        Parameter(group=GLOBAL_OPTIONS, help="Service by its name in profiles.toml (default: KLING_RECEIVER_PROFILE)."),
    ] = None

    def connect(self, *, outage_tolerance: timedelta = timedelta(minutes=1)) -> "SyncClient":
        """Return a client of the service. Says which configuration file was skipped, if it was."""
        from receiver.client import SyncClient

        client = SyncClient(
            *self._address(), config=self.config, profile=self.profile, outage_tolerance=outage_tolerance
        )
        self._say_what_was_skipped()
        return client

    def connect_async(self, *, outage_tolerance: timedelta = timedelta(minutes=1)) -> "Client":
        """Return an asyncio client of the service."""
        from receiver.client import Client

        return Client(*self._address(), config=self.config, profile=self.profile, outage_tolerance=outage_tolerance)

    def dialect(self) -> "Dialect":
        """Return the dialect of the service's Kling: of the profile, else of the configuration."""
        from receiver.settings.client import load_client
        from receiver.settings.profiles import PROFILE_VARIABLE, find_profile

        named = self.profile or ("" if self.config else os.environ.get(PROFILE_VARIABLE, ""))
        return find_profile(named, os.environ).dialect if named else load_client(self.config).dialect

    def _say_what_was_skipped(self) -> None:
        if self.url is not None or self.profile is not None or not Path(FILE_NAME).exists():
            return
        from receiver.cli import render

        found = find(self.config, os.environ, Path.cwd())
        if warning := skipped_file_warning(found, self.config, os.environ, Path.cwd()):
            render.notice(warning)

    def _address(self) -> tuple[str | None, str | None]:
        """Return the URL and the token of the options, if given. Raises UsageError."""
        if self.profile is not None and self.config is not None:
            raise UsageError("--profile and --config name two services.", remedy="Give only one of them.")
        if self.url is not None and not self.url.lower().startswith(("http://", "https://")):
            raise UsageError(f"--url {self.url!r} is not a URL.", remedy="Write --url https://tasks.example.com.")
        if self.token is None:
            return self.url, None
        from receiver.settings.secrets import LoadContext, resolve

        try:
            return self.url, resolve(self.token, LoadContext(environ=os.environ, folder=Path.cwd()))
        except ValueError as exc:
            raise UsageError(f"--token: {exc}.") from exc


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Paging:
    """Options for one page of a list."""

    limit: Annotated[int, NUMBER, Parameter(help="Maximum number of items, 1 to 500 (default: 50).")] = 50
    cursor: Annotated[str | None, CURSOR, Parameter(help="Cursor of the next page, from the end of a list.")] = None

    @property
    def size(self) -> int:
        """The maximum number of items, checked against the API's range."""
        return check_limit("--limit", self.limit)

    def query(self) -> dict[str, str]:
        """Return the options as the API's query parameters."""
        return {"limit": str(self.size)} | ({"cursor": self.cursor} if self.cursor else {})


SpanStart: TypeAlias = Annotated[
    str | None,
    TIME,
    Parameter(name=("--from", "--since"), help='Created at or after: "2026-11-22 10:00", or "2h" for two hours ago.'),
]
SpanEnd: TypeAlias = Annotated[
    str | None, TIME, Parameter(name=("--to", "--until"), help="Created before, written as for --from.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Span:
    """Options for a list of what was created in a span of time."""

    from_: SpanStart = None
    to: SpanEnd = None

    @property
    def since(self) -> datetime | None:
        """The start. Raises UsageError for a span without time in it."""
        start, end = self._parse("--from", self.from_), self.until
        if start and end and start >= end:
            raise UsageError("--from must be before --to.", remedy="2h means two hours ago, which is before 1h.")
        return start

    @property
    def until(self) -> datetime | None:
        """The end, which is excluded."""
        return self._parse("--to", self.to)

    @staticmethod
    def _parse(option: str, text: str | None) -> datetime | None:
        return datetime.fromisoformat(parse_time(option, text)) if text else None


BatchFilter: TypeAlias = Annotated[str | None, BATCH, Parameter(help="Only tasks of this batch.")]
BatchName: TypeAlias = Annotated[str, BATCH, Parameter(help="Name of the batch.")]
DeliveryId: TypeAlias = Annotated[str, DELIVERY_ID, Parameter(help="ID of the delivery.")]
EventId: TypeAlias = Annotated[str, EVENT_ID, Parameter(help="ID of the event.")]
Label: TypeAlias = Annotated[str | None, LABEL, Parameter(help="Label of the task, for your own use.")]
Reason: TypeAlias = Annotated[str, TEXT, Parameter(help="Reason, for the audit log.")]
ReplayId: TypeAlias = Annotated[str, REPLAY_ID, Parameter(name="REPLAY", help="ID of the replay.")]
RouteName: TypeAlias = Annotated[str, ROUTE, Parameter(help="Name of the route.")]
TagFilter: TypeAlias = Annotated[
    list[str] | None, KEY_VALUE, Parameter(help="Only tasks with this tag, key=value. May be repeated.")
]
Tags: TypeAlias = Annotated[
    list[str] | None, KEY_VALUE, Parameter(help="Tag for routes to match, key=value. May be repeated.")
]
TaskRef: TypeAlias = Annotated[
    str, TASK_ID, Parameter(help="ID of the task: the receiver's, Kling's or the external one.")
]
Timeout: TypeAlias = Annotated[str | None, DURATION, Parameter(help="Maximum time to wait: 90s, 10m, 2h.")]

COMMON = CommonOptions()
OUTPUT = OutputOptions()
CLIENT = ClientOptions()
PAGING = Paging()
SPAN = Span()


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the service's InvalidRequest into a UsageError that names options instead of parameters."""
    try:
        yield
    except InvalidRequest as exc:
        raise UsageError(
            _QUOTED_PARAMETER.sub(lambda match: _option(match[1]), exc.message), remedy=exc.remedy
        ) from exc


@contextmanager
def not_found_hint(command: str) -> Iterator[None]:
    """Add to a NotFound error the command that lists what exists."""
    try:
        yield
    except NotFound as exc:
        if exc.remedy or f"`kling-receiver {command}`" in exc.message:  # the service's answer names it already
            raise
        raise NotFound(exc.message, remedy=f"To list them: `kling-receiver {command}`.") from exc


def check_limit(option: str, number: int) -> int:
    """Return the number of list items if it is in range. Raises UsageError."""
    if not 1 <= number <= MAX_LIMIT:
        raise UsageError(f"{option} {number} is out of range.", remedy=f"Give a number from 1 to {MAX_LIMIT}.")
    return number


def _option(member: str) -> str:
    return f"--{_OPTION_OF_PARAMETER.get(member, member).replace('_', '-')}"


def key_values(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Parse ``key=value`` arguments; the last value of a key counts."""
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {text!r} is not of the form key=value.", remedy=f"Write {option} key=value.")
        values[key] = value
    return values


def parse_time(option: str, text: str, *, days_are_utc: bool = False) -> str:
    """Parse a time such as ``2026-11-22 10:00`` (local unless it has a zone), or ``2h`` for two hours ago.

    A date alone means the start of that day: in local time, or with *days_are_utc* in UTC.
    """
    from receiver.domain.clock import SystemClock

    try:
        at = SystemClock().now() - read_duration(text.strip())
    except ValueError:
        try:
            at = datetime.fromisoformat(text.strip())
            if days_are_utc and _is_date(text.strip()):
                at = at.replace(tzinfo=UTC)
            at = at.astimezone(UTC)  # the first and the last hours that a zone has may not exist in UTC
        except (ValueError, OverflowError):
            raise UsageError(
                f"{option} {text!r} is not a time.",
                remedy='Write "2026-11-22 10:00", "2026-11-22T10:00:00Z", or "2h" for two hours ago.',
            ) from None
    return at.isoformat()


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def duration(option: str, text: str) -> timedelta:
    """Parse a duration such as ``250ms``, ``5s``, ``10m``, ``24h`` or ``30d``."""
    try:
        return read_duration(text.strip())
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}.") from exc
