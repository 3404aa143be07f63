"""Deletion of single tasks on request."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.model import Task


class StoredTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task, and what is stored about it: numbers of rows, paths of archived files and URLs of archived objects.

    ``archiving`` counts its events whose results are still being archived. ``is_batch_unfinished`` says that its batch
    still waits for tasks, ``is_batch_open`` that it still accepts some.
    """

    task: Task
    pushes: int
    events: int
    deliveries: int
    pending_deliveries: int
    archiving: int
    is_batch_unfinished: bool
    is_batch_open: bool
    files: Sequence[str] = ()
    objects: Sequence[str] = ()


class DeletionStore(Protocol):
    """Deletes tasks with everything about them, apart from their costs and the audit log."""

    async def stored(self, task_id: str) -> StoredTask | None:
        """Return what is stored about a task."""
        ...

    async def delete(
        self,
        task_id: str,
        *,
        check: Callable[[StoredTask], None],
        places: Callable[[StoredTask], Sequence[str]],
        action: AuditEntry,
    ) -> StoredTask | None:
        """Delete a task in one transaction, and return what was stored about it. None if there is no such task.

        *check* raises if it must not be deleted. *places* are the files and objects to remove afterwards; they are
        kept as ``removals``. The costs stay in the sums.
        """
        ...

    async def removals(self) -> Mapping[str, str]:
        """Return the files and objects still to be removed, with the ids of their tasks."""
        ...

    async def removed(self, places: Sequence[str]) -> None:
        """Record that files and objects have been removed."""
        ...
