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
from receiver.store.interfaces import RetentionTarget, SweepResult
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import WriteOp

PAGE_SIZE = 200
"""How many rows are looked at in one transaction."""

_MAX_BYTES = 8 * 1024 * 1024  # of bodies taken in one transaction
_MAX_ROWS = 1000  # that go with others in one transaction: attempts with events, pushes with tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCall:
    """One call of ``sweep``."""

    target: RetentionTarget
    before: datetime
    now: datetime
    after: str

    @property
    def arguments(self) -> Mapping[str, object]:
        """Give what the statements ask for."""
        return {"before": micros(self.before), "now": micros(self.now), "after": self.after, "limit": PAGE_SIZE}


def _sweep(connection: sqlite3.Connection, group: Sequence[SweepCall]) -> Sequence[SweepResult]:
    return [_SWEEPERS[sweep.target](connection, sweep) for sweep in group]


def _bodies(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    ids, _ = _select(connection, "old_push_bodies", sweep, max_weight=_MAX_BYTES)
    count = connection.execute(sql("clear_push_bodies"), {"ids": ids}).rowcount
    return SweepResult(deleted={"bodies": count}, next="" if count else None)


def _intents(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_intents", sweep, max_weight=_MAX_BYTES)
    return SweepResult(deleted={"intents": connection.execute(sql("delete_intents"), {"ids": ids}).rowcount}, next=last)


def _events(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_events", sweep, max_weight=_MAX_ROWS)
    deliveries, attempts = connection.execute(sql("count_deliveries"), {"ids": ids}).fetchone()
    events = connection.execute(sql("delete_events"), {"ids": ids}).rowcount
    return SweepResult(deleted={"events": events, "deliveries": deliveries, "attempts": attempts}, next=last)


def _tasks(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_tasks", sweep, max_weight=_MAX_ROWS)
    pushes = connection.execute(sql("count_pushes"), {"ids": ids}).fetchone()[0]
    return SweepResult(
        deleted={"tasks": connection.execute(sql("delete_tasks"), {"ids": ids}).rowcount, "pushes": pushes}, next=last
    )


def _batches(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_batches"), sweep.arguments).rowcount
    return SweepResult(deleted={"batches": count}, next="" if count else None)


def _actions(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_actions"), sweep.arguments).rowcount
    return SweepResult(deleted={"actions": count}, next="" if count else None)


def _replays(connection: sqlite3.Connection, sweep: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_replays"), sweep.arguments).rowcount
    return SweepResult(deleted={"replays": count}, next="" if count else None)


_SWEEPERS: Mapping[RetentionTarget, Callable[[sqlite3.Connection, SweepCall], SweepResult]] = {
    RetentionTarget.BODIES: _bodies,
    RetentionTarget.INTENTS: _intents,
    RetentionTarget.EVENTS: _events,
    RetentionTarget.TASKS: _tasks,
    RetentionTarget.BATCHES: _batches,
    RetentionTarget.ACTIONS: _actions,
    RetentionTarget.REPLAYS: _replays,
}


def _select(connection: sqlite3.Connection, name: str, sweep: SweepCall, *, max_weight: int) -> tuple[str, str | None]:
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
            if taken and weight > max_weight:
                return json.dumps(taken), last
            taken.append(row["id"])
        last = row["id"]
    return json.dumps(taken), last if len(page) == PAGE_SIZE else None


# What makes room is let through to the last byte.
SWEEP: WriteOp[SweepCall, SweepResult] = WriteOp(write=_sweep, uses_disk=False)
