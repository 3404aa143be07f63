"""Archived results in the store's file."""

import sqlite3

from receiver.store.interfaces import StoredResult
from receiver.store.sqlite import rows
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql


class SqliteResultStore:
    """Archived results, in the store's file."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find(self, task_id: str, number: int) -> StoredResult | None:
        """Find a result of a task by its number."""
        return await self._lists.read(find, task_id, number)


def find(connection: sqlite3.Connection, task_id: str, number: int) -> StoredResult | None:
    """Find a result of a task by its number."""
    row = connection.execute(sql("result_of_task"), {"task_id": task_id, "number": number}).fetchone()
    if row is None:
        return None
    return StoredResult(task_id=task_id, event_id=row["event_id"], asset=rows.asset(row))
