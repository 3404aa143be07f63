"""The changes that a group of callers decides: their tasks, pushes, events and deliveries, collected to be written."""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import ne

import msgspec

from receiver.domain.duties import Fence
from receiver.domain.model import Delivery, Event, Push, PushOutcome, Task
from receiver.store import rows
from receiver.store.cost_rows import cost_row
from receiver.store.interfaces import ApplyCall, ByToken, Change, TaskRef
from receiver.store.item_error import ItemError


class UnitOfWork(msgspec.Struct):
    """The tasks of a group with the changes decided so far, and everything to be written."""

    stored: Mapping[str, rows.Values]  # the changeable values of each loaded task
    tasks: dict[str, Task]
    pending: dict[str, list[Push]]
    check_fence: Callable[[Fence], None] = lambda _: None
    ids_by_token: dict[bytes, str] = msgspec.field(default_factory=dict)
    changed: dict[str, Task] = msgspec.field(default_factory=dict)
    pushes: list[Push] = msgspec.field(default_factory=list)
    events: list[Event] = msgspec.field(default_factory=list)
    deliveries: list[Delivery] = msgspec.field(default_factory=list)
    outcomes: dict[tuple[str, str], PushOutcome] = msgspec.field(default_factory=dict)  # by task and push
    intents: dict[str, bytes] = msgspec.field(default_factory=dict)
    costs: list[rows.Values] = msgspec.field(default_factory=list)
    redundant_limits: dict[str, int] = msgspec.field(default_factory=dict)
    actions: list[rows.Values] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids_by_token = {task.token_hash: task.id for task in self.tasks.values() if task.token_hash is not None}

    def apply(self, call: ApplyCall) -> Change | None:
        """Let one caller decide on its task, which has the earlier changes of the group, and collect its change."""
        task = self._find(call.ref)
        if task is None:
            return None
        if call.fence is not None:
            self.check_fence(call.fence)
        change = call.decide(task, tuple(self.pending.get(task.id, ())) if call.with_pending else ())
        if change.task is not None and change.task.id != task.id:
            raise ValueError(f"the decision on {task.id} changed {change.task.id}")
        self._collect(task, change)
        return change

    def size(self) -> int:
        """Return the bytes of the bodies to be written."""
        pushes, events = sum(len(push.body) for push in self.pushes), sum(len(event.body) for event in self.events)
        return pushes + events + sum(map(len, self.intents.values()))

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


def decide_group(
    group: Sequence[ApplyCall], unit: UnitOfWork
) -> tuple[Sequence[Change | ItemError | None], UnitOfWork]:
    """Let each caller of a group decide in turn; return the results and what is to be written."""
    results: list[Change | ItemError | None] = []
    for call in group:
        try:
            results.append(unit.apply(call))
        except Exception as exc:  # noqa: BLE001 -- an error of a caller's decide concerns only that caller
            results.append(ItemError(exc))
    return results, unit


def changed_columns(unit: UnitOfWork) -> Mapping[tuple[str, ...], Sequence[rows.Values]]:
    """Return the ids and new values of changed tasks, grouped by the columns that change: a group shares a statement.

    A column that is not named costs no write of the indexes that have it.
    """
    by_columns: dict[tuple[str, ...], list[rows.Values]] = {}
    for task_id, task in unit.changed.items():
        after = rows.changeable_values(task)
        is_changed = tuple(map(ne, unit.stored[task_id], after))
        if any(is_changed):
            columns = tuple(compress(rows.CHANGEABLE, is_changed))
            by_columns.setdefault(columns, []).append((task_id, *compress(after, is_changed)))
    return by_columns


def push_rows(unit: UnitOfWork) -> Sequence[rows.Values]:
    """Return the rows of the new pushes. A callback's body is not stored twice if its event has it too."""
    in_events = {event.push_id: event.body for event in unit.events}
    return [rows.push_row(push, is_in_event=in_events.get(push.id) == push.body) for push in unit.pushes]
