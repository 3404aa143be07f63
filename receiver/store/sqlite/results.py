"""Results of tasks in the store's file."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from receiver.domain.clock import first_id, from_micros
from receiver.store import rows
from receiver.store.interfaces import ResultFilter, ResultPage, StoredResult, TaskResults
from receiver.store.sqlite.catalog import decode_cursor, encode_cursor
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql

MAX_SEARCHED = 2000
"""How many tasks one page searches."""


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
        "tags": json.dumps(dict(wanted.tags)) if wanted.tags else None,
        "searched": MAX_SEARCHED,
        "limit": limit + 1,
    }
    found = connection.execute(queries()["list_results"].with_optional(arguments), arguments).fetchall()
    items = _results(found[:limit])
    if len(found) > limit:
        return ResultPage(items=items, next=encode_cursor(found[limit - 1]["task_id"]))
    end = connection.execute(queries()["end_of_results_search"].with_optional(arguments), arguments).fetchone()
    return ResultPage(items=items, next=encode_cursor(end["task_id"]) if end else None, is_partial=end is not None)


def of_tasks(connection: sqlite3.Connection, task_ids: Sequence[str]) -> Sequence[TaskResults]:
    """Return the results of some tasks, newest first."""
    return _results(connection.execute(sql("results_of_tasks"), {"ids": json.dumps(task_ids)}))


def _results(found: Iterable[sqlite3.Row]) -> Sequence[TaskResults]:
    """Read results. Of a task with an unverified and a verified success, only the last one counts."""
    by_task: dict[str, TaskResults] = {}
    for row in found:
        created_at, task_id = from_micros(row["created_at"]), row["task_id"]
        result = TaskResults(task_id=task_id, event_id=row["id"], created_at=created_at, envelope=row["envelope"])
        by_task.setdefault(task_id, result)
    return list(by_task.values())
