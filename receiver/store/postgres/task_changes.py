"""Changes of stored tasks: the task, its pushes, events and deliveries, for a whole group of callers at once.

The tasks of a group are locked in the order of their ids, so that the groups of two nodes never wait for each other.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from receiver.domain.model import Delivery, Event, Push
from receiver.store import delivery_rows, rows
from receiver.store.interfaces import ApplyCall, ByToken, Change
from receiver.store.postgres.alerts import track_alerts
from receiver.store.postgres.database import Connection
from receiver.store.postgres.fences import check_fence, lost_leases
from receiver.store.postgres.queries import Statement, Write, fetch, write_each, write_rows, write_together
from receiver.store.postgres.writer import DecidedWriteOp
from receiver.store.unit_of_work import UnitOfWork, decide_group, push_rows


async def _load(connection: Connection, group: Sequence[ApplyCall]) -> UnitOfWork:
    tokens = [call.ref.token_hash.hex() for call in group if isinstance(call.ref, ByToken)]
    ids = [call.ref.id for call in group if not isinstance(call.ref, ByToken)]
    found = await fetch(connection, "lock_tasks", {"ids": ids or None, "tokens": tokens or None})
    ordered = rows.ordered_by(tuple(found[0].keys())) if found else tuple
    read = [rows.task_with_values(ordered(row)) for row in found]
    tasks = {task.id: task for task, _ in read}
    pending: dict[str, list[Push]] = {}
    if any(call.with_pending for call in group):
        for row in await fetch(connection, "pending_pushes", {"ids": list(tasks)}):
            pending.setdefault(row["task_id"], []).append(rows.push(row))
    lost = await lost_leases(connection, group)
    return UnitOfWork(
        stored={task.id: values for task, values in read},
        tasks=tasks,
        pending=pending,
        check_fence=partial(check_fence, lost=lost),
    )


async def _write(connection: Connection, unit: UnitOfWork) -> None:
    columns, changed = _changed_columns(unit)
    save_tasks = Statement("save_tasks", columns, types_of="insert_task")
    independent: Sequence[Write] = (
        (save_tasks, changed),
        (Statement("insert_push"), push_rows(unit)),
        (Statement("save_intent"), unit.intents.items()),
        (Statement("insert_action"), unit.actions),
    )
    if unit.outcomes or unit.redundant_limits:  # of pushes that may be among the new ones
        await write_together(connection, *independent)
        independent = ()
    outcomes = [(outcome.value, *ids) for ids, outcome in unit.outcomes.items()]
    await write_rows(connection, "set_push_outcome", outcomes)
    # In the order of their ids, because each cost also raises a total that other nodes raise.
    await write_each(connection, "save_cost", sorted(unit.costs, key=lambda row: str(row[0])))
    await write_each(connection, "delete_redundant_pushes", unit.redundant_limits.items())
    await write_events(connection, unit.events, unit.deliveries, independent)


def _changed_columns(unit: UnitOfWork) -> tuple[tuple[str, ...], Sequence[rows.Values]]:
    """Return the columns that change in any task of a group, and the ids and values of the changed tasks.

    An index whose value stays the same costs nothing, so one statement serves all tasks.
    """
    values = {task_id: (unit.stored[task_id], rows.changeable_values(task)) for task_id, task in unit.changed.items()}
    differing = {task_id: pair for task_id, pair in values.items() if pair[0] != pair[1]}
    chosen = [
        index
        for index in range(len(rows.CHANGEABLE))
        if any(before[index] != after[index] for before, after in differing.values())
    ]
    changed = [(task_id, *(after[index] for index in chosen)) for task_id, (_, after) in differing.items()]
    return tuple(rows.CHANGEABLE[index] for index in chosen), changed


async def write_events(
    connection: Connection,
    events: Iterable[Event],
    deliveries: Iterable[Delivery],
    independent: Sequence[Write] = (),
) -> None:
    """Store events and their deliveries, and update the tracked alerts by those that are alerts.

    Writes that are *independent* of them share their round trip. This must be the last thing that a transaction
    writes: those with events commit one after the other from here on.
    """
    stored: Sequence[Event] = list(events)
    if any(event.is_alert for event in stored):
        await fetch(connection, "lock_event_order")
        stored, deliveries = await track_alerts(connection, stored, deliveries)
    await write_together(
        connection,
        *independent,
        (Statement("insert_event"), map(rows.event_row, stored)),
        (Statement("insert_delivery"), map(delivery_rows.delivery_row, deliveries)),
    )


APPLY: DecidedWriteOp[ApplyCall, UnitOfWork, UnitOfWork, Change | None] = DecidedWriteOp(
    load=_load, decide=decide_group, write=_write, groups=True, mixes=True
)
