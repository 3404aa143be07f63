"""The pushes of one task that wait for the API's word: how many may, and whose turn it is to be asked about.

What has been acknowledged is not let go of before it was asked about: of a job submitted elsewhere a push may be all
that ever says which of Kling's it is. So what anybody who found the URL could claim without end is refused at the door.
"""

from collections import OrderedDict
from collections.abc import Container, Mapping

from receiver.domain.errors import Crowded
from receiver.domain.model import PushOutcome, Reading, Task
from receiver.tasks.poll_schedule import Waiting, ids_of, names_in

MOST = 50
"""How many different claims about one task may wait."""

MOST_BYTES = 4 * 1024 * 1024
"""How many bytes of them: each push that comes is compared with all."""

_REMEMBERED = 1000


def admit(task: Task, pending: Waiting, said: Reading, body: bytes) -> Mapping[str, PushOutcome]:
    """Let one more push wait; give their outcome to those whose place it takes.

    These are the ones that say the same, and where there is no room all but the newest of those that make one claim in
    other words: it is enough to ask by. Raises Crowded where there are too many different claims.
    """
    mine = _claim(task, said)
    settles = {
        push.id: PushOutcome.DUPLICATE
        for push, before in pending
        if _claim(task, before) == mine and before.says_the_same_as(said)
    }
    if not _has_room(pending, settles, body):
        newest = {_claim(task, before): push.id for push, before in pending} | {mine: ""}
        older = [push.id for push, before in pending if newest[_claim(task, before)] != push.id]
        settles = dict.fromkeys(older, PushOutcome.STALE) | settles
    if not _has_room(pending, settles, body):
        raise Crowded("Too many claims about this task wait for Kling's word. Send this one again later.")
    return settles


def _has_room(pending: Waiting, settled: Container[str], body: bytes) -> bool:
    """Tell whether one more may wait with those that are not settled; the first may be as large as it likes."""
    sizes = [len(push.body) for push, _ in pending if push.id not in settled]
    return len(sizes) < MOST and (not sizes or sum(sizes) + len(body) <= MOST_BYTES)


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
