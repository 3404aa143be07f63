"""Durations of past tasks in the store's file: one row for each kind."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

from receiver.domain.clock import micros
from receiver.store.calls import SaveDurationsCall
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteDurationStore:
    """Durations of past tasks, in the store's file."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def load(self) -> Mapping[str, Sequence[float]]:
        """Return all durations."""
        return await self._lists.read(_load)

    async def save(self, durations: Mapping[str, Sequence[float]], *, now: datetime, keep: int) -> None:
        """Replace the durations of these kinds."""
        await self._writer.execute(_SAVE, SaveDurationsCall(durations=durations, now=now, keep=keep))


def _load(connection: sqlite3.Connection) -> Mapping[str, Sequence[float]]:
    return {row["kind"]: json.loads(row["samples"]) for row in connection.execute(sql("durations"))}


def _save(connection: sqlite3.Connection, group: Sequence[SaveDurationsCall]) -> Sequence[None]:
    for call in group:
        rows = [(kind, json.dumps(samples), micros(call.now)) for kind, samples in call.durations.items()]
        connection.executemany(sql("save_durations"), rows)
        connection.execute(sql("trim_durations"), {"keep": call.keep})
    return [None] * len(group)


_SAVE: WriteOp[SaveDurationsCall, None] = WriteOp(write=_save)
