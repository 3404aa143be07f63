"""The duties of a service of one or more nodes. Exactly one node does a duty at a time. Pure.

Limits hold for the service as a whole because one node decides: a route's order, rate and hold in ``delivering``, and
the account's slots, queue and issues in ``kling``.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec


class Duty(StrEnum):
    """A part of the background work."""

    KLING = "kling"  # submits queued tasks, looks up lost creates, polls
    DELIVERING = "delivering"  # attempts deliveries, carries replays out
    ARCHIVING = "archiving"  # downloads results
    HOUSEKEEPING = "housekeeping"  # batches, bill, alerts, reports, heartbeat, retention, removals


MAX_FENCE_AGE = 1.0
"""Seconds after which a process must show again that a lease is its own, before it acts on another system."""


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """A fencing token: the number of a lease, and the process that holds it.

    A write with a fence happens only if the lease is still that one, regardless of all clocks. ``made_at`` is when the
    process made it, before that write, on its monotonic clock.
    """

    duty: Duty
    instance: str
    epoch: int
    made_at: float


class Tenure:
    """Whether this node holds a duty at this moment: its lease has not ended by this node's monotonic clock.

    Ask at the last moment before an effect on another system. A process that was stopped for a minute may have lost
    the duty to another node without a chance to notice.

    ``overlaps_until`` is until when an effect of the earlier holder may still begin, on the monotonic clock.
    """

    def __init__(self, monotonic: Callable[[], float] | None = None) -> None:
        """Without *monotonic* the duty is held always, because this is the only process."""
        self._monotonic = monotonic
        self._until = self.overlaps_until = float("-inf")
        self._lease: tuple[Duty, str, int] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this node holds the duty now."""
        return self._monotonic is None or self._monotonic() < self._until

    @property
    def until(self) -> float:
        """When the tenure ends on the monotonic clock, unless it is extended."""
        return self._until

    def fence(self) -> Fence | None:
        """Return the fence of the present lease; None for the only process. Make it before reading what decides."""
        if self._monotonic is None or self._lease is None:
            return None
        duty, instance, epoch = self._lease
        return Fence(duty=duty, instance=instance, epoch=epoch, made_at=self._monotonic())

    def begin(self, duty: Duty, instance: str, epoch: int) -> None:
        """Set the lease of the tenure."""
        self._lease = (duty, instance, epoch)

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
