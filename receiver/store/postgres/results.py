"""Results of tasks in a PostgreSQL store."""

from collections.abc import Sequence

from receiver.domain.clock import first_id
from receiver.domain.model import Origin
from receiver.store import rows
from receiver.store.cursors import decode_cursor, encode_cursor
from receiver.store.interfaces import ResultFilter, ResultPage, StoredResult, TaskResults
from receiver.store.postgres.catalog import tags_filter
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import fetch, fetch_row, fetch_value
from receiver.store.result_rows import MAX_SEARCHED, read_results


class PostgresResultStore:
    """Results."""

    def __init__(self, lists: Reader) -> None:
        self._lists = lists

    async def find(self, task_id: str, number: int) -> StoredResult | None:
        """Find an archived result of a task by its number."""
        return await self._lists.read(_find, task_id, number)

    async def list(self, wanted: ResultFilter, *, limit: int, cursor: str | None = None) -> ResultPage:
        """List the results of successful tasks, newest task first."""
        return await self._lists.read(_list_results, wanted, limit, decode_cursor(cursor, prefix="tsk"))

    async def of_tasks(self, task_ids: Sequence[str]) -> Sequence[TaskResults]:
        """Return the results of some tasks, newest first."""
        return await self._lists.read(_of_tasks, task_ids)


async def _find(connection: Connection, task_id: str, number: int) -> StoredResult | None:
    row = await fetch_row(connection, "result_of_task", {"task_id": task_id, "number": number})
    if row is None:
        return None
    return StoredResult(task_id=task_id, event_id=row["event_id"], asset=rows.asset(row))


async def _list_results(connection: Connection, wanted: ResultFilter, limit: int, cursor: str | None) -> ResultPage:
    arguments = {
        "cursor": cursor,
        "first": None if wanted.since is None else first_id("tsk", wanted.since),
        "last": None if wanted.until is None else first_id("tsk", wanted.until),
        "batch": wanted.batch,
        "left_out": None if wanted.with_tests else Origin.TEST,
        "tags": tags_filter(wanted.tags),
        "searched": MAX_SEARCHED,
        "limit": limit + 1,
    }
    found = await fetch(connection, "list_results", arguments)
    items = read_results(found[:limit])
    if len(found) > limit:
        return ResultPage(items=items, next=encode_cursor(found[limit - 1]["task_id"]))
    end = await fetch_value(connection, "end_of_results_search", arguments)
    return ResultPage(items=items, next=encode_cursor(end) if end else None, is_partial=end is not None)


async def _of_tasks(connection: Connection, task_ids: Sequence[str]) -> Sequence[TaskResults]:
    return read_results(await fetch(connection, "results_of_tasks", {"ids": task_ids}))
