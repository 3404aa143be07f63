"""Durations of past tasks in a PostgreSQL store: one row for each kind."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from receiver.domain.clock import micros
from receiver.store.calls import SaveDurationsCall
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch, write_each
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresDurationStore:
    """Durations of past tasks."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def load(self) -> Mapping[str, Sequence[float]]:
        """Return all durations."""
        return await self._lists.read(_load)

    async def save(self, durations: Mapping[str, Sequence[float]], *, now: datetime, keep: int) -> None:
        """Replace the durations of these kinds."""
        await self._writer.execute(_SAVE, SaveDurationsCall(durations=durations, now=now, keep=keep))


async def _load(connection: Connection) -> Mapping[str, Sequence[float]]:
    return {row["kind"]: json.loads(row["samples"]) for row in await fetch(connection, "durations")}


async def _save(connection: Connection, group: Sequence[SaveDurationsCall]) -> Sequence[None]:
    await fetch(connection, "lock_durations")  # it deletes kinds that another node may be saving
    for call in group:
        now = micros(call.now)
        rows = [(kind, json.dumps(samples), now) for kind, samples in sorted(call.durations.items())]
        await write_each(connection, "save_durations", rows)
        await change(connection, "trim_durations", {"keep": call.keep})
    return [None] * len(group)


_SAVE: WriteOp[SaveDurationsCall, None] = WriteOp(write=_save)
