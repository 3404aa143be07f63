"""How others look on: one call for each thing that happens."""

from typing import Protocol


class Observer(Protocol):
    """Is told what happened, as ``noun.past_participle`` and fields; ``structlog.get_logger().info`` is one."""

    def __call__(self, event: str, /, **fields: object) -> object:
        """Take notice of one thing that happened."""
        ...


def ignore(event: str, /, **fields: object) -> None:
    """Take no notice."""
