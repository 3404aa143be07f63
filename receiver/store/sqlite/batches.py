"""Batches in the store's file: how they stand, what closes them, and the one time each is finished."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from receiver.domain.clock import micros
from receiver.domain.model import TaskState
from receiver.domain.replays import Action, Batch, BatchEnd, BatchState, BatchView, EndedTask
from receiver.events.factory import Announcement
from receiver.store.interfaces import Page
from receiver.store.sqlite import catalog, rows
from receiver.store.sqlite.batch_members import read_batch
from receiver.store.sqlite.catalog import json_list, read_cursor
from receiver.store.sqlite.queries import change, queries, sql
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import JudgedWork, Raised, Work, Writer

Read: TypeAlias = Callable[..., Awaitable[Any]]

_LOOKED_AT = 100  # complete batches that are found at once


class BatchStore:
    """What tasks share a batch, in the store's file."""

    def __init__(self, writer: Writer, glance: Read, browse: Read) -> None:
        self._writer = writer
        self._glance = glance
        self._browse = browse

    async def close(self, name: str, *, now: datetime, action: Action) -> bool:
        """Let a batch take no more tasks in; False where it is not open."""
        return await self._writer.do(_CLOSE, Close(name=name, now=now, action=action))

    async def complete(self) -> Sequence[str]:
        """Name batches that are closed and whose tasks are all over, their results home or given up, untold so far."""
        found: Sequence[str] = await self._glance(_complete)
        return found

    async def finish(
        self, name: str, announce: Callable[[BatchEnd], Announcement], *, limit: int
    ) -> Announcement | None:
        """Store what *announce* makes of a complete batch and its first *limit* tasks, in one transaction.

        None, and nothing written, where it is not complete, or was finished before.
        """
        return await self._writer.do(_FINISH, Finish(name=name, announce=announce, limit=limit))

    async def find(self, name: str) -> BatchView | None:
        """Find a batch."""
        found: Page[BatchView] = await self._browse(_page, {"name": name}, limit=1)
        return found.items[0] if found.items else None

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        wanted = {"states": json_list(states), "cursor": read_cursor(cursor, prefix="bat")}
        found: Page[BatchView] = await self._browse(_page, wanted, limit=limit)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """One call of ``close``."""

    name: str
    now: datetime
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """One call of ``finish``."""

    name: str
    announce: Callable[[BatchEnd], Announcement]
    limit: int


def _complete(connection: sqlite3.Connection) -> Sequence[str]:
    statement = queries()["complete_batches"].given({})
    return [row["name"] for row in connection.execute(statement, {"limit": _LOOKED_AT})]


def _page(connection: sqlite3.Connection, wanted: Mapping[str, object], *, limit: int) -> Page[BatchView]:
    found = catalog.page(connection, "list_batches", wanted, limit=limit, read=read_batch)
    counts = _counts(connection, [batch.name for batch in found.items])
    return Page(items=[BatchView(batch=each, counts=counts[each.name]) for each in found.items], next=found.next)


def _counts(connection: sqlite3.Connection, names: Sequence[str]) -> Mapping[str, Mapping[TaskState, int]]:
    counts: dict[str, dict[TaskState, int]] = {name: {} for name in names}
    for row in connection.execute(sql("batch_states"), {"names": json.dumps(names)}):
        counts[row["batch"]][TaskState(row["state"])] = row["tasks"]
    return counts


def _close(connection: sqlite3.Connection, group: Sequence[Close]) -> Sequence[bool]:
    return [
        change(
            connection,
            "close_batch",
            {"name": close.name, "now": micros(close.now)},
            action=rows.action_row(close.action),
        )
        for close in group
    ]


def _look(connection: sqlite3.Connection, group: Sequence[Finish]) -> dict[str, BatchEnd]:
    """Read each batch whole that is still to be finished: what its announcement tells is true as of one moment."""
    statement = queries()["complete_batches"].given({"name": True})
    ends = {}
    for finish in group:
        row = connection.execute(statement, {"name": finish.name, "limit": 1}).fetchone()
        if row is not None:
            ends[finish.name] = _read_end(connection, read_batch(row), finish.limit)
    return ends


def _read_end(connection: sqlite3.Connection, batch: Batch, limit: int) -> BatchEnd:
    found = connection.execute(sql("batch_ends"), {"name": batch.name, "limit": limit})
    tasks = [EndedTask(task=rows.task(row), envelope=row["envelope"] or b"") for row in found]
    return BatchEnd(batch=batch, counts=_counts(connection, [batch.name])[batch.name], tasks=tasks)


def _judge(
    group: Sequence[Finish], ends: dict[str, BatchEnd]
) -> tuple[Sequence[Announcement | Raised | None], Mapping[str, Announcement]]:
    said: dict[str, Announcement] = {}
    results: list[Announcement | Raised | None] = []
    for finish in group:
        end = ends.pop(finish.name, None)  # popped, so that one group finishes a batch once
        if end is None:
            results.append(None)
            continue
        try:
            said[finish.name] = finish.announce(end)
            results.append(said[finish.name])
        except Exception as exc:  # noqa: BLE001 -- whatever a caller's words raise is its caller's alone
            results.append(Raised(exc))
    return results, said


def _write(connection: sqlite3.Connection, said: Mapping[str, Announcement]) -> None:
    for name, announcement in said.items():
        event = announcement.event
        wanted = {"name": name, "now": micros(event.created_at), "event_id": event.id}
        if connection.execute(sql("finish_batch"), wanted).rowcount != 1:
            raise RuntimeError(f"batch {name} was finished within one transaction by another hand")
        write_events(connection, [event], announcement.deliveries)


_CLOSE: Work[Close, bool] = Work(write=_close, grows=False)
_FINISH: JudgedWork[Finish, dict[str, BatchEnd], Mapping[str, Announcement], Announcement | None] = JudgedWork(
    look=_look, judge=_judge, write=_write
)
