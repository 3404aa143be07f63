"""The traces of tasks in the store's file."""

import sqlite3
from collections.abc import Sequence

from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql, write_rows
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteTraceStore:
    """The traces of tasks, in the store's file."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def save(self, task_id: str, traceparent: str) -> None:
        """Store the trace of a task, unless it has one."""
        await self._writer.execute(_SAVE, (task_id, traceparent))

    async def find(self, task_id: str) -> str | None:
        """Return the trace of a task."""
        return await self._hot.read(_find, task_id)


def _save(connection: sqlite3.Connection, group: Sequence[tuple[str, str]]) -> Sequence[None]:
    write_rows(connection, "save_trace", group)
    return [None] * len(group)


def _find(connection: sqlite3.Connection, task_id: str) -> str | None:
    row = connection.execute(sql("trace"), {"task_id": task_id}).fetchone()
    return None if row is None else str(row["traceparent"])


_SAVE: WriteOp[tuple[str, str], None] = WriteOp(write=_save)
