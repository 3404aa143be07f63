"""Fenced writes: they happen only if a lease on a duty is still the one that the writer knows.

The transaction locks the row of the lease until its commit. Who takes the duty increases the number of the lease and
waits for that lock, so it sees every write with an earlier number, and none follows. Renewals do not wait.
"""

from collections.abc import Sequence
from typing import Protocol

from receiver.domain.duties import Fence
from receiver.domain.errors import DutyLost
from receiver.store.postgres.database import Connection
from receiver.store.postgres.queries import fetch_row

LeaseKey = tuple[str, str, int]


class FencedCall(Protocol):
    """A write that may have a fence."""

    @property
    def fence(self) -> Fence | None:
        """The lease that the write needs."""
        ...


async def lost_leases(connection: Connection, calls: Sequence[FencedCall]) -> frozenset[LeaseKey]:
    """Lock the leases that a group of writes needs. Return those that are no longer what the writers know."""
    lost = set()
    for key in {_key(call.fence) for call in calls if call.fence is not None}:
        duty, instance, epoch = key
        arguments = {"duty": duty, "instance": instance, "epoch": epoch}
        if await fetch_row(connection, "lock_lease", arguments) is None:
            lost.add(key)
    return frozenset(lost)


def check_fence(fence: Fence | None, lost: frozenset[LeaseKey]) -> None:
    """Raise DutyLost if the lease of a fence is among the *lost* ones."""
    if fence is not None and _key(fence) in lost:
        raise DutyLost(f"Another node does the duty {fence.duty.value!r} now.", remedy="Send it again.")


def _key(fence: Fence) -> LeaseKey:
    return fence.duty.value, fence.instance, fence.epoch
