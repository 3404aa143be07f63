"""Changes of stored tasks: the task, its pushes, events and deliveries, for a whole group of callers at once."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from receiver.domain.model import Delivery, Event, Push, PushOutcome, Task
from receiver.store.interfaces import ByToken, Change, Decide, TaskRef
from receiver.store.sqlite import delivery_rows, rows
from receiver.store.sqlite.alerts import track_alerts
from receiver.store.sqlite.costs import cost_row
from receiver.store.sqlite.queries import queries, sql, update_columns, write_rows
from receiver.store.sqlite.writer import DecidedWriteOp, ItemError


class ApplyCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``apply``."""

    ref: TaskRef
    decide: Decide
    with_pending: bool


@dataclass(slots=True)
class UnitOfWork:
    """The tasks of a group with the changes decided so far, and everything to be written."""

    stored: Mapping[str, rows.Values]  # the changeable values of each loaded task
    tasks: dict[str, Task]
    pending: dict[str, list[Push]]
    ids_by_token: dict[bytes, str] = field(default_factory=dict)
    changed: dict[str, Task] = field(default_factory=dict)
    pushes: list[Push] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    outcomes: dict[tuple[str, str], PushOutcome] = field(default_factory=dict)  # by task and push
    intents: dict[str, bytes] = field(default_factory=dict)
    costs: list[rows.Values] = field(default_factory=list)
    redundant_limits: dict[str, int] = field(default_factory=dict)
    actions: list[rows.Values] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids_by_token = {task.token_hash: task.id for task in self.tasks.values() if task.token_hash is not None}

    def apply(self, call: ApplyCall) -> Change | None:
        """Let one caller decide on its task, which has the earlier changes of the group, and collect its change."""
        task = self._find(call.ref)
        if task is None:
            return None
        change = call.decide(task, tuple(self.pending.get(task.id, ())) if call.with_pending else ())
        if change.task is not None and change.task.id != task.id:
            raise ValueError(f"the decision on {task.id} changed {change.task.id}")
        self._collect(task, change)
        return change

    def _find(self, ref: TaskRef) -> Task | None:
        task_id = self.ids_by_token.get(ref.token_hash) if isinstance(ref, ByToken) else ref.id
        return None if task_id is None else self.tasks.get(task_id)

    def _collect(self, task: Task, change: Change) -> None:
        if change.task is not None:
            self.tasks[task.id] = self.changed[task.id] = change.task
            if change.task.token_hash != task.token_hash:
                self._reindex_token(task, change.task)
        if change.push is not None:
            self.pushes.append(change.push)
            if change.push.outcome is PushOutcome.PENDING:
                self.pending.setdefault(task.id, []).append(change.push)
        if change.resolved:
            self.outcomes.update({(task.id, push_id): outcome for push_id, outcome in change.resolved.items()})
            pending = [push for push in self.pending.get(task.id, ()) if push.id not in change.resolved]
            self.pending[task.id] = pending
        if change.intent is not None:
            self.intents[task.id] = change.intent
        if change.cost is not None:
            self.costs.append(cost_row(self.tasks[task.id], change.cost))
        if change.keep_redundant is not None:
            self.redundant_limits[task.id] = change.keep_redundant
        if change.action is not None:
            self.actions.append(rows.action_row(change.action))
        self.events += change.events
        self.deliveries += change.deliveries

    def _reindex_token(self, before: Task, after: Task) -> None:
        if before.token_hash is not None:
            self.ids_by_token.pop(before.token_hash, None)
        if after.token_hash is not None:
            self.ids_by_token[after.token_hash] = after.id


def _load(connection: sqlite3.Connection, group: Sequence[ApplyCall]) -> UnitOfWork:
    tokens = [call.ref.token_hash for call in group if isinstance(call.ref, ByToken)]
    ids = [call.ref.id for call in group if not isinstance(call.ref, ByToken)]
    found: list[tuple[Task, rows.Values]] = []
    if tokens:
        found += rows.tasks(connection.execute(*_with_list("tasks_by_token", tokens)))
    if ids:
        found += rows.tasks(connection.execute(sql("tasks_by_id"), {"ids": json.dumps(ids)}))
    tasks = {task.id: task for task, _ in found}
    pending: dict[str, list[Push]] = {}
    if any(call.with_pending for call in group):
        for row in connection.execute(sql("pending_pushes"), {"ids": json.dumps(list(tasks))}):
            pending.setdefault(row["task_id"], []).append(rows.push(row))
    return UnitOfWork(stored={task.id: values for task, values in found}, tasks=tasks, pending=pending)


def _with_list(name: str, values: Sequence[bytes]) -> tuple[str, Sequence[bytes]]:
    """Return the statement and its list padded to a power of two, so that few statements serve every group size."""
    size = 1 << (len(values) - 1).bit_length()
    return queries()[name].with_list(size), [*values, *[values[0]] * (size - len(values))]


def _decide(group: Sequence[ApplyCall], unit: UnitOfWork) -> tuple[Sequence[Change | ItemError | None], UnitOfWork]:
    results: list[Change | ItemError | None] = []
    for call in group:
        try:
            results.append(unit.apply(call))
        except Exception as exc:  # noqa: BLE001 -- an error of a caller's decide concerns only that caller
            results.append(ItemError(exc))
    return results, unit


def _write(connection: sqlite3.Connection, unit: UnitOfWork) -> None:
    _save_tasks(connection, unit)
    if unit.intents:
        write_rows(connection, "save_intent", unit.intents.items())
    if unit.pushes:
        in_events = {event.push_id: event.body for event in unit.events}
        pushes = [rows.push_row(push, is_in_event=in_events.get(push.id) == push.body) for push in unit.pushes]
        write_rows(connection, "insert_push", pushes)
    if unit.outcomes:
        outcomes = [(outcome.value, *ids) for ids, outcome in unit.outcomes.items()]
        connection.executemany(sql("set_push_outcome"), outcomes)
    if unit.costs:
        write_rows(connection, "save_cost", unit.costs)
    if unit.redundant_limits:
        connection.executemany(sql("delete_redundant_pushes"), unit.redundant_limits.items())
    if unit.actions:
        connection.executemany(sql("insert_action"), unit.actions)
    write_events(connection, unit.events, unit.deliveries)


def _save_tasks(connection: sqlite3.Connection, unit: UnitOfWork) -> None:
    """Write the changed columns of each changed task. Tasks with the same changed columns share a statement."""
    by_columns: dict[tuple[int, ...], list[rows.Values]] = {}
    for task_id, task in unit.changed.items():
        before, after = unit.stored[task_id], rows.changeable_values(task)
        changed = tuple(index for index, value in enumerate(after) if value != before[index])
        if changed:
            by_columns.setdefault(changed, []).append((task_id, *[after[index] for index in changed]))
    for changed, values in by_columns.items():
        update_columns(connection, "save_tasks", [rows.CHANGEABLE[index] for index in changed], values)


def write_events(connection: sqlite3.Connection, events: Iterable[Event], deliveries: Iterable[Delivery]) -> None:
    """Store events and their deliveries, and update the tracked alerts by those that are alerts."""
    events = list(events)
    if any(event.is_alert for event in events):
        events, deliveries = track_alerts(connection, events, deliveries)
    write_rows(connection, "insert_event", map(rows.event_row, events))
    write_rows(connection, "insert_delivery", map(delivery_rows.delivery_row, deliveries))


APPLY: DecidedWriteOp[ApplyCall, UnitOfWork, UnitOfWork, Change | None] = DecidedWriteOp(
    load=_load, decide=_decide, write=_write
)
