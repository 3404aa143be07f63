"""Tasks: new ones, their transitions, the submit queue and the poll schedule."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.costs import Cost
from receiver.domain.duties import Fence
from receiver.domain.model import Delivery, Event, Push, PushOutcome, Task, TaskState


class ByToken(msgspec.Struct, frozen=True, kw_only=True):
    """Finds a task by the SHA-256 of its callback token."""

    token_hash: bytes


class ById(msgspec.Struct, frozen=True, kw_only=True):
    """Finds a task by our own id."""

    id: str


TaskRef = ByToken | ById


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one push, poll or request writes about a task: all of it or nothing.

    ``task`` replaces the row; None leaves it unchanged. ``push`` is stored as received. ``resolved`` sets the
    outcome of earlier pushes. ``intent`` replaces the stored body of the submit. ``cost`` is stored unless a more
    complete one is known. ``keep_redundant`` is how many redundant pushes of the task to keep, newest first;
    None keeps all. ``action`` is the audit entry if a person made the change.
    """

    task: Task | None = None
    push: Push | None = None
    events: Sequence[Event] = ()
    deliveries: Sequence[Delivery] = ()
    resolved: Mapping[str, PushOutcome] = msgspec.field(default_factory=dict)
    intent: bytes | None = None
    cost: Cost | None = None
    keep_redundant: int | None = None
    action: AuditEntry | None = None


Decide = Callable[[Task, Sequence[Push]], Change]
"""Decides inside the transaction what changes for a task. Receives the task and, on request, its pending pushes.
It must be pure: if the transaction is repeated, the store calls it again with a newer row."""


class ApplyCall(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one ``apply``. With a *fence* it raises DutyLost and writes nothing if the lease has changed."""

    ref: TaskRef
    decide: Decide
    with_pending: bool = False
    fence: Fence | None = None


class SlotUse(msgspec.Struct, frozen=True, kw_only=True):
    """The slots that running tasks use, by slot key: all of them, and without the tasks that are still submitting."""

    all: Mapping[str, int]
    confirmed: Mapping[str, int]

    def with_submitting(self, task: Task) -> "SlotUse":
        """Return the slots in use when *task* is submitting too."""
        key, weight = task.queueing.slot_key, task.queueing.weight
        used = {**self.all, key: self.all.get(key, 0) + weight} if key else self.all
        return SlotUse(all=used, confirmed=self.confirmed)


class QueuedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A queued task, and the bytes of its submit body."""

    task: Task
    size: int


class QueueFront(msgspec.Struct, frozen=True, kw_only=True):
    """The queued tasks that are next, the slots in use, and when the next task is due that is not due yet."""

    tasks: Sequence[QueuedTask]
    slots: SlotUse
    next_due_at: datetime | None


class TaskStore(Protocol):
    """Tasks. ``apply`` is the only way to change a stored one."""

    async def add(
        self,
        task: Task,
        intent: bytes,
        *,
        events: Sequence[Event] = (),
        batch_size: int | None = None,
        digest: bytes | None = None,
        fence: Fence | None = None,
    ) -> Task:
        """Store a new task and its submit body. Return the earlier task if its idempotency key is known.

        *digest* is that of the request, to compare later requests with the same key. A gateway client's task that
        Kling refused does not keep its key. With a *fence* it raises DutyLost if the lease has changed.
        Compare the ids to tell which one was returned. The task's batch is created if it is missing, and closed when
        it has *batch_size* tasks. Raises Conflict if the batch is closed or has another size.
        """
        ...

    async def request_digest(self, task_id: str) -> bytes | None:
        """Return the digest of the request that created a task; None if it had no idempotency key."""
        ...

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Call *decide* with the current task and write its change, in one transaction.

        Return None if there is no such task. Calls for one task run in sequence, and each sees what the previous one
        wrote. *with_pending* also loads the task's pushes that await confirmation.
        """
        ...

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        """Return for each of *calls* what ``apply`` returns or raises, at less cost than one by one."""
        ...

    @property
    def known_tokens(self) -> BoundedDict[bytes, None]:
        """The hashes of recently stored tokens, which may have ended since. Callers may add and remove some."""
        ...

    async def has_live_token(self, token_hash: bytes, *, now: datetime) -> bool:
        """Return whether an unexpired task has this token, without waiting for the writer."""
        ...

    async def has_verified_event(self, task_id: str) -> bool:
        """Return whether a signature or the API has verified anything about a task."""
        ...

    async def intent(self, task_id: str) -> bytes:
        """Return the body the task was submitted with; empty if it is no longer stored."""
        ...

    async def intents(self, task_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bodies the tasks were submitted with, by task id, as far as they are still stored."""
        ...

    async def claim_tasks(
        self,
        states: Sequence[TaskState],
        *,
        now: datetime,
        until: datetime,
        limit: int,
        endpoints: Sequence[str] | None = None,
        pushes_first: bool = False,
    ) -> Sequence[Task]:
        """Claim up to *limit* due tasks in *states*, longest due first. They become due again at *until*.

        *endpoints* limits the claim to these endpoints. *pushes_first* prefers tasks that a push made due.
        """
        ...

    async def make_due(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, min_gap: timedelta
    ) -> int:
        """Make tasks that are due before *before* due *now*, or *min_gap* after their last poll. Return the count.

        Call it only at startup, when no other process is at work: claimed tasks become due as well.
        """
        ...

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Return when the next task in *states* is due, ignoring those due at or before *after*."""
        ...

    async def queue_front(
        self, *, now: datetime, limit: int, head_ids: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> QueueFront:
        """Return the due queued tasks that are next, at most *limit* of each slot key; nothing is claimed.

        They have the highest priority of their key. Those of a higher priority are before others, and the first of
        each key is before the second of any. Of a key, a task in *head_ids* is first. Otherwise the longest due task
        of the share that uses the fewest slots is next, as if those before it ran. Ties go to the share served least
        recently. The slots are those of ``slot_use``.
        """
        ...

    async def queued_creates(self) -> Sequence[Task]:
        """Return the queued tasks of gateway clients, oldest first."""
        ...

    async def assign_fair_shares(self, tag: str) -> None:
        """Set the fair share of each queued or running task to its value of *tag*, or "" without one."""
        ...

    async def slots_in_use(self, *, confirmed_only: bool = False, absent: Sequence[str] = ()) -> Mapping[str, int]:
        """Return the slots that running tasks use, by slot key; *confirmed_only* ignores tasks still submitting.

        Of those, the ids in *absent* are never counted: Kling does not know these tasks.
        """
        ...

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events without a task, such as alerts, and deliveries. Works even if disk space is low."""
        ...
