"""The observer of a simulator: one call per event."""

from typing import Protocol


class Observer(Protocol):
    """Receives each event as ``noun.past_participle`` with fields, such as ``structlog.get_logger().info``."""

    def __call__(self, event: str, /, **fields: object) -> object:
        """Observe one event."""
        ...


def ignore(event: str, /, **fields: object) -> None:
    """Ignore the event."""
