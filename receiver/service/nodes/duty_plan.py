"""Which duties a node takes, and which it hands over. Pure: what the store knows is an argument.

A lease that ended without being given back is seen twice before it is taken, and not by a node that has just been cut
off from the database itself. So its owner, which may have been cut off too, is the first that can renew it.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from receiver.domain.duties import MAX_FENCE_AGE, Duty
from receiver.store.interfaces.nodes import Lease, NodesView

HAND_OVER_INTERVAL = 30.0
"""Seconds between two duties that a node hands over."""

_HAND_OVER_ORDER = (Duty.DELIVERING, Duty.ARCHIVING, Duty.HOUSEKEEPING, Duty.KLING)


class LeaseTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long a lease lasts, how often it is renewed, and how much earlier its holder stops by itself.

    A free duty is taken after three renewals at the latest, so a node that dies is replaced within
    ``lifetime + 3 * interval``. Between the end of its own work and the start of its successor's lies ``margin``.
    Nodes look every ``look`` whether the session of the node that sends has ended. If so, they do not wait for the end
    of its lease.
    """

    lifetime: timedelta = timedelta(seconds=5)
    interval: timedelta = timedelta(seconds=1.25)
    margin: timedelta = timedelta(seconds=1)
    look: timedelta = timedelta(seconds=0.4)

    @property
    def tenure(self) -> float:
        """How many seconds a holder relies on a lease, from the moment before it asked for it."""
        return (self.lifetime - self.margin).total_seconds()

    @property
    def overlap(self) -> float:
        """How many seconds after an early takeover Kling may still receive a create of the earlier holder."""
        return MAX_FENCE_AGE + self.margin.total_seconds()


class DutyPlan(msgspec.Struct):
    """Plans the next steps of the process called *instance*."""

    instance: str
    timing: LeaseTiming
    _sightings: dict[tuple[Duty, int], int] = msgspec.field(default_factory=dict)
    _handed_over_at: float = float("-inf")

    def to_take(self, view: NodesView, *, may_replace: bool = True) -> Sequence[Lease]:
        """Return the ended leases to take now; without *may_replace* only those that were given back.

        The node with the fewest duties is the first to take one; the others give it time for that.
        """
        counts = self._counts(view)
        seen: dict[tuple[Duty, int], int] = {}
        chosen = []
        for lease in view.leases:
            if not lease.has_ended or (lease.instance is not None and not may_replace):
                continue
            key = (lease.duty, lease.epoch)
            seen[key] = self._sightings.get(key, 0) + 1
            needed = 1 + (lease.instance is not None) + (counts[self.instance] > min(counts.values()))
            if seen[key] >= needed:
                chosen.append(lease)
                counts[self.instance] += 1
        self._sightings = seen
        return chosen

    def to_hand_over(self, view: NodesView, *, now: float) -> Duty | None:
        """Return the duty to hand over, because another node has at least two fewer, or None. *now* is monotonic."""
        counts = self._counts(view)
        if any(lease.has_ended for lease in view.leases) or now - self._handed_over_at < HAND_OVER_INTERVAL:
            return None
        if counts[self.instance] - min(counts.values()) < 2:  # noqa: PLR2004 -- one fewer is as even as it gets
            return None
        self._handed_over_at = now
        own = {lease.duty for lease in view.leases if lease.instance == self.instance}
        return next(duty for duty in _HAND_OVER_ORDER if duty in own)

    def _counts(self, view: NodesView) -> Counter[str]:
        """Return the number of duties of each live process."""
        live = [node.instance for node in view.nodes if node.silence < self.timing.lifetime]
        counts = Counter(dict.fromkeys([*live, self.instance], 0))
        for lease in view.leases:
            if lease.instance is not None and lease.instance in counts and not lease.has_ended:
                counts[lease.instance] += 1
        return counts
