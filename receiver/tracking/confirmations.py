"""The pushes of one task that wait for the API's word: how many may, and whose turn it is to be asked about.

What has been acknowledged is not let go of before it was asked about: of a job submitted elsewhere a push may be all
that ever says which of Kling's it is. So what anybody who found the URL could claim without end is refused at the door.
"""

from collections import OrderedDict
from collections.abc import Container, Mapping

from receiver.domain.errors import TooManyPending
from receiver.domain.model import PushOutcome, StatusReport, Task
from receiver.tasks.poll_schedule import PendingPushes, candidate_ids, ids_in

MAX_PENDING = 50
"""How many different claims about one task may wait."""

MAX_PENDING_BYTES = 4 * 1024 * 1024
"""How many bytes of them: each push that comes is compared with all."""

_MAX_TRACKED_TASKS = 1000


def admit_pending(task: Task, pending: PendingPushes, report: StatusReport, body: bytes) -> Mapping[str, PushOutcome]:
    """Let one more push wait; give their outcome to those whose place it takes.

    These are the ones that say the same, and where there is no room all but the newest of those that make one claim in
    other words: it is enough to ask by. Raises Crowded where there are too many different claims.
    """
    mine = _assertion(task, report)
    settles = {
        push.id: PushOutcome.DUPLICATE
        for push, before in pending
        if _assertion(task, before) == mine and before.matches(report)
    }
    if not _has_capacity(pending, settles, body):
        newest = {_assertion(task, before): push.id for push, before in pending} | {mine: ""}
        older = [push.id for push, before in pending if newest[_assertion(task, before)] != push.id]
        settles = dict.fromkeys(older, PushOutcome.STALE) | settles
    if not _has_capacity(pending, settles, body):
        raise TooManyPending("Too many claims about this task wait for Kling's word. Send this one again later.")
    return settles


def _has_capacity(pending: PendingPushes, resolved: Container[str], body: bytes) -> bool:
    """Tell whether one more may wait with those that are not settled; the first may be as large as it likes."""
    sizes = [len(push.body) for push, _ in pending if push.id not in resolved]
    return len(sizes) < MAX_PENDING and (not sizes or sum(sizes) + len(body) <= MAX_PENDING_BYTES)


class IdRotation:
    """The line in which the ids of each task wait to be asked by: to its end goes who is new, and who has had a turn.

    It is kept in memory; after a start it begins where the count of questions says.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, list[str]] = OrderedDict()

    def next(self, task: Task, pending: PendingPushes) -> str | None:
        """Give the id to ask about the task by; None when there is none."""
        ids = candidate_ids(task, pending)
        before = self._queues.pop(task.id, [])
        if not ids:
            return None
        line = [name for name in before if name in ids]
        line += [name for name in ids if name not in line]
        if len(ids) > 1:
            self._queues[task.id] = [*line[1:], line[0]]
        if len(self._queues) > _MAX_TRACKED_TASKS:
            self._queues.popitem(last=False)
        return line[0]


def _assertion(task: Task, report: StatusReport) -> object:
    """Tell what a push claims: a state, and which of Kling's tasks this is where that is not known yet."""
    return report.state, () if task.kling_id is not None else tuple(ids_in(report))
