"""The slot limiter: how many tasks of each pack may run in parallel. Pure: the time is an argument.

A limit is configured, or learned from Kling. A 1303 shows that the running tasks and the refused task together exceed
the limit. A learned limit is probed from time to time, because other programs may use the same account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.model import Task

MAX_PROBE_DELAY = timedelta(minutes=1)
"""The longest delay between probes of a learned limit."""

_YIELD_TIME = timedelta(seconds=10)


@dataclass(slots=True)
class _Pack:
    """The state of a pack: its configured ``limit`` (0: none), its ``learned_limit``, and whether tasks wait.

    ``head`` is the task that stays at the head. ``in_use`` never includes the task in question.
    """

    limit: int = 0
    learned_limit: int | None = None
    head: Task | None = None
    has_waiters: bool = False
    probing: str | None = None
    probe_breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(max_delay=MAX_PROBE_DELAY))

    def exceeds_learned_limit(self, weight: int) -> bool:
        """Return whether the task alone exceeds the learned limit, so that no freed slot is enough."""
        return not self.fits(weight, 0)

    def fits(self, weight: int, in_use: int) -> bool:
        """Return whether the task is within the learned limit."""
        return self.learned_limit is None or in_use + weight <= self.learned_limit

    def has_capacity(self, weight: int, in_use: int, now: datetime) -> bool:
        """Return whether the task may be sent now: within the learned limit, or beyond it as a probe.

        A task larger than the configured limit may be sent if no other task runs.
        """
        if self.limit and in_use and in_use + weight > self.limit:
            return False
        return self.fits(weight, in_use) or self.probe_breaker.allows(now)


class SlotLimiter:
    """An adaptive concurrency limit by pack. Tasks without a pack use no slots.

    A task that needs several slots stays at the head of its pack, so that small tasks do not overtake it for ever.
    A task that alone exceeds the learned limit yields to small tasks until its next probe.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._packs = {pack: _Pack(limit=limit) for pack, limit in limits.items()}

    def restore(self, in_use: Mapping[str, int], now: datetime) -> None:
        """Use the slots *in_use* as the learned limit of packs without a configured limit; a probe may start now."""
        for name, pack in self._packs.items():
            if not pack.limit and in_use.get(name, 0):
                pack.learned_limit = in_use[name]
                pack.probe_breaker.half_open(now)

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Set the configured limits. Learned limits are kept."""
        for name, pack in self._packs.items():
            pack.limit = limits.get(name, 0)

    def limits(self) -> Mapping[tuple[str, ...], int]:
        """Return the limits by pack, model and kind, for metrics. A pack counts all models together."""
        found: dict[tuple[str, ...], int] = {}
        for name, pack in self._packs.items():
            if pack.limit:
                found[name, "all", "limit"] = pack.limit
            if pack.learned_limit is not None:
                found[name, "all", "learned"] = pack.learned_limit
        return found

    @property
    def head_ids(self) -> Sequence[str]:
        """The ids of the tasks that stay at the head of their packs."""
        return [pack.head.id for pack in self._packs.values() if pack.head is not None]

    def has_waiters(self, task: Task) -> bool:
        """Return whether another task of the same pack waits for a slot."""
        pack = self._packs.get(task.queueing.pack or "")
        return pack is not None and pack.has_waiters

    def has_learned_limit(self, task: Task) -> bool:
        """Return whether the limit of the task's pack was learned from Kling."""
        pack = self._packs.get(task.queueing.pack or "")
        return pack is not None and pack.learned_limit is not None

    def admits(self, task: Task, in_use: Mapping[str, int], now: datetime) -> bool:
        """Return whether the task may be sent now; if not, record that it waits."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None or pack.has_capacity(task.queueing.weight, in_use.get(task.queueing.pack or "", 0), now):
            return True
        pack.has_waiters = True
        if task.queueing.weight > 1 and not pack.exceeds_learned_limit(task.queueing.weight):
            pack.head = task
        return False

    def yields_until(self, task: Task, now: datetime) -> datetime | None:
        """Return until when a refused task yields to others, or None if it keeps its place."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None or task.queueing.weight == 1 or not pack.exceeds_learned_limit(task.queueing.weight):
            return None
        opens_at = pack.probe_breaker.next_probe_at
        return now + _YIELD_TIME if opens_at is None or opens_at <= now else opens_at

    def start(self, task: Task, in_use: Mapping[str, int], now: datetime, *, max_duration: timedelta) -> None:
        """Record that the create of a task starts; it takes at most *max_duration*."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None:
            return
        if not pack.fits(task.queueing.weight, in_use.get(task.queueing.pack or "", 0)):
            pack.probe_breaker.start(now, max_duration=max_duration)
            pack.probing = task.id
        pack.head, pack.has_waiters = None, False

    def requeue_at_head(self, task: Task) -> None:
        """Keep a large task that Kling could not accept now at the head; of several tasks, the oldest."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None or task.queueing.weight == 1 or pack.exceeds_learned_limit(task.queueing.weight):
            return
        if pack.head is None or _queue_order(task) < _queue_order(pack.head):
            pack.head = task

    def remove(self, task: Task) -> None:
        """Record that a task left the queue without being sent."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is not None and pack.head is not None and pack.head.id == task.id:
            pack.head = None

    def sync_heads(self, next_queued: Sequence[Task]) -> None:
        """Record the next task of each pack: in a pack without one, no task waits."""
        heads = {task.queueing.pack for task in next_queued}
        for name, pack in self._packs.items():
            pack.has_waiters = pack.has_waiters and name in heads

    def next_probe_at(self, now: datetime) -> datetime | None:
        """Return the next time in the future when a pack may be probed beyond its learned limit, or None."""
        moments = [
            pack.probe_breaker.next_probe_at
            for pack in self._packs.values()
            if pack.probe_breaker.next_probe_at is not None
        ]
        return min((moment for moment in moments if moment > now), default=None)

    def on_slots_full(self, task: Task, in_use: int, *, started_at: datetime, now: datetime) -> None:
        """Lower the learned limit after a 1303: the running tasks and the refused task exceed it together.

        *in_use* is the most slots that may have counted, because a task that ended during the call may have ended
        after the refusal. If the limit becomes lower, it is probed again after 1 s: Kling may only be late to free a
        slot. Otherwise the delay between probes grows.
        """
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None:
            return
        if pack.fits(task.queueing.weight, in_use):
            pack.probe_breaker.record_transient_failure(started_at=started_at, now=now)
        else:
            pack.probe_breaker.record_failure("", started_at=started_at, now=now)
        too_much = max(in_use + task.queueing.weight - 1, 0)
        pack.learned_limit = too_much if pack.learned_limit is None else min(pack.learned_limit, too_much)

    def on_accepted(self, task: Task, in_use_before: int, in_use_after: int, now: datetime) -> None:
        """Raise the learned limit after Kling accepted a task; *in_use_after* includes that task.

        A probe proves only the lower of the two counts: a task that seemed to run may have ended already.
        """
        pack = self._packs.get(task.queueing.pack or "")
        if pack is None or pack.learned_limit is None:
            return
        if pack.probing == task.id:
            in_use_after = min(in_use_before + task.queueing.weight, in_use_after)
        if in_use_after > pack.learned_limit:
            pack.learned_limit = in_use_after
            pack.probe_breaker.half_open(now)
        elif pack.probing == task.id:
            pack.probe_breaker.record_transient_failure(started_at=now, now=now)

    def on_other_error(self, task: Task, now: datetime) -> None:
        """Record that a create ended with an error that is not about slots."""
        pack = self._packs.get(task.queueing.pack or "")
        if pack is not None and pack.probing == task.id:
            pack.probe_breaker.record_transient_failure(started_at=now, now=now)


def _queue_order(task: Task) -> tuple[int, str]:
    return -task.queueing.priority, task.id
