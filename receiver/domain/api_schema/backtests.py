"""What a route would do with stored events."""

from collections.abc import Sequence

from receiver.domain.api_schema.json_object import JsonObject, Timestamp, definition


@definition
class BacktestItem(JsonObject):
    """What a route would do with a stored event."""

    event_id: str
    type: str
    created_at: Timestamp
    wanted: bool
    reason: str
    problem: str
    """Why the destination would get nothing although the route wants the event; else empty."""
    body: str
    """The start of what the destination would get; empty if the route does not want the event."""


@definition
class Backtest(JsonObject):
    """What a route would do with stored events, newest first."""

    route: str
    wanted: int
    """Number of events that the route wants."""
    items: Sequence[BacktestItem]
