"""Whether Kling's callbacks still arrive: which of the tasks that ended lately were called back about. Pure.

A task whose end only polling found out is a callback missed. One is chance; many are an address, a tunnel or a
proxy that no longer lets Kling through, and without a word of it nobody notices until results come late.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 50
"""How many of the tasks that ended last are looked at."""

MISSED_RATIO = 0.2
MIN_MISSED = 5
"""It is an alert when more than this share of them, and no fewer than this many, were missed."""

_MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackHealthChange:
    """Callbacks have begun to stay away, or come again: ``missed`` of the last ``ended`` tasks."""

    is_missing: bool
    missed: int
    ended: int


class CallbackMonitor:
    """Counts the callbacks that stayed away."""

    def __init__(self) -> None:
        self.missed = 0
        self._is_missing = False
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self._called_back: OrderedDict[str, None] = OrderedDict()

    def restore(self) -> None:
        """Take up that callbacks stay away, as was told before a restart."""
        self._is_missing = True

    def record_callback(self, task_id: str) -> None:
        """Note that a callback told of a task's end, whatever it was worth."""
        self._called_back[task_id] = None
        if len(self._called_back) > _MAX_REMEMBERED:
            self._called_back.popitem(last=False)
        if self._ended.get(task_id):
            self._ended[task_id] = False  # the question was only quicker
            self.missed -= 1

    def record_end(self, task_id: str) -> CallbackHealthChange | None:
        """Note that a task has ended; tell when that turns the balance."""
        missed = task_id not in self._called_back
        self._ended[task_id] = missed
        self.missed += missed
        while len(self._ended) > WINDOW:
            self._ended.popitem(last=False)
        return self._health_change(self._has_recovered if self._is_missing else self._has_failed)

    def _health_change(self, has_changed: Callable[[list[bool]], bool]) -> CallbackHealthChange | None:
        latest = list(self._ended.values())
        if not has_changed(latest):
            return None
        self._is_missing = not self._is_missing
        turn = CallbackHealthChange(is_missing=self._is_missing, missed=sum(latest), ended=len(latest))
        if not self._is_missing:
            self._ended.clear()
        return turn

    @staticmethod
    def _has_failed(latest: list[bool]) -> bool:
        return sum(latest) >= MIN_MISSED and sum(latest) > MISSED_RATIO * len(latest)

    @staticmethod
    def _has_recovered(latest: list[bool]) -> bool:
        return len(latest) >= MIN_MISSED and not any(latest[-MIN_MISSED:])
