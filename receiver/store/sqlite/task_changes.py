"""Changes of stored tasks: the task, its pushes, events and deliveries, for a whole group of callers at once."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

from receiver.domain.model import Delivery, Event, Push, Task
from receiver.store import delivery_rows, rows
from receiver.store.interfaces import ApplyCall, ByToken, Change
from receiver.store.sqlite.alerts import track_alerts
from receiver.store.sqlite.queries import sql, update_columns, with_list, write_rows
from receiver.store.sqlite.writer import DecidedWriteOp
from receiver.store.unit_of_work import UnitOfWork, changed_columns, decide_group, push_rows


def _load(connection: sqlite3.Connection, group: Sequence[ApplyCall]) -> UnitOfWork:
    tokens = [call.ref.token_hash for call in group if isinstance(call.ref, ByToken)]
    ids = [call.ref.id for call in group if not isinstance(call.ref, ByToken)]
    found: list[tuple[Task, rows.Values]] = []
    awaiting = list(ids)  # tasks with pushes that await confirmation, as far as is known
    if tokens:
        for task, values, has_pending in _tasks(connection, *with_list("tasks_by_token", tokens)):
            found.append((task, values))
            if has_pending:
                awaiting.append(task.id)
    if ids:
        by_id = _tasks(connection, sql("tasks_by_id"), {"ids": rows.to_json(ids)})
        found += [(task, values) for task, values, _ in by_id]
    pending: dict[str, list[Push]] = {}
    if awaiting and any(call.with_pending for call in group):
        for row in connection.execute(sql("pending_pushes"), {"ids": rows.to_json(awaiting)}):
            pending.setdefault(row["task_id"], []).append(rows.push(row))
    return UnitOfWork(
        stored={task.id: values for task, values in found}, tasks={task.id: task for task, _ in found}, pending=pending
    )


def _tasks(
    connection: sqlite3.Connection, statement: str, arguments: Mapping[str, object] | Sequence[bytes]
) -> Iterator[tuple[Task, rows.Values, object]]:
    """Yield each task that a query finds, its values of the changeable columns, and the last value of its row."""
    found = connection.cursor()
    found.row_factory = None  # a sqlite3.Row would take longer
    found.execute(statement, arguments)
    ordered = rows.ordered_by(tuple([column[0] for column in found.description]))
    return ((*rows.task_with_values(ordered(row)), row[-1]) for row in found)


def _write(connection: sqlite3.Connection, unit: UnitOfWork) -> None:
    _save_tasks(connection, unit)
    if unit.intents:
        write_rows(connection, "save_intent", unit.intents.items())
    if unit.pushes:
        write_rows(connection, "insert_push", push_rows(unit))
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
    """Write the changed columns of each changed task."""
    for columns, values in changed_columns(unit).items():
        update_columns(connection, "save_tasks", columns, values)


def write_events(connection: sqlite3.Connection, events: Iterable[Event], deliveries: Iterable[Delivery]) -> None:
    """Store events and their deliveries, and update the tracked alerts by those that are alerts."""
    events = list(events)
    if any(event.is_alert for event in events):
        events, deliveries = track_alerts(connection, events, deliveries)
    write_rows(connection, "insert_event", map(rows.event_row, events))
    write_rows(connection, "insert_delivery", map(delivery_rows.delivery_row, deliveries))


APPLY: DecidedWriteOp[ApplyCall, UnitOfWork, UnitOfWork, Change | None] = DecidedWriteOp(
    load=_load, decide=decide_group, write=_write, size=UnitOfWork.size
)
