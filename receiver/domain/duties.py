"""The duties of a service of one or more nodes. Exactly one node does a duty at a time. Pure.

Limits hold for the service as a whole because one node decides: a route's order, rate and hold in ``delivering``, and
the account's slots, queue and issues in ``kling``.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType


class Duty(StrEnum):
    """A part of the background work."""

    KLING = "kling"  # submits queued tasks, looks up lost creates, polls
    DELIVERING = "delivering"  # attempts deliveries, carries replays out
    ARCHIVING = "archiving"  # downloads results
    HOUSEKEEPING = "housekeeping"  # batches, bill, alerts, reports, heartbeat, retention, removals


class Tenure:
    """Whether this node holds a duty at this moment: its lease has not ended by this node's monotonic clock.

    Ask at the last moment before an effect on another system. A process that was stopped for a minute may have lost
    the duty to another node without a chance to notice.
    """

    def __init__(self, monotonic: Callable[[], float] | None = None) -> None:
        """Without *monotonic* the duty is held always, because this is the only process."""
        self._monotonic = monotonic
        self._until = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this node holds the duty now."""
        return self._monotonic is None or self._monotonic() < self._until

    @property
    def until(self) -> float:
        """When the tenure ends on the monotonic clock, unless it is extended."""
        return self._until

    def extend(self, until: float) -> None:
        """Set the end of the tenure."""
        self._until = until

    def end(self) -> None:
        """End the tenure now."""
        self._until = float("-inf")


ALWAYS = Tenure()
"""The tenure of the only process."""

Tenures = Mapping[Duty, Tenure]
ALWAYS_HELD: Tenures = MappingProxyType(dict.fromkeys(Duty, ALWAYS))
"""The tenures of the only process."""
