"""What the admin API says about the console."""

from receiver.domain.api_schema.json_object import JsonObject, Timestamp, definition


@definition
class ConsoleLink(JsonObject):
    """A link that logs a browser in to the console, once."""

    path: str
    """Its path on this listener. Only this response contains it."""
    expires_at: Timestamp
