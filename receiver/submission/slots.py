"""The slot limiter: how many tasks of each slot key may run in parallel. Pure: the time is an argument.

Kling counts per pack and model version. So each key has limits, a head of the queue and a probe of its own, and a
blocked model never delays another one. With ``scope = "pack"`` the key is the pack alone.

A limit is configured, or learned from Kling. A 1303 shows that the running tasks and the refused task together exceed
the limit. A learned limit is probed from time to time, because other programs may use the same account.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.model import Task
from receiver.domain.slot_keys import SlotLimit
from receiver.settings.slots import PACKS, SlotSettings

MAX_PROBE_DELAY = timedelta(minutes=1)
"""The longest delay between probes of a learned limit."""

_YIELD_TIME = timedelta(seconds=10)
_MAX_KEYS = 1000


class _Group(msgspec.Struct):
    """The tasks of one slot key: its configured ``limit`` (0: none), its ``learned_limit``, and whether tasks wait.

    ``head`` is the task that stays at the head. ``in_use`` never includes the task in question.
    """

    limit: int = 0
    learned_limit: int | None = None
    head: Task | None = None
    has_waiters: bool = False
    probing: str | None = None
    probe_breaker: CircuitBreaker = msgspec.field(default_factory=lambda: CircuitBreaker(max_delay=MAX_PROBE_DELAY))

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
    """An adaptive concurrency limit by slot key. Tasks without a pack use no slots.

    A task that needs several slots stays at the head of its key, so that small tasks do not overtake it for ever.
    A task that alone exceeds the learned limit yields to small tasks until its next probe.
    """

    def __init__(self, settings: SlotSettings) -> None:
        self._settings = settings
        self._groups: BoundedDict[str, _Group] = BoundedDict(_MAX_KEYS)

    def restore(self, in_use: Mapping[str, int], now: datetime) -> None:
        """Use the slots *in_use* as the learned limit of keys without a configured limit; a probe may start now."""
        for key in {self._settings.key_of(name) for name in in_use}:
            group = self._group_of(key)
            if not group.limit:
                group.learned_limit = self._sum(key, in_use)
                group.probe_breaker.half_open(now)

    def apply(self, settings: SlotSettings) -> None:
        """Use the configured limits of *settings*. Learned limits are kept, unless other tasks count together now."""
        if settings.scope is not self._settings.scope:
            self._groups.clear()
        self._settings = settings

    def limits(self) -> Sequence[SlotLimit]:
        """Return the configured and learned limits, by slot key."""
        learned = {key: group.learned_limit for key, group in self._groups.items()}
        keys = dict.fromkeys((*PACKS, *self._settings.named_keys, *learned))
        return [self._settings.configured(key, learned.get(key)) for key in keys]

    def in_use(self, task: Task, in_use: Mapping[str, int]) -> int:
        """Return how many of the slots *in_use* by slot key count together with the task."""
        return self._sum(self._settings.key_of(task.queueing.slot_key), in_use)

    @property
    def head_ids(self) -> Sequence[str]:
        """The ids of the tasks that stay at the head of their keys."""
        return [group.head.id for group in self._groups.values() if group.head is not None]

    def has_waiters(self, task: Task) -> bool:
        """Return whether another task of the same key waits for a slot."""
        group = self._group(task)
        return group is not None and group.has_waiters

    def has_learned_limit(self, task: Task) -> bool:
        """Return whether the limit of the task's key was learned from Kling."""
        group = self._group(task)
        return group is not None and group.learned_limit is not None

    def admits(self, task: Task, in_use: Mapping[str, int], now: datetime) -> bool:
        """Return whether the task may be sent now; if not, record that it waits."""
        group = self._group(task)
        if group is None or group.has_capacity(task.queueing.weight, self.in_use(task, in_use), now):
            return True
        group.has_waiters = True
        if task.queueing.weight > 1 and not group.exceeds_learned_limit(task.queueing.weight):
            group.head = task
        return False

    def is_probe(self, task: Task, in_use: Mapping[str, int]) -> bool:
        """Return whether the task exceeds the learned limit, so that it may be sent only as a probe."""
        group = self._group(task)
        return group is not None and not group.fits(task.queueing.weight, self.in_use(task, in_use))

    def yields_until(self, task: Task, now: datetime) -> datetime | None:
        """Return until when a refused task yields to others, or None if it keeps its place."""
        group = self._group(task)
        if group is None or task.queueing.weight == 1 or not group.exceeds_learned_limit(task.queueing.weight):
            return None
        opens_at = group.probe_breaker.next_probe_at
        return now + _YIELD_TIME if opens_at is None or opens_at <= now else opens_at

    def start(self, task: Task, in_use: Mapping[str, int], now: datetime, *, max_duration: timedelta) -> None:
        """Record that the create of a task starts; it takes at most *max_duration*."""
        group = self._group(task)
        if group is None:
            return
        if not group.fits(task.queueing.weight, self.in_use(task, in_use)):
            group.probe_breaker.start(now, max_duration=max_duration)
            group.probing = task.id
        group.head, group.has_waiters = None, False

    def requeue_at_head(self, task: Task) -> None:
        """Keep a large task that Kling could not accept now at the head; of several tasks, the oldest."""
        group = self._group(task)
        if group is None or task.queueing.weight == 1 or group.exceeds_learned_limit(task.queueing.weight):
            return
        if group.head is None or _queue_order(task) < _queue_order(group.head):
            group.head = task

    def remove(self, task: Task) -> None:
        """Record that a task left the queue without being sent."""
        group = self._group(task)
        if group is not None and group.head is not None and group.head.id == task.id:
            group.head = None

    def sync_heads(self, next_queued: Sequence[Task]) -> None:
        """Record the next task of each key: of a key without one, no task waits."""
        heads = {self._settings.key_of(task.queueing.slot_key) for task in next_queued}
        for key, group in self._groups.items():
            group.has_waiters = group.has_waiters and key in heads

    def next_probe_at(self, now: datetime) -> datetime | None:
        """Return the next time in the future when a key may be probed beyond its learned limit, or None."""
        moments = [
            group.probe_breaker.next_probe_at
            for group in self._groups.values()
            if group.probe_breaker.next_probe_at is not None
        ]
        return min((moment for moment in moments if moment > now), default=None)

    def on_slots_full(self, task: Task, in_use: int, *, started_at: datetime, now: datetime) -> None:
        """Lower the learned limit after a 1303: the running tasks and the refused task exceed it together.

        *in_use* is the most slots that may have counted, because a task that ended during the call may have ended
        after the refusal. If the limit becomes lower, it is probed again after 1 s: Kling may only be late to free a
        slot. Otherwise the delay between probes grows.
        """
        group = self._group(task)
        if group is None:
            return
        if group.fits(task.queueing.weight, in_use):
            group.probe_breaker.record_transient_failure(started_at=started_at, now=now)
        else:
            group.probe_breaker.record_failure("", started_at=started_at, now=now)
        too_much = max(in_use + task.queueing.weight - 1, 0)
        group.learned_limit = too_much if group.learned_limit is None else min(group.learned_limit, too_much)

    def on_accepted(self, task: Task, in_use_before: int, in_use_after: int, now: datetime) -> None:
        """Raise the learned limit after Kling accepted a task; *in_use_after* includes that task.

        A probe proves only the lower of the two counts: a task that seemed to run may have ended already.
        """
        group = self._group(task)
        if group is None or group.learned_limit is None:
            return
        if group.probing == task.id:
            in_use_after = min(in_use_before + task.queueing.weight, in_use_after)
        if in_use_after > group.learned_limit:
            group.learned_limit = in_use_after
            group.probe_breaker.half_open(now)
        elif group.probing == task.id:
            group.probe_breaker.record_transient_failure(started_at=now, now=now)

    def on_other_error(self, task: Task, now: datetime) -> None:
        """Record that a create ended with an error that is not about slots."""
        group = self._group(task)
        if group is not None and group.probing == task.id:
            group.probe_breaker.record_transient_failure(started_at=now, now=now)

    def _group(self, task: Task) -> _Group | None:
        key = self._settings.key_of(task.queueing.slot_key)
        return self._group_of(key) if key else None

    def _group_of(self, key: str) -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        group.limit = self._settings.limit_of(key)
        return group

    def _sum(self, key: str, in_use: Mapping[str, int]) -> int:
        return sum(slots for name, slots in in_use.items() if self._settings.key_of(name) == key)


def _queue_order(task: Task) -> tuple[int, str]:
    return -task.queueing.priority, task.id
