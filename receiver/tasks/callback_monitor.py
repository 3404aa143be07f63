"""Monitors whether Kling's callbacks arrive. Pure.

A task whose end was found only by polling is a missed callback. One may be chance. Many mean that an address, a tunnel
or a proxy blocks Kling. Without an alert the operator would notice only that results come late.
"""

import math
from collections.abc import Callable

import msgspec

from receiver.domain.bounded_dict import BoundedDict

WINDOW = 50
"""How many of the most recently ended tasks are counted."""

MISSED_RATIO = 0.2
MIN_MISSED = 5
"""Callbacks count as missing if more than this ratio, and at least this many of them, were missed."""

MAX_TO_RECOVER = 80
"""The most callbacks in a row that show that they arrive again."""

_CHANCE = 1e-6
"""How likely so many callbacks in a row may be if as many are missed as before."""

_RATIO_BEFORE_RESTART = 0.5  # the real one is not stored
_HISTORY = 3 * WINDOW  # so that the ratio before a run of callbacks is known
_MAX_REMEMBERED = 1000


class CallbackHealthChange(msgspec.Struct, frozen=True, kw_only=True):
    """Callbacks stopped arriving, or resumed: ``missed`` of the last ``ended`` tasks had none."""

    is_missing: bool
    missed: int
    ended: int


class CallbackMonitor:
    """Counts missed callbacks among the most recently ended tasks.

    Callbacks that are missed now and then are one issue, not many: they have recovered once so many arrive in a row as
    the ratio missed before makes unlikely. After a complete outage that is soon.
    """

    def __init__(self) -> None:
        self.missed = 0
        self._is_missing = False
        self._ended: BoundedDict[str, bool] = BoundedDict(_HISTORY)  # task id -> whether its callback was missed
        self._called_back: BoundedDict[str, None] = BoundedDict(_MAX_REMEMBERED)

    def restore(self) -> None:
        """Restore that callbacks were missing before a restart."""
        self._is_missing = True

    def record_callback(self, task_id: str) -> None:
        """Record that a callback reported a task's end, trusted or not."""
        self._called_back[task_id] = None
        if self._ended.get(task_id):
            self._ended[task_id] = False  # the poll was only faster
            self.missed -= 1

    def record_end(self, task_id: str) -> CallbackHealthChange | None:
        """Record that a task has ended. Return the change of callback health, if any."""
        missed = task_id not in self._called_back
        self._ended[task_id] = missed
        self.missed += missed
        return self._health_change(self._has_recovered if self._is_missing else self._has_failed)

    def _health_change(self, has_changed: Callable[[list[bool]], bool]) -> CallbackHealthChange | None:
        history = list(self._ended.values())
        if not has_changed(history):
            return None
        self._is_missing = not self._is_missing
        latest = history[-WINDOW:]
        change = CallbackHealthChange(is_missing=self._is_missing, missed=sum(latest), ended=len(latest))
        if not self._is_missing:
            self._ended.clear()
        return change

    @staticmethod
    def _has_failed(history: list[bool]) -> bool:
        latest = history[-WINDOW:]
        return sum(latest) >= MIN_MISSED and sum(latest) > MISSED_RATIO * len(latest)

    @staticmethod
    def _has_recovered(history: list[bool]) -> bool:
        before = list(history)
        while before and not before[-1]:
            before.pop()
        arrived = len(history) - len(before)
        return arrived >= _needed_to_recover(sum(before) / len(before) if before else _RATIO_BEFORE_RESTART)


def _needed_to_recover(missed_ratio: float) -> int:
    """Return how many callbacks in a row are unlikely while this ratio of them is missed."""
    if missed_ratio >= 1:
        return MIN_MISSED
    return min(MAX_TO_RECOVER, max(MIN_MISSED, math.ceil(math.log(_CHANCE) / math.log(1 - missed_ratio))))
