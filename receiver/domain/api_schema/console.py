"""What the admin API says about the console."""

from dataclasses import dataclass

from receiver.domain.api_schema.json_object import JsonObject, Timestamp


@dataclass(frozen=True, kw_only=True)
class ConsoleLink(JsonObject):
    """A link that logs a browser in to the console, once."""

    path: str
    """Its path on this listener. Only this response contains it."""
    expires_at: Timestamp
