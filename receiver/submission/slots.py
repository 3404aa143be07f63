"""Which queued tasks may be sent now: the account's parallel tasks, by pack. Pure: the time comes in by arguments.

A limit is configured, or taught by Kling: a 1303 says that what was running then, and the task it refused, are too
much together. A taught limit is tried again now and then, for others may use the account too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from receiver.domain.circuit_breaker import Patience
from receiver.domain.model import Task

LONGEST_WAIT = timedelta(minutes=1)
"""How far apart the trials of a taught limit get."""

_STANDS_ASIDE = timedelta(seconds=10)


@dataclass(slots=True)
class _Pack:
    """What is known of a pack: the ``limit`` configured (0: none) or ``taught``, and who waits for room.

    ``first`` is who stays at the head. ``taken`` is always what runs besides the task in question.
    """

    limit: int = 0
    taught: int | None = None
    first: Task | None = None
    waits: bool = False
    trial: str | None = None
    beyond: Patience = field(default_factory=lambda: Patience(longest=LONGEST_WAIT))

    def is_hopeless(self, weight: int) -> bool:
        """Tell whether a task is beyond what was taught by itself: no slot of ours that gets free makes room for it."""
        return not self.fits(weight, 0)

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
    """Lets tasks go, each in its turn, as long as their pack has room.

    A task that needs several slots stays at the head once it is its turn, so that it is not overtaken for ever by
    small ones that need less room, but not where it needs more than Kling was seen to take: then it stands aside until
    it may be tried, and the small ones go. Tasks without a pack take no slots.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._packs = {pack: _Pack(limit=limit) for pack, limit in limits.items()}

    def begin(self, taken: Mapping[str, int], now: datetime) -> None:
        """At start: take what runs in a pack without a limit for what it was taught, to be tried beyond at once."""
        for name, pack in self._packs.items():
            if not pack.limit and taken.get(name, 0):
                pack.taught = taken[name]
                pack.beyond.reopen(now)

    @property
    def kept(self) -> Sequence[str]:
        """The ids of the tasks that stay at the head of their packs."""
        return [pack.first.id for pack in self._packs.values() if pack.first is not None]

    def waits(self, task: Task) -> bool:
        """Tell whether somebody waits for room in a task's pack."""
        pack = self._packs.get(task.pack or "")
        return pack is not None and pack.waits

    def admits(self, task: Task, taken: Mapping[str, int], now: datetime) -> bool:
        """Tell whether there is room for a task whose turn it is; if not, it waits."""
        pack = self._packs.get(task.pack or "")
        if pack is None or pack.has_room(task.weight, taken.get(task.pack or "", 0), now):
            return True
        pack.waits = True
        if task.weight > 1 and not pack.is_hopeless(task.weight):
            pack.first = task
        return False

    def stands_aside_until(self, task: Task, now: datetime) -> datetime | None:
        """Tell until when a task that was not admitted lets others by; None where it keeps its place."""
        pack = self._packs.get(task.pack or "")
        if pack is None or task.weight == 1 or not pack.is_hopeless(task.weight):
            return None
        opens_at = pack.beyond.opens_at
        return now + _STANDS_ASIDE if opens_at is None or opens_at <= now else opens_at

    def went(self, task: Task, taken: Mapping[str, int], now: datetime, *, lasts: timedelta) -> None:
        """Note that a task is being sent; the call it makes *lasts* no longer than that."""
        pack = self._packs.get(task.pack or "")
        if pack is None:
            return
        if not pack.fits(task.weight, taken.get(task.pack or "", 0)):
            pack.beyond.call(now, lasts=lasts)
            pack.trial = task.id
        pack.first, pack.waits = None, False

    def keep(self, task: Task) -> None:
        """Put a large task that Kling could not take just now back at the head; of several the oldest."""
        pack = self._packs.get(task.pack or "")
        if pack is None or task.weight == 1 or pack.is_hopeless(task.weight):
            return
        if pack.first is None or _order(task) < _order(pack.first):
            pack.first = task

    def left(self, task: Task) -> None:
        """Note that a task has left the line unsent."""
        pack = self._packs.get(task.pack or "")
        if pack is not None and pack.first is not None and pack.first.id == task.id:
            pack.first = None

    def see(self, line: Sequence[Task]) -> None:
        """Note who stands at the head of each pack: where nobody does, nobody waits."""
        heads = {task.pack for task in line}
        for name, pack in self._packs.items():
            pack.waits = pack.waits and name in heads

    def opens_at(self, now: datetime) -> datetime | None:
        """Tell when a pack may be tried beyond what it was taught; what a limit of ours keeps shut no moment opens."""
        moments = [pack.beyond.opens_at for pack in self._packs.values() if pack.beyond.opens_at is not None]
        return min((moment for moment in moments if moment > now), default=None)

    def refused(self, task: Task, taken: int, *, begun: datetime, now: datetime) -> None:
        """Learn from a 1303: what runs and the task it refused are too much together.

        *taken* is the most that may have counted: what ended during the call may have done so after the refusal.

        A window that becomes smaller is tried again in a second, for Kling may only be late in freeing a slot that we
        know to be free; one that does not, further and further apart.
        """
        pack = self._packs.get(task.pack or "")
        if pack is None:
            return
        if pack.fits(task.weight, taken):
            pack.beyond.pause(begun=begun, now=now)
        else:
            pack.beyond.fail("", begun=begun, now=now)
        too_much = max(taken + task.weight - 1, 0)
        pack.taught = too_much if pack.taught is None else min(pack.taught, too_much)

    def accepted(self, task: Task, before: int, held: int, now: datetime) -> None:
        """Learn from a task that Kling took: so many slots were taken *before* it, and are *held* with it.

        A trial teaches no more than holds either way: it may have gone where one had ended that we believed to run.
        """
        pack = self._packs.get(task.pack or "")
        if pack is None or pack.taught is None:
            return
        if pack.trial == task.id:
            held = min(before + task.weight, held)
        if held > pack.taught:
            pack.taught = held
            pack.beyond.reopen(now)
        elif pack.trial == task.id:
            pack.beyond.pause(begun=now, now=now)

    def ended(self, task: Task, now: datetime) -> None:
        """Note that a task's call ended without a lesson."""
        pack = self._packs.get(task.pack or "")
        if pack is not None and pack.trial == task.id:
            pack.beyond.pause(begun=now, now=now)


def _order(task: Task) -> tuple[int, str]:
    return -task.priority, task.id
