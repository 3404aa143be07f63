"""What is taken away once it is old: a page at a time, so that whoever waits to write never waits for long.

The file does not shrink: SQLite fills the room that is left by what is gone before it asks for more, so it stays as
large as the busiest time it has seen. Giving pages back to the disk would cost every write a little for ever.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from receiver.domain.clock import micros
from receiver.store.interfaces import Litter, Swept
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import Work

PAGE = 200
"""How many rows are looked at in one transaction."""

_BYTES = 8 * 1024 * 1024  # of bodies taken in one transaction
_ROWS = 1000  # that go with others in one transaction: attempts with events, pushes with tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One call of ``sweep``."""

    litter: Litter
    before: datetime
    now: datetime
    after: str

    @property
    def arguments(self) -> Mapping[str, object]:
        """Give what the statements ask for."""
        return {"before": micros(self.before), "now": micros(self.now), "after": self.after, "limit": PAGE}


def _sweep(connection: sqlite3.Connection, group: Sequence[Sweep]) -> Sequence[Swept]:
    return [_BROOMS[sweep.litter](connection, sweep) for sweep in group]


def _bodies(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    ids, _ = _chosen(connection, "bodies_to_take", sweep, most=_BYTES)
    count = connection.execute(sql("take_bodies"), {"ids": ids}).rowcount
    return Swept(gone={"bodies": count}, next="" if count else None)


def _intents(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    ids, last = _chosen(connection, "old_intents", sweep, most=_BYTES)
    return Swept(gone={"intents": connection.execute(sql("delete_intents"), {"ids": ids}).rowcount}, next=last)


def _events(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    ids, last = _chosen(connection, "old_events", sweep, most=_ROWS)
    deliveries, attempts = connection.execute(sql("count_deliveries"), {"ids": ids}).fetchone()
    events = connection.execute(sql("delete_events"), {"ids": ids}).rowcount
    return Swept(gone={"events": events, "deliveries": deliveries, "attempts": attempts}, next=last)


def _tasks(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    ids, last = _chosen(connection, "old_tasks", sweep, most=_ROWS)
    pushes = connection.execute(sql("count_pushes"), {"ids": ids}).fetchone()[0]
    return Swept(
        gone={"tasks": connection.execute(sql("delete_tasks"), {"ids": ids}).rowcount, "pushes": pushes}, next=last
    )


def _batches(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    count = connection.execute(sql("delete_batches"), sweep.arguments).rowcount
    return Swept(gone={"batches": count}, next="" if count else None)


def _actions(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    count = connection.execute(sql("delete_actions"), sweep.arguments).rowcount
    return Swept(gone={"actions": count}, next="" if count else None)


def _replays(connection: sqlite3.Connection, sweep: Sweep) -> Swept:
    count = connection.execute(sql("delete_replays"), sweep.arguments).rowcount
    return Swept(gone={"replays": count}, next="" if count else None)


_BROOMS: Mapping[Litter, Callable[[sqlite3.Connection, Sweep], Swept]] = {
    Litter.BODIES: _bodies,
    Litter.INTENTS: _intents,
    Litter.EVENTS: _events,
    Litter.TASKS: _tasks,
    Litter.BATCHES: _batches,
    Litter.ACTIONS: _actions,
    Litter.REPLAYS: _replays,
}


def _chosen(connection: sqlite3.Connection, name: str, sweep: Sweep, *, most: int) -> tuple[str, str | None]:
    """Choose what goes out of one page: the rows that may, until they weigh *most* together, though one at the least.

    Gives their ids as JSON, and after which row the next page begins, None where nothing older is left.
    """
    page = connection.execute(sql(name), sweep.arguments).fetchall()
    taken: list[str] = []
    weight, last = 0, sweep.after
    for row in page:
        if not row["is_old"]:
            return json.dumps(taken), None
        if row["is_free"]:
            weight += row["weight"]
            if taken and weight > most:
                return json.dumps(taken), last
            taken.append(row["id"])
        last = row["id"]
    return json.dumps(taken), last if len(page) == PAGE else None


# What makes room is let through to the last byte.
SWEEP: Work[Sweep, Swept] = Work(write=_sweep, grows=False)
