"""The arguments of calls of a task store, as the writer's items."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from receiver.domain.duties import Fence
from receiver.domain.model import Delivery, Event, Origin, Task, TaskState


class AddCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``add``."""

    task: Task
    intent: bytes
    events: Sequence[Event]
    batch_size: int | None
    digest: bytes | None = None
    fence: Fence | None = None


class ClaimTasksCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``claim_tasks``."""

    states: Sequence[TaskState]
    now: datetime
    until: datetime
    limit: int
    endpoints: Sequence[str] | None = None
    pushes_first: bool = False


class MakeDueCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``make_due``."""

    states: Sequence[TaskState]
    now: datetime
    before: datetime
    min_gap: timedelta


class AddEventsCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``add_events``."""

    events: Sequence[Event]
    deliveries: Sequence[Delivery]


def is_key_released(task: Task) -> bool:
    """Return whether a task's key may be used again: a gateway client sends a create again that Kling refused."""
    return task.origin is Origin.GATEWAY and task.state is TaskState.REJECTED
