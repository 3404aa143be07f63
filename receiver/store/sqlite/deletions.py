"""Deletes single tasks from the store's file, each in one transaction."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from receiver.domain.audit import AuditEntry
from receiver.domain.errors import Conflict
from receiver.store import rows
from receiver.store.calls import DeleteCall
from receiver.store.interfaces import StoredTask
from receiver.store.item_error import ItemError
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteDeletionStore:
    """Deletes tasks from the store's file."""

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


def _stored(connection: sqlite3.Connection, task_id: str) -> StoredTask | None:
    found = connection.execute(sql("tasks_by_id"), {"ids": json.dumps([task_id])}).fetchone()
    if found is None:
        return None
    task = rows.task(found)
    counts = connection.execute(sql("count_rows_of_task"), {"task_id": task_id, "batch": task.batch}).fetchone()
    assets = connection.execute(sql("asset_places"), {"task_id": task_id}).fetchall()
    return StoredTask(
        task=task,
        **{name: counts[name] for name in ("pushes", "events", "deliveries", "pending_deliveries", "archiving")},
        is_batch_unfinished=bool(counts["is_batch_unfinished"]),
        is_batch_open=bool(counts["is_batch_open"]),
        files=[row["path"] for row in assets if row["path"] is not None],
        objects=[row["storage"] for row in assets if row["storage"] is not None],
    )


def _delete(connection: sqlite3.Connection, group: Sequence[DeleteCall]) -> Sequence[StoredTask | ItemError | None]:
    return [_delete_one(connection, call) for call in group]


def _delete_one(connection: sqlite3.Connection, call: DeleteCall) -> StoredTask | ItemError | None:
    stored = _stored(connection, call.task_id)
    if stored is None:
        return None
    try:
        call.check(stored)
    except Conflict as exc:
        return ItemError(exc)
    connection.executemany(sql("add_removal"), [(place, call.task_id) for place in call.places(stored)])
    connection.execute(sql("keep_cost"), {"task_id": call.task_id})
    connection.execute(sql("delete_tasks"), {"ids": json.dumps([call.task_id])})
    connection.execute(sql("insert_action"), rows.action_row(call.action))
    return stored


def _removals(connection: sqlite3.Connection) -> Mapping[str, str]:
    return {row["place"]: row["task_id"] for row in connection.execute(sql("removals"))}


def _removed(connection: sqlite3.Connection, group: Sequence[Sequence[str]]) -> Sequence[None]:
    connection.executemany(sql("delete_removal"), [(place,) for places in group for place in places])
    return [None] * len(group)


# Deletion frees disk space, so it is never refused for lack of it.
_DELETE: WriteOp[DeleteCall, StoredTask | None] = WriteOp(write=_delete, uses_disk=False)
_REMOVED: WriteOp[Sequence[str], None] = WriteOp(write=_removed, uses_disk=False)
