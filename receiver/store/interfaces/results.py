"""Results of tasks, to show and download them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from receiver.domain.model import Asset


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """An archived result with the task and the event it belongs to."""

    task_id: str
    event_id: str
    asset: Asset


class TaskResults(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a task that succeeded: the envelope of its event."""

    task_id: str
    event_id: str
    created_at: datetime
    envelope: bytes


class ResultFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which results to list: those of tasks created in a period, of a batch, with tags.

    Without ``with_tests``, the test tasks of ``trigger`` are left out.
    """

    since: datetime | None = None
    until: datetime | None = None
    batch: str | None = None
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    with_tests: bool = True


class ResultPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of results, newest task first. If ``is_partial``, the search ended early and continues at ``next``."""

    items: Sequence[TaskResults]
    next: str | None = None
    is_partial: bool = False


class ResultStore(Protocol):
    """Reads of results."""

    async def find(self, task_id: str, number: int) -> StoredResult | None:
        """Find an archived result of a task by its number, in the task's newest event that has it."""
        ...

    async def list(self, wanted: ResultFilter, *, limit: int, cursor: str | None = None) -> ResultPage:
        """List the results of successful tasks, newest task first. Each call searches a limited number of tasks."""
        ...

    async def of_tasks(self, task_ids: Sequence[str]) -> Sequence[TaskResults]:
        """Return the results of some tasks, newest first."""
        ...
