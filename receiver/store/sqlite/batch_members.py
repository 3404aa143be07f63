"""Which batches a group of new tasks goes into: made with their first task, closed with their last."""

import json
import sqlite3
from collections.abc import Collection
from dataclasses import replace

from receiver.domain.batches import Batch
from receiver.domain.clock import from_micros, micros
from receiver.domain.errors import Conflict
from receiver.domain.model import Task
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import sql, write_rows


class BatchMembership:
    """The batches as they stand after each task that was entered."""

    def __init__(self, connection: sqlite3.Connection, names: Collection[str]) -> None:
        rows = connection.execute(sql("batches_by_name"), {"names": json.dumps(list(names))}) if names else ()
        self._batches = {row["name"]: read_batch(row) for row in rows}
        self._changed: dict[str, Batch] = {}

    def add(self, task: Task, size: int | None) -> None:
        """Take a task into its batch, which is to have *size* tasks if that is given. Raises Conflict."""
        if task.batch is None:
            return
        batch = self._batches.get(task.batch) or Batch(
            name=task.batch, id=f"bat_{task.id.partition('_')[2]}", created_at=task.created_at
        )
        batch = _with_task(batch, task, size)
        self._batches[batch.name] = self._changed[batch.name] = batch

    def write(self, connection: sqlite3.Connection) -> None:
        """Keep the batches that took tasks in."""
        write_rows(connection, "save_batch", map(_row, self._changed.values()))


def _with_task(batch: Batch, task: Task, size: int | None) -> Batch:
    if batch.closed_at is not None:
        raise Conflict(
            f"Batch {batch.name} is closed: it has its {batch.task_count} tasks.",
            remedy="Give the task another batch, or none.",
        )
    size = batch.size if size is None else size
    taken = batch.task_count + 1
    if size is not None and (batch.size not in (None, size) or size < taken):
        raise Conflict(
            f"Batch {batch.name} cannot be of {size} tasks: it has {batch.task_count} of {batch.size or 'any number'}.",
            remedy="Say one size, with its first task or with each, or none at all.",
        )
    return replace(batch, size=size, task_count=taken, closed_at=task.created_at if taken == size else None)


def read_batch(row: rows.Row) -> Batch:
    """Read a batch."""
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


def _row(batch: Batch) -> rows.Values:
    """Write a batch for ``save_batch``, which leaves its end alone."""
    closed_at = None if batch.closed_at is None else micros(batch.closed_at)
    return (batch.name, batch.id, batch.size, batch.task_count, micros(batch.created_at), closed_at)
