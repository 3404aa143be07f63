"""The pending pushes of one task: how many may await confirmation by the API, and which id is polled next.

An acknowledged push is never dropped before Kling was polled about it. For a task that was submitted elsewhere, a push
may be the only source of Kling's id. New pushes are refused once too many are pending, because anyone who knows the
URL can send them.
"""

from collections.abc import Container, Mapping

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.errors import TooManyPending
from receiver.domain.model import PushOutcome, StatusReport, Task
from receiver.store.interfaces import Change
from receiver.tasks.poll_schedule import PendingPushes, candidate_ids, ids_in
from receiver.tracking.push_limiter import USUAL_BYTES

MAX_PENDING = 50
"""The most different assertions about one task that may be pending."""

MAX_PENDING_BYTES = 256 * 1024
"""The most bytes of those that are larger than Kling's: each new push is compared with all of them."""

_MAX_TRACKED_TASKS = 1000


def has_confirmed(change: Change) -> bool:
    """Return whether an answer confirmed a callback, whose event it then caused."""
    return bool(change.events) and change.push is not None and change.events[0].push_id != change.push.id


def admit_pending(task: Task, pending: PendingPushes, report: StatusReport, body: bytes) -> Mapping[str, PushOutcome]:
    """Admit one more pending push. Return the outcomes of the pushes that it replaces.

    It replaces equal pushes. If there is no capacity, only the newest push of each assertion is kept, because one is
    enough to poll by. Raises TooManyPending if there are too many different assertions.
    """
    asserted = _assertion(task, report)
    resolved = {
        push.id: PushOutcome.DUPLICATE
        for push, before in pending
        if _assertion(task, before) == asserted and before.matches(report)
    }
    if not _has_capacity(pending, resolved, body):
        newest = {_assertion(task, before): push.id for push, before in pending} | {asserted: ""}
        older = [push.id for push, before in pending if newest[_assertion(task, before)] != push.id]
        resolved = dict.fromkeys(older, PushOutcome.STALE) | resolved
    if not _has_capacity(pending, resolved, body):
        raise TooManyPending("Too many unconfirmed pushes about this task are pending. Send this one again later.")
    return resolved


def _has_capacity(pending: PendingPushes, resolved: Container[str], body: bytes) -> bool:
    """Return whether one more push may be pending beside the unresolved ones.

    Bytes count only for pushes larger than Kling's, so that they leave room for its own. The first may have any size.
    """
    sizes = [len(push.body) for push, _ in pending if push.id not in resolved]
    large = [size for size in sizes if size > USUAL_BYTES]
    fits = len(body) <= USUAL_BYTES or not large or sum(large) + len(body) <= MAX_PENDING_BYTES
    return len(sizes) < MAX_PENDING and fits


class IdRotation:
    """Rotates the candidate ids of each task: a new id, and the id polled last, go to the end.

    The order is kept in memory. After a restart the task's poll count selects the first id.
    """

    def __init__(self) -> None:
        self._queues: BoundedDict[str, list[str]] = BoundedDict(_MAX_TRACKED_TASKS)

    def next(self, task: Task, pending: PendingPushes) -> str | None:
        """Return the id to poll the task by, or None if there is none."""
        ids = candidate_ids(task, pending)
        previous = self._queues.pop(task.id, [])
        if not ids:
            return None
        queue = [name for name in previous if name in ids]
        queue += [name for name in ids if name not in queue]
        if len(ids) > 1:
            self._queues[task.id] = [*queue[1:], queue[0]]
        return queue[0]


def _assertion(task: Task, report: StatusReport) -> object:
    """Return what a push asserts: the state, and Kling's id if it is not known yet."""
    return report.state, () if task.kling_id is not None else tuple(ids_in(report))
