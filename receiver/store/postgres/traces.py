"""The traces of tasks in a PostgreSQL store."""

from collections.abc import Sequence

from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import fetch_value, write_each
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresTraceStore:
    """The traces of tasks."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def save(self, task_id: str, traceparent: str) -> None:
        """Store the trace of a task, unless it has one."""
        await self._writer.execute(_SAVE, (task_id, traceparent))

    async def find(self, task_id: str) -> str | None:
        """Return the trace of a task."""
        return await self._hot.read(_find, task_id)


async def _save(connection: Connection, group: Sequence[tuple[str, str]]) -> Sequence[None]:
    await write_each(connection, "save_trace", sorted(group))  # a trace locks its task
    return [None] * len(group)


async def _find(connection: Connection, task_id: str) -> str | None:
    found: str | None = await fetch_value(connection, "trace", {"task_id": task_id})
    return found


_SAVE: WriteOp[tuple[str, str], None] = WriteOp(write=_save, groups=True)
