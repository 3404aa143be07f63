"""What is written about tasks, for a whole group of callers at once: new tasks, judged news, claims, alerts."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from receiver.domain.clock import micros
from receiver.domain.errors import Conflict
from receiver.domain.model import Delivery, Event, Push, PushOutcome, Task, TaskState
from receiver.store.interfaces import ByToken, Change, Judge, TaskRef
from receiver.store.sqlite import rows
from receiver.store.sqlite.batch_members import Roll
from receiver.store.sqlite.costs import cost_row
from receiver.store.sqlite.queries import queries, sql, write_rows
from receiver.store.sqlite.writer import JudgedWork, Raised, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One call of ``apply``."""

    ref: TaskRef
    judge: Judge
    with_pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """One call of ``add``."""

    task: Task
    intent: bytes
    events: Sequence[Event]
    batch_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskClaim:
    """One call of ``claim_tasks``."""

    states: Sequence[TaskState]
    now: datetime
    until: datetime
    limit: int
    endpoints: Sequence[str] | None = None
    pushes_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hastened:
    """One call of ``hasten_tasks``."""

    states: Sequence[TaskState]
    now: datetime
    before: datetime
    apart: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One call of ``record``."""

    events: Sequence[Event]
    deliveries: Sequence[Delivery]


@dataclass(slots=True)
class Ledger:
    """The tasks a group is about as they stand after each judgement, and all that is to be written."""

    tasks: dict[str, Task]
    pending: dict[str, list[Push]]
    ids_by_token: dict[bytes, str] = field(default_factory=dict)
    changed: dict[str, Task] = field(default_factory=dict)
    pushes: list[Push] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    outcomes: dict[str, PushOutcome] = field(default_factory=dict)
    intents: dict[str, bytes] = field(default_factory=dict)
    costs: list[rows.Values] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    actions: list[rows.Values] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids_by_token = {task.token_hash: task.id for task in self.tasks.values() if task.token_hash is not None}

    def judge(self, news: News) -> Change | None:
        """Let one caller judge its task as the ones before it left it, and take down what it decides."""
        task = self._find(news.ref)
        if task is None:
            return None
        change = news.judge(task, tuple(self.pending.get(task.id, ())) if news.with_pending else ())
        if change.task is not None and change.task.id != task.id:
            raise ValueError(f"the judge of {task.id} changed {change.task.id}")
        self._take_down(task, change)
        return change

    def _find(self, ref: TaskRef) -> Task | None:
        task_id = self.ids_by_token.get(ref.token_hash) if isinstance(ref, ByToken) else ref.id
        return None if task_id is None else self.tasks.get(task_id)

    def _take_down(self, task: Task, change: Change) -> None:
        if change.task is not None:
            self.tasks[task.id] = self.changed[task.id] = change.task
            if change.task.token_hash != task.token_hash:
                self._rename(task, change.task)
        if change.push is not None:
            self.pushes.append(change.push)
            if change.push.outcome is PushOutcome.PENDING:
                self.pending.setdefault(task.id, []).append(change.push)
        if change.settles:
            self.outcomes.update(change.settles)
            left = [push for push in self.pending.get(task.id, ()) if push.id not in change.settles]
            self.pending[task.id] = left
        if change.intent is not None:
            self.intents[task.id] = change.intent
        if change.cost is not None:
            self.costs.append(cost_row(self.tasks[task.id], change.cost))
        if change.keep is not None:
            self.kept[task.id] = change.keep
        if change.action is not None:
            self.actions.append(rows.action_row(change.action))
        self.events += change.events
        self.deliveries += change.deliveries

    def _rename(self, before: Task, after: Task) -> None:
        if before.token_hash is not None:
            self.ids_by_token.pop(before.token_hash, None)
        if after.token_hash is not None:
            self.ids_by_token[after.token_hash] = after.id


def _look(connection: sqlite3.Connection, group: Sequence[News]) -> Ledger:
    tokens = [news.ref.token_hash for news in group if isinstance(news.ref, ByToken)]
    ids = [news.ref.id for news in group if not isinstance(news.ref, ByToken)]
    found: list[rows.Row] = []
    if tokens:
        found += rows.named(connection.execute(*_of_many("tasks_by_token", tokens)))
    if ids:
        found += rows.named(connection.execute(sql("tasks_by_id"), {"ids": json.dumps(ids)}))
    tasks = {row["id"]: rows.task(row) for row in found}
    pending: dict[str, list[Push]] = {}
    if any(news.with_pending for news in group):
        for row in connection.execute(sql("pending_pushes"), {"ids": json.dumps(list(tasks))}):
            pending.setdefault(row["task_id"], []).append(rows.push(row))
    return Ledger(tasks=tasks, pending=pending)


def _of_many(name: str, values: Sequence[bytes]) -> tuple[str, Sequence[bytes]]:
    """Fill a ``:many`` up to a power of two by repeating, so that few statements serve groups of every size."""
    size = 1 << (len(values) - 1).bit_length()
    return queries()[name].of_many(size), [*values, *[values[0]] * (size - len(values))]


def _judge(group: Sequence[News], ledger: Ledger) -> tuple[Sequence[Change | Raised | None], Ledger]:
    results: list[Change | Raised | None] = []
    for news in group:
        try:
            results.append(ledger.judge(news))
        except Exception as exc:  # noqa: BLE001 -- whatever a caller's judge raises is its caller's alone
            results.append(Raised(exc))
    return results, ledger


def _write(connection: sqlite3.Connection, ledger: Ledger) -> None:
    if ledger.changed:
        write_rows(connection, "save_task", map(rows.task_row, ledger.changed.values()))
    if ledger.intents:
        write_rows(connection, "save_intent", ledger.intents.items())
    if ledger.pushes:
        write_rows(connection, "insert_push", map(rows.push_row, ledger.pushes))
    if ledger.outcomes:
        settled = [(outcome.value, push_id) for push_id, outcome in ledger.outcomes.items()]
        connection.executemany(sql("settle_push"), settled)
    if ledger.costs:
        write_rows(connection, "save_cost", ledger.costs)
    if ledger.kept:
        connection.executemany(sql("forget_pushes"), ledger.kept.items())
    if ledger.actions:
        connection.executemany(sql("insert_action"), ledger.actions)
    write_events(connection, ledger.events, ledger.deliveries)


def write_events(connection: sqlite3.Connection, events: Iterable[Event], deliveries: Iterable[Delivery]) -> None:
    """Keep events and their deliveries."""
    write_rows(connection, "insert_event", map(rows.event_row, events))
    write_rows(connection, "insert_delivery", map(rows.delivery_row, deliveries))


def _add(connection: sqlite3.Connection, group: Sequence[NewTask]) -> Sequence[Task | Raised]:
    first = _seen_before(connection, group)
    roll = Roll(connection, {new.task.batch for new in group if new.task.batch is not None})
    kept: list[NewTask] = []
    results: list[Task | Raised] = []
    for new in group:
        key = new.task.idempotency_key
        if key is not None and key in first:
            results.append(first[key])
            continue
        try:
            roll.enter(new.task, new.batch_size)
        except Conflict as exc:
            results.append(Raised(exc))
            continue
        if key is not None:
            first[key] = new.task
        kept.append(new)
        results.append(new.task)
    roll.write(connection)
    write_rows(connection, "insert_task", [rows.new_task_row(new.task) for new in kept])
    write_rows(connection, "save_intent", [(new.task.id, new.intent) for new in kept if new.intent])
    write_events(connection, [event for new in kept for event in new.events], ())
    return results


def _seen_before(connection: sqlite3.Connection, group: Sequence[NewTask]) -> dict[str, Task]:
    """Give the tasks that were asked for before, by their idempotency keys."""
    keys = [new.task.idempotency_key for new in group if new.task.idempotency_key is not None]
    found = connection.execute(sql("tasks_by_key"), {"keys": json.dumps(keys)}) if keys else ()
    return {row["idempotency_key"]: rows.task(row) for row in found}


def _claim(connection: sqlite3.Connection, group: Sequence[TaskClaim]) -> Sequence[Sequence[Task]]:
    return [_claim_one(connection, claim) for claim in group]


def _claim_one(connection: sqlite3.Connection, claim: TaskClaim) -> Sequence[Task]:
    due = {task.id: task for task in (*_prompted(connection, claim), *_longest_due(connection, claim))}
    taken = [replace(task, due_at=claim.until) for task in islice(due.values(), claim.limit)]
    if taken:
        ids = json.dumps([task.id for task in taken])
        connection.execute(sql("postpone_tasks"), {"until": micros(claim.until), "ids": ids})
    return taken


def _prompted(connection: sqlite3.Connection, claim: TaskClaim) -> Sequence[Task]:
    """Read those whose next question a push brought about, if they are to go first."""
    if not claim.pushes_first:
        return []
    wanted = {"states": json.dumps(claim.states), "now": micros(claim.now), "limit": claim.limit}
    return [rows.task(row) for row in connection.execute(sql("prompted_tasks"), wanted)]


def _longest_due(connection: sqlite3.Connection, claim: TaskClaim) -> Sequence[Task]:
    due: list[Task] = []
    endpoints = None if claim.endpoints is None else json.dumps(claim.endpoints)
    given = {"endpoints": endpoints}
    statement = queries()["due_tasks"].given(given)
    for state in dict.fromkeys(claim.states):
        wanted = {"state": state.value, "now": micros(claim.now), "limit": claim.limit, **given}
        due += map(rows.task, connection.execute(statement, wanted))
    return sorted(due, key=lambda task: (task.due_at, task.id))


def _hasten(connection: sqlite3.Connection, group: Sequence[Hastened]) -> Sequence[int]:
    return [
        connection.execute(
            sql("hasten_tasks"),
            {
                "states": json.dumps(each.states),
                "now": micros(each.now),
                "before": micros(each.before),
                "apart": each.apart // timedelta(microseconds=1),
            },
        ).rowcount
        for each in group
    ]


def _share_out(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
    for tag in group:
        connection.execute(sql("share_out"), {"tag": tag})
    return [None] * len(group)


def _record(connection: sqlite3.Connection, group: Sequence[Record]) -> Sequence[None]:
    events = [event for record in group for event in record.events]
    write_events(connection, events, [delivery for record in group for delivery in record.deliveries])
    return [None] * len(group)


APPLY: JudgedWork[News, Ledger, Ledger, Change | None] = JudgedWork(look=_look, judge=_judge, write=_write)
ADD: Work[NewTask, Task] = Work(write=_add)
CLAIM_TASKS: Work[TaskClaim, Sequence[Task]] = Work(write=_claim, grows=False)
HASTEN_TASKS: Work[Hastened, int] = Work(write=_hasten, grows=False)
SHARE_OUT: Work[str, None] = Work(write=_share_out)
# Alerts are small and few, and that the disk is full is one of them.
RECORD: Work[Record, None] = Work(write=_record, grows=False)
