"""A batch: tasks whose end is reported by one event."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from receiver.domain.listed_state import ListedState
from receiver.domain.model import Task

BATCH_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"  # needs no quoting in a path
BATCH_NAME_RULE = "at most 100 letters, digits or . _ : - and start with a letter or digit"


class BatchState(StrEnum):
    """The state of a batch."""

    OPEN = "open"  # accepts tasks
    CLOSED = "closed"  # accepts no more tasks and waits for those it has
    FINISHED = "finished"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A named group of tasks. ``event_id`` is the event that reports the end of all of them.

    An open batch accepts tasks and counts them in ``task_count``. It closes when a client closes it, or when
    ``task_count`` reaches the declared ``size``.
    """

    name: str
    id: str
    created_at: datetime
    size: int | None = None
    task_count: int = 0
    closed_at: datetime | None = None
    finished_at: datetime | None = None
    event_id: str | None = None

    @property
    def state(self) -> BatchState:
        """The state of the batch."""
        if self.closed_at is None:
            return BatchState.OPEN
        return BatchState.CLOSED if self.finished_at is None else BatchState.FINISHED


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A batch and the number of its tasks in each state."""

    batch: Batch
    counts: Mapping[ListedState, int]


class FinishedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A finished task and the JSON of its last event, which is empty if the event is no longer kept."""

    task: Task
    envelope: bytes


class FinishedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch whose tasks are all finished, and the first of its tasks."""

    batch: Batch
    counts: Mapping[ListedState, int]
    tasks: Sequence[FinishedTask]
