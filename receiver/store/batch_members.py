"""Adds new tasks to their batches. A batch is created with its first task and closed with its last."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from receiver.domain.batches import Batch, FinishedTask
from receiver.domain.clock import from_micros, micros
from receiver.domain.errors import Conflict
from receiver.domain.model import Task
from receiver.domain.quantity_text import counted
from receiver.store import rows
from receiver.store.packing import unpack_event


class BatchMembership:
    """The batches of a group of new tasks, updated with each added task."""

    def __init__(self, found: Iterable[rows.Row]) -> None:
        """*found* are the rows of those batches that exist."""
        self._batches = {row["name"]: read_batch(row) for row in found}
        self._changed: dict[str, Batch] = {}

    def add(self, task: Task, size: int | None) -> None:
        """Add a task to its batch, whose size is *size* tasks unless None. Raises Conflict."""
        if task.batch is None:
            return
        batch = self._batches.get(task.batch) or Batch(
            name=task.batch, id=f"bat_{task.id.partition('_')[2]}", created_at=task.created_at
        )
        batch = _with_task(batch, task, size)
        self._batches[batch.name] = self._changed[batch.name] = batch

    def changed_rows(self) -> Sequence[rows.Values]:
        """Return the rows of the changed batches for ``save_batch``, by name."""
        return [_row(batch) for _, batch in sorted(self._changed.items())]


def _with_task(batch: Batch, task: Task, size: int | None) -> Batch:
    if batch.closed_at is not None:
        raise Conflict(
            f"Batch {batch.name} is closed: it has its {counted(batch.task_count, 'task')}.",
            remedy="Use another batch for the task, or none.",
        )
    size = batch.size if size is None else size
    task_count = batch.task_count + 1
    if size is not None and (batch.size not in (None, size) or size < task_count):
        raise Conflict(
            f"Batch {batch.name} cannot have a size of {size}: "
            f"it has {counted(batch.task_count, 'task')} and its size is {batch.size or 'not set'}.",
            remedy="Set the same size with its first task or with each task, or set none.",
        )
    closed_at = task.created_at if task_count == size else None
    return replace(batch, size=size, task_count=task_count, closed_at=closed_at)


def read_batch(row: rows.Row) -> Batch:
    """Read a batch from its row."""
    closed_at, finished_at = row["closed_at"], row["finished_at"]
    return Batch(
        name=row["name"],
        id=row["id"],
        size=row["size"],
        task_count=row["task_count"],
        created_at=from_micros(row["created_at"]),
        closed_at=None if closed_at is None else from_micros(closed_at),
        finished_at=None if finished_at is None else from_micros(finished_at),
        event_id=row["event_id"],
    )


def read_finished_task(row: rows.Row) -> FinishedTask:
    """Read a finished task with the envelope of its last event, which is empty if there is none, from its row."""
    envelope, _ = unpack_event(row["envelope"] or b"", row["body"] or b"")
    return FinishedTask(task=rows.task(row), envelope=envelope)


def _row(batch: Batch) -> rows.Values:
    """Return the row of a batch for ``save_batch``, which does not change its finish."""
    closed_at = None if batch.closed_at is None else micros(batch.closed_at)
    return (batch.name, batch.id, batch.size, batch.task_count, micros(batch.created_at), closed_at)
