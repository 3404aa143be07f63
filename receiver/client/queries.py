"""The query parameters and path segments of requests."""

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from receiver.domain.errors import InvalidRequest


def query(**values: str | Sequence[str] | None) -> dict[str, str | Sequence[str]]:
    """Return the parameters that have a value."""
    return {name: value for name, value in values.items() if value}


def span(since: datetime | None, until: datetime | None) -> dict[str, str]:
    """Return the parameters of a span of time. A time without a zone is local."""
    bounds = {"from": since, "to": until}
    return {name: _utc(at).isoformat() for name, at in bounds.items() if at is not None}


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except (OverflowError, ValueError) as exc:  # the first and the last hours that a zone has may not exist in UTC
        raise InvalidRequest(f"The time {at.isoformat()} does not exist in UTC.", remedy="Use another one.") from exc


def quoted(ref: str) -> str:
    """Return an ID as one segment of a path."""
    return quote(ref, safe="")
