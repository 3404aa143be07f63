"""Changes of stored tasks: the task, its pushes, events and deliveries, for a whole group of callers at once.

The tasks of a group are locked in the order of their ids, so that the groups of two nodes never wait for each other.
"""

from collections.abc import Iterable, Sequence

from receiver.domain.model import Delivery, Event, Push
from receiver.store import delivery_rows, rows
from receiver.store.interfaces import ByToken, Change
from receiver.store.postgres.alerts import track_alerts
from receiver.store.postgres.database import Connection
from receiver.store.postgres.queries import fetch, update_columns, write_rows
from receiver.store.postgres.writer import DecidedWriteOp
from receiver.store.unit_of_work import ApplyCall, UnitOfWork, changed_columns, decide_group, push_rows


async def _load(connection: Connection, group: Sequence[ApplyCall]) -> UnitOfWork:
    tokens = [call.ref.token_hash.hex() for call in group if isinstance(call.ref, ByToken)]
    ids = [call.ref.id for call in group if not isinstance(call.ref, ByToken)]
    found = await fetch(connection, "lock_tasks", {"ids": ids or None, "tokens": tokens or None})
    ordered = rows.ordered_by(list(found[0].keys())) if found else tuple
    read = [rows.task_with_values(ordered(row)) for row in found]
    tasks = {task.id: task for task, _ in read}
    pending: dict[str, list[Push]] = {}
    if any(call.with_pending for call in group):
        for row in await fetch(connection, "pending_pushes", {"ids": list(tasks)}):
            pending.setdefault(row["task_id"], []).append(rows.push(row))
    return UnitOfWork(stored={task.id: values for task, values in read}, tasks=tasks, pending=pending)


async def _write(connection: Connection, unit: UnitOfWork) -> None:
    for columns, values in changed_columns(unit).items():
        await update_columns(connection, "save_tasks", columns, values)
    await write_rows(connection, "save_intent", unit.intents.items())
    await write_rows(connection, "insert_push", push_rows(unit))
    outcomes = [(outcome.value, *ids) for ids, outcome in unit.outcomes.items()]
    await write_rows(connection, "set_push_outcome", outcomes)
    # In the order of their ids, because each cost also raises a total that other nodes raise.
    await write_rows(connection, "save_cost", sorted(unit.costs, key=lambda row: str(row[0])))
    await write_rows(connection, "delete_redundant_pushes", unit.redundant_limits.items())
    await write_rows(connection, "insert_action", unit.actions)
    await write_events(connection, unit.events, unit.deliveries)


async def write_events(connection: Connection, events: Iterable[Event], deliveries: Iterable[Delivery]) -> None:
    """Store events and their deliveries, and update the tracked alerts by those that are alerts.

    This must be the last thing that a transaction writes: those with events commit one after the other from here on.
    """
    stored: Sequence[Event] = list(events)
    if any(event.is_alert for event in stored):
        await fetch(connection, "lock_event_order")
        stored, deliveries = await track_alerts(connection, stored, deliveries)
    await write_rows(connection, "insert_event", map(rows.event_row, stored))
    await write_rows(connection, "insert_delivery", map(delivery_rows.delivery_row, deliveries))


APPLY: DecidedWriteOp[ApplyCall, UnitOfWork, UnitOfWork, Change | None] = DecidedWriteOp(
    load=_load, decide=decide_group, write=_write
)
