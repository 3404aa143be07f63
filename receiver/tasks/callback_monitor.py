"""Whether Kling's callbacks still arrive: which of the tasks that ended lately were called back about. Pure.

A task whose end only polling found out is a callback missed. One is chance; many are an address, a tunnel or a
proxy that no longer lets Kling through, and without a word of it nobody notices until results come late.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LATEST = 50
"""How many of the tasks that ended last are looked at."""

SHARE = 0.2
FEWEST = 5
"""It is an alert when more than this share of them, and no fewer than this many, were missed."""

_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Callbacks have begun to stay away, or come again: ``missed`` of the last ``ended`` tasks."""

    is_missing: bool
    missed: int
    ended: int


class Attendance:
    """Counts the callbacks that stayed away."""

    def __init__(self) -> None:
        self.missed = 0
        self._is_missing = False
        self._ended: OrderedDict[str, bool] = OrderedDict()
        self._called: OrderedDict[str, None] = OrderedDict()

    def recall(self) -> None:
        """Take up that callbacks stay away, as was told before a restart."""
        self._is_missing = True

    def called(self, task_id: str) -> None:
        """Note that a callback told of a task's end, whatever it was worth."""
        self._called[task_id] = None
        if len(self._called) > _REMEMBERED:
            self._called.popitem(last=False)
        if self._ended.get(task_id):
            self._ended[task_id] = False  # the question was only quicker
            self.missed -= 1

    def ended(self, task_id: str) -> Turn | None:
        """Note that a task has ended; tell when that turns the balance."""
        missed = task_id not in self._called
        self._ended[task_id] = missed
        self.missed += missed
        while len(self._ended) > LATEST:
            self._ended.popitem(last=False)
        return self._turn(self._comes_again if self._is_missing else self._stays_away)

    def _turn(self, has_turned: Callable[[list[bool]], bool]) -> Turn | None:
        latest = list(self._ended.values())
        if not has_turned(latest):
            return None
        self._is_missing = not self._is_missing
        turn = Turn(is_missing=self._is_missing, missed=sum(latest), ended=len(latest))
        if not self._is_missing:
            self._ended.clear()
        return turn

    @staticmethod
    def _stays_away(latest: list[bool]) -> bool:
        return sum(latest) >= FEWEST and sum(latest) > SHARE * len(latest)

    @staticmethod
    def _comes_again(latest: list[bool]) -> bool:
        return len(latest) >= FEWEST and not any(latest[-FEWEST:])
