"""Results of tasks in the store's file."""

import json
import sqlite3
from collections.abc import Sequence

from receiver.domain.clock import first_id
from receiver.domain.model import Origin
from receiver.store import rows
from receiver.store.cursors import decode_cursor, encode_cursor
from receiver.store.interfaces import ResultFilter, ResultPage, StoredResult, TaskResults
from receiver.store.result_rows import MAX_SEARCHED, read_results
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql


class SqliteResultStore:
    """Results, in the store's file."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find(self, task_id: str, number: int) -> StoredResult | None:
        """Find an archived result of a task by its number."""
        return await self._lists.read(find, task_id, number)

    async def list(self, wanted: ResultFilter, *, limit: int, cursor: str | None = None) -> ResultPage:
        """List the results of successful tasks, newest task first."""
        return await self._lists.read(list_results, wanted, limit, decode_cursor(cursor, prefix="tsk"))

    async def of_tasks(self, task_ids: Sequence[str]) -> Sequence[TaskResults]:
        """Return the results of some tasks, newest first."""
        return await self._lists.read(of_tasks, task_ids)


def find(connection: sqlite3.Connection, task_id: str, number: int) -> StoredResult | None:
    """Find an archived result of a task by its number."""
    row = connection.execute(sql("result_of_task"), {"task_id": task_id, "number": number}).fetchone()
    if row is None:
        return None
    return StoredResult(task_id=task_id, event_id=row["event_id"], asset=rows.asset(row))


def list_results(connection: sqlite3.Connection, wanted: ResultFilter, limit: int, cursor: str | None) -> ResultPage:
    """List the results of successful tasks, newest task first."""
    arguments = {
        "cursor": cursor,
        "first": None if wanted.since is None else first_id("tsk", wanted.since),
        "last": None if wanted.until is None else first_id("tsk", wanted.until),
        "batch": wanted.batch,
        "left_out": None if wanted.with_tests else Origin.TEST,
        "tags": json.dumps(dict(wanted.tags)) if wanted.tags else None,
        "searched": MAX_SEARCHED,
        "limit": limit + 1,
    }
    found = connection.execute(queries()["list_results"].with_optional(arguments), arguments).fetchall()
    items = read_results(found[:limit])
    if len(found) > limit:
        return ResultPage(items=items, next=encode_cursor(found[limit - 1]["task_id"]))
    end = connection.execute(queries()["end_of_results_search"].with_optional(arguments), arguments).fetchone()
    return ResultPage(items=items, next=encode_cursor(end["task_id"]) if end else None, is_partial=end is not None)


def of_tasks(connection: sqlite3.Connection, task_ids: Sequence[str]) -> Sequence[TaskResults]:
    """Return the results of some tasks, newest first."""
    return read_results(connection.execute(sql("results_of_tasks"), {"ids": json.dumps(task_ids)}))
