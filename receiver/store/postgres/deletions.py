"""Deletes single tasks from a PostgreSQL store, each in one transaction."""

from collections.abc import Callable, Mapping, Sequence

from receiver.domain.audit import AuditEntry
from receiver.domain.errors import Conflict
from receiver.store import rows
from receiver.store.calls import DeleteCall
from receiver.store.interfaces import StoredTask
from receiver.store.item_error import ItemError
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch, fetch_row, write_each, write_rows
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresDeletionStore:
    """Deletes tasks."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def stored(self, task_id: str) -> StoredTask | None:
        """Return what is stored about a task."""
        return await self._lists.read(_stored, task_id)

    async def delete(
        self,
        task_id: str,
        *,
        check: Callable[[StoredTask], None],
        places: Callable[[StoredTask], Sequence[str]],
        action: AuditEntry,
    ) -> StoredTask | None:
        """Delete a task, and return what was stored about it."""
        return await self._writer.execute(
            _DELETE, DeleteCall(task_id=task_id, check=check, places=places, action=action)
        )

    async def removals(self) -> Mapping[str, str]:
        """Return the files and objects still to be removed."""
        return await self._lists.read(_removals)

    async def removed(self, places: Sequence[str]) -> None:
        """Record that files and objects have been removed."""
        await self._writer.execute(_REMOVED, places)


async def _stored(connection: Connection, task_id: str, *, hold: bool = False) -> StoredTask | None:
    found = await fetch_row(connection, "task_to_delete", {"task_id": task_id, "hold": hold or None})
    if found is None:
        return None
    task = rows.task(found)
    if hold:
        events = await fetch(connection, "hold_events_of_task", {"task_id": task_id})
        await fetch(connection, "hold_deliveries", {"events": [row["id"] for row in events]})
    counts = await fetch_row(connection, "count_rows_of_task", {"task_id": task_id, "batch": task.batch})
    assert counts is not None  # noqa: S101 -- a SELECT without FROM has one row
    assets = await fetch(connection, "asset_places", {"task_id": task_id})
    return StoredTask(
        task=task,
        **counts,
        files=[row["path"] for row in assets if row["path"] is not None],
        objects=[row["storage"] for row in assets if row["storage"] is not None],
    )


async def _delete(connection: Connection, group: Sequence[DeleteCall]) -> Sequence[StoredTask | ItemError | None]:
    return [await _delete_one(connection, call) for call in group]


async def _delete_one(connection: Connection, call: DeleteCall) -> StoredTask | ItemError | None:
    stored = await _stored(connection, call.task_id, hold=True)
    if stored is None:
        return None
    try:
        call.check(stored)
    except Conflict as exc:
        return ItemError(exc)
    places = [(rows.storable_text(place), call.task_id) for place in sorted(set(call.places(stored)))]
    await write_each(connection, "add_removal", places)
    await change(connection, "keep_cost", {"task_id": call.task_id})
    await change(connection, "delete_tasks", {"ids": [call.task_id]})
    await write_rows(connection, "insert_action", [rows.action_row(call.action)])
    return stored


async def _removals(connection: Connection) -> Mapping[str, str]:
    return {row["place"]: row["task_id"] for row in await fetch(connection, "removals")}


async def _removed(connection: Connection, group: Sequence[Sequence[str]]) -> Sequence[None]:
    await change(connection, "delete_removals", {"places": [place for places in group for place in places]})
    return [None] * len(group)


_DELETE: WriteOp[DeleteCall, StoredTask | None] = WriteOp(write=_delete)
_REMOVED: WriteOp[Sequence[str], None] = WriteOp(write=_removed)
