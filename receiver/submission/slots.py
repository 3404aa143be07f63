"""Which queued tasks may be sent now: the account's parallel tasks, by pack. Pure: the time comes in by arguments.

A limit is configured, or taught by Kling: a 1303 says that what was running then, and the task it refused, are too
much together. A taught limit is tried again now and then, for others may use the account too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.model import Task

MAX_PROBE_DELAY = timedelta(minutes=1)
"""How far apart the trials of a taught limit get."""

_YIELD_TIME = timedelta(seconds=10)


@dataclass(slots=True)
class _Pack:
    """What is known of a pack: the ``limit`` configured (0: none) or ``taught``, and who waits for room.

    ``first`` is who stays at the head. ``taken`` is always what runs besides the task in question.
    """

    limit: int = 0
    learned_limit: int | None = None
    head: Task | None = None
    has_waiters: bool = False
    probing: str | None = None
    probe_breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(max_delay=MAX_PROBE_DELAY))

    def exceeds_learned_limit(self, weight: int) -> bool:
        """Tell whether a task is beyond what was taught by itself: no slot of ours that gets free makes room for it."""
        return not self.fits(weight, 0)

    def fits(self, weight: int, in_use: int) -> bool:
        """Tell whether a task is within what was taught."""
        return self.learned_limit is None or in_use + weight <= self.learned_limit

    def has_capacity(self, weight: int, in_use: int, now: datetime) -> bool:
        """Tell whether a task may be sent now, if need be beyond what was taught, to see whether it still holds.

        One too large for the configured limit goes when nothing else runs.
        """
        if self.limit and in_use and in_use + weight > self.limit:
            return False
        return self.fits(weight, in_use) or self.probe_breaker.allows(now)


class SlotLimiter:
    """Lets tasks go, each in its turn, as long as their pack has room.

    A task that needs several slots stays at the head once it is its turn, so that it is not overtaken for ever by
    small ones that need less room, but not where it needs more than Kling was seen to take: then it stands aside until
    it may be tried, and the small ones go. Tasks without a pack take no slots.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._packs = {pack: _Pack(limit=limit) for pack, limit in limits.items()}

    def restore(self, in_use: Mapping[str, int], now: datetime) -> None:
        """At start: take what runs in a pack without a limit for what it was taught, to be tried beyond at once."""
        for name, pack in self._packs.items():
            if not pack.limit and in_use.get(name, 0):
                pack.learned_limit = in_use[name]
                pack.probe_breaker.half_open(now)

    @property
    def head_ids(self) -> Sequence[str]:
        """The ids of the tasks that stay at the head of their packs."""
        return [pack.head.id for pack in self._packs.values() if pack.head is not None]

    def has_waiters(self, task: Task) -> bool:
        """Tell whether somebody waits for room in a task's pack."""
        pack = self._packs.get(task.pack or "")
        return pack is not None and pack.has_waiters

    def admits(self, task: Task, in_use: Mapping[str, int], now: datetime) -> bool:
        """Tell whether there is room for a task whose turn it is; if not, it waits."""
        pack = self._packs.get(task.pack or "")
        if pack is None or pack.has_capacity(task.weight, in_use.get(task.pack or "", 0), now):
            return True
        pack.has_waiters = True
        if task.weight > 1 and not pack.exceeds_learned_limit(task.weight):
            pack.head = task
        return False

    def yields_until(self, task: Task, now: datetime) -> datetime | None:
        """Tell until when a task that was not admitted lets others by; None where it keeps its place."""
        pack = self._packs.get(task.pack or "")
        if pack is None or task.weight == 1 or not pack.exceeds_learned_limit(task.weight):
            return None
        opens_at = pack.probe_breaker.next_probe_at
        return now + _YIELD_TIME if opens_at is None or opens_at <= now else opens_at

    def start(self, task: Task, in_use: Mapping[str, int], now: datetime, *, max_duration: timedelta) -> None:
        """Note that a task is being sent; the call it makes *lasts* no longer than that."""
        pack = self._packs.get(task.pack or "")
        if pack is None:
            return
        if not pack.fits(task.weight, in_use.get(task.pack or "", 0)):
            pack.probe_breaker.start(now, max_duration=max_duration)
            pack.probing = task.id
        pack.head, pack.has_waiters = None, False

    def requeue_at_head(self, task: Task) -> None:
        """Put a large task that Kling could not take just now back at the head; of several the oldest."""
        pack = self._packs.get(task.pack or "")
        if pack is None or task.weight == 1 or pack.exceeds_learned_limit(task.weight):
            return
        if pack.head is None or _queue_order(task) < _queue_order(pack.head):
            pack.head = task

    def remove(self, task: Task) -> None:
        """Note that a task has left the line unsent."""
        pack = self._packs.get(task.pack or "")
        if pack is not None and pack.head is not None and pack.head.id == task.id:
            pack.head = None

    def sync_heads(self, next_queued: Sequence[Task]) -> None:
        """Note who stands at the head of each pack: where nobody does, nobody waits."""
        heads = {task.pack for task in next_queued}
        for name, pack in self._packs.items():
            pack.has_waiters = pack.has_waiters and name in heads

    def next_probe_at(self, now: datetime) -> datetime | None:
        """Tell when a pack may be tried beyond what it was taught; what a limit of ours keeps shut no moment opens."""
        moments = [
            pack.probe_breaker.next_probe_at
            for pack in self._packs.values()
            if pack.probe_breaker.next_probe_at is not None
        ]
        return min((moment for moment in moments if moment > now), default=None)

    def on_slots_full(self, task: Task, in_use: int, *, started_at: datetime, now: datetime) -> None:
        """Learn from a 1303: what runs and the task it refused are too much together.

        *taken* is the most that may have counted: what ended during the call may have done so after the refusal.

        A window that becomes smaller is tried again in a second, for Kling may only be late in freeing a slot that we
        know to be free; one that does not, further and further apart.
        """
        pack = self._packs.get(task.pack or "")
        if pack is None:
            return
        if pack.fits(task.weight, in_use):
            pack.probe_breaker.record_transient_failure(started_at=started_at, now=now)
        else:
            pack.probe_breaker.record_failure("", started_at=started_at, now=now)
        too_much = max(in_use + task.weight - 1, 0)
        pack.learned_limit = too_much if pack.learned_limit is None else min(pack.learned_limit, too_much)

    def on_accepted(self, task: Task, in_use_before: int, in_use_after: int, now: datetime) -> None:
        """Learn from a task that Kling took: so many slots were taken *before* it, and are *held* with it.

        A trial teaches no more than holds either way: it may have gone where one had ended that we believed to run.
        """
        pack = self._packs.get(task.pack or "")
        if pack is None or pack.learned_limit is None:
            return
        if pack.probing == task.id:
            in_use_after = min(in_use_before + task.weight, in_use_after)
        if in_use_after > pack.learned_limit:
            pack.learned_limit = in_use_after
            pack.probe_breaker.half_open(now)
        elif pack.probing == task.id:
            pack.probe_breaker.record_transient_failure(started_at=now, now=now)

    def on_other_error(self, task: Task, now: datetime) -> None:
        """Note that a task's call ended without a lesson."""
        pack = self._packs.get(task.pack or "")
        if pack is not None and pack.probing == task.id:
            pack.probe_breaker.record_transient_failure(started_at=now, now=now)


def _queue_order(task: Task) -> tuple[int, str]:
    return -task.priority, task.id
