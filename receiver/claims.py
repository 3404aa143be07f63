"""The pushes of one task that wait for the API's word: how many may, and whose turn it is to be asked about.

What has been acknowledged is not let go of before it was asked about: of a job submitted elsewhere a push may be all
that ever says which of Kling's it is. So what anybody who found the URL could claim without end is refused at the door.
"""

from collections import OrderedDict
from collections.abc import Mapping

from receiver.asking import Waiting, ids_of, names_in
from receiver.errors import Crowded
from receiver.model import PushOutcome, Reading, Task

MOST = 50
"""How many different claims about one task may wait."""

MOST_BYTES = 4 * 1024 * 1024
"""How many bytes of them: each push that comes is compared with all."""

_REMEMBERED = 1000


def admit(task: Task, pending: Waiting, said: Reading, body: bytes) -> Mapping[str, PushOutcome]:
    """Let one more push wait; give their outcome to those whose place it takes, for they claim the same.

    Raises Crowded where there are too many others.
    """
    same = [(push, before) for push, before in pending if _claim(task, before) == _claim(task, said)]
    weight = sum(len(push.body) for push, _ in pending) - sum(len(push.body) for push, _ in same)
    others = len(pending) - len(same)
    if others >= MOST or (others and weight + len(body) > MOST_BYTES):
        raise Crowded("Too many claims about this task wait for Kling's word. Send this one again later.")
    return {
        push.id: PushOutcome.DUPLICATE if before.says_the_same_as(said) else PushOutcome.STALE for push, before in same
    }


class Turns:
    """The line in which the ids of each task wait to be asked by: to its end goes who is new, and who has had a turn.

    It is kept in memory; after a start it begins where the count of questions says.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, list[str]] = OrderedDict()

    def next(self, task: Task, pending: Waiting) -> str | None:
        """Give the id to ask about the task by; None when there is none."""
        ids = ids_of(task, pending)
        before = self._lines.pop(task.id, [])
        if not ids:
            return None
        line = [name for name in before if name in ids]
        line += [name for name in ids if name not in line]
        if len(ids) > 1:
            self._lines[task.id] = [*line[1:], line[0]]
        if len(self._lines) > _REMEMBERED:
            self._lines.popitem(last=False)
        return line[0]


def _claim(task: Task, said: Reading) -> object:
    """Tell what a push claims: a state, and which of Kling's tasks this is where that is not known yet."""
    return said.state, () if task.kling_id is not None else tuple(names_in(said))
