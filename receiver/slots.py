"""Which queued tasks may be sent now: the account's parallel tasks, by pack. Pure: the time comes in by arguments.

A limit is configured, or taught by Kling: a 1303 says that what was running then, and the task it refused, are too
much together. A taught limit is tried again now and then, for others may use the account too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from receiver.model import Task
from receiver.patience import Patience

LONGEST_WAIT = timedelta(minutes=1)
"""How far apart the trials of a taught limit get."""


@dataclass(slots=True)
class _Pack:
    """What is known of a pack: the ``limit`` configured (0: none) or ``taught``, and who waits first.

    ``taken`` is always what runs besides the task in question.
    """

    limit: int = 0
    taught: int | None = None
    first: Task | None = None
    beyond: Patience = field(default_factory=lambda: Patience(longest=LONGEST_WAIT))

    def fits(self, weight: int, taken: int) -> bool:
        """Tell whether a task is within what was taught."""
        return self.taught is None or taken + weight <= self.taught

    def has_room(self, weight: int, taken: int, now: datetime) -> bool:
        """Tell whether a task may be sent now, if need be beyond what was taught, to see whether it still holds.

        One too large for the configured limit goes when nothing else runs.
        """
        if self.limit and taken and taken + weight > self.limit:
            return False
        return self.fits(weight, taken) or self.beyond.admits(now)


class Slots:
    """Lets queued tasks go, the oldest of each pack first, as long as their pack has room."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._packs = {pack: _Pack(limit=limit) for pack, limit in limits.items()}

    def full(self, taken: Mapping[str, int], now: datetime) -> Sequence[str]:
        """Name the packs with no room for the task that waits first; in the others the line forms anew."""
        names = []
        for name, pack in self._packs.items():
            if pack.has_room(1 if pack.first is None else pack.first.weight, taken.get(name, 0), now):
                pack.first = None
            else:
                names.append(name)
        return names

    def opens_at(self, now: datetime) -> datetime | None:
        """Tell when a pack may be tried beyond what it was taught; what a limit of ours keeps shut no moment opens."""
        moments = [pack.beyond.opens_at for pack in self._packs.values() if pack.beyond.opens_at is not None]
        return min((moment for moment in moments if moment > now), default=None)

    def take(self, task: Task, taken: Mapping[str, int], now: datetime, *, lasts: timedelta) -> bool:
        """Let a task go if there is room and nobody before it; the call it makes *lasts* no longer than that."""
        pack = self._packs.get(task.pack or "")
        if pack is None:
            return True
        held = taken.get(task.pack or "", 0)
        if pack.first is not None and pack.first.id != task.id:
            return False
        if not pack.has_room(task.weight, held, now):
            pack.first = task
            return False
        if not pack.fits(task.weight, held):
            pack.beyond.call(now, lasts=lasts)
        pack.first = None
        return True

    def refused(self, task: Task, taken: Mapping[str, int], *, begun: datetime, now: datetime) -> None:
        """Learn from a 1303: what runs and the task it refused are too much together."""
        pack = self._packs.get(task.pack or "")
        if pack is not None:
            pack.taught = max(taken.get(task.pack or "", 0) + task.weight - 1, 0)
            pack.beyond.fail("", begun=begun, now=now)

    def accepted(self, task: Task, taken: Mapping[str, int]) -> None:
        """Learn from a task that Kling took."""
        pack = self._packs.get(task.pack or "")
        now_held = taken.get(task.pack or "", 0) + task.weight
        if pack is not None and pack.taught is not None and now_held > pack.taught:
            pack.taught = now_held
            pack.beyond.succeed()
