"""Tasks in the store's file: new tasks, changes, claims, events without a task.

Each write is one function for a whole group of callers.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from msgspec.structs import replace

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import micros
from receiver.domain.duties import Fence
from receiver.domain.errors import Conflict
from receiver.domain.model import Delivery, Event, Task, TaskState
from receiver.store import rows
from receiver.store.batch_members import BatchMembership
from receiver.store.interfaces import ApplyCall, ByToken, Change, Decide, QueueFront, TaskRef
from receiver.store.item_error import ItemError
from receiver.store.sqlite import catalog
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql, write_rows
from receiver.store.sqlite.task_changes import APPLY, write_events
from receiver.store.sqlite.writer import WriteOp, Writer, bodiless
from receiver.store.task_calls import AddCall, AddEventsCall, ClaimTasksCall, MakeDueCall, is_key_released

_MAX_KNOWN_TOKENS = 10_000


class SqliteTaskStore:
    """Tasks, in the store's file."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot
        self.known_tokens: BoundedDict[bytes, None] = BoundedDict(_MAX_KNOWN_TOKENS)

    async def add(
        self,
        task: Task,
        intent: bytes,
        *,
        events: Sequence[Event] = (),
        batch_size: int | None = None,
        digest: bytes | None = None,
        fence: Fence | None = None,  # noqa: ARG002 -- a file has one process, which no other one replaces
    ) -> Task:
        """Store a new task, or return the earlier one with its idempotency key."""
        call = AddCall(task=task, intent=intent, events=events, batch_size=batch_size, digest=digest)
        stored = await self._writer.execute(_ADD, call)
        self._remember_token(stored)
        return stored

    async def request_digest(self, task_id: str) -> bytes | None:
        """Return the digest of the request that created a task."""
        return await self._hot.read(catalog.request_digest, task_id)

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Call *decide* with the current task and write its change."""
        call = ApplyCall(ref=ref, decide=decide, with_pending=with_pending)
        change = await self._writer.execute(APPLY, call)
        if change is not None and change.task is not None and not isinstance(ref, ByToken):
            self._remember_token(change.task)
        return change

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        """Return for each of *calls* what ``apply`` returns or raises."""
        results = await self._writer.execute_all(APPLY, calls)
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, Change) and result.task is not None and not isinstance(call.ref, ByToken):
                self._remember_token(result.task)
        return [result.error if isinstance(result, ItemError) else result for result in results]

    def _remember_token(self, task: Task) -> None:
        if task.token_hash is not None:
            self.known_tokens[task.token_hash] = None

    async def has_live_token(self, token_hash: bytes, *, now: datetime) -> bool:
        """Return whether an unexpired task has the token."""
        return await self._hot.read(catalog.has_live_token, token_hash, now)

    async def has_verified_event(self, task_id: str) -> bool:
        """Return whether a signature or the API has verified anything about a task."""
        return await self._hot.read(catalog.has_verified_event, task_id)

    async def intent(self, task_id: str) -> bytes:
        """Return the body a task was submitted with."""
        return await self._hot.read(catalog.intent, task_id)

    async def intents(self, task_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bodies the tasks were submitted with, by task id."""
        return await self._hot.read(catalog.intents, task_ids)

    async def claim_tasks(
        self,
        states: Sequence[TaskState],
        *,
        now: datetime,
        until: datetime,
        limit: int,
        endpoints: Sequence[str] | None = None,
        pushes_first: bool = False,
    ) -> Sequence[Task]:
        """Claim up to *limit* due tasks."""
        call = ClaimTasksCall(
            states=states, now=now, until=until, limit=limit, endpoints=endpoints, pushes_first=pushes_first
        )
        return await self._writer.execute(_CLAIM_TASKS, call)

    async def make_due(
        self, states: Sequence[TaskState], *, now: datetime, before: datetime, min_gap: timedelta
    ) -> int:
        """Make tasks that are due before *before* due now."""
        call = MakeDueCall(states=states, now=now, before=before, min_gap=min_gap)
        return await self._writer.execute(_MAKE_DUE, call)

    async def next_task_due(self, states: Sequence[TaskState], *, after: datetime | None = None) -> datetime | None:
        """Return when the next task in *states* is due."""
        return await self._hot.read(catalog.next_task_due, states, after)

    async def queue_front(
        self, *, now: datetime, limit: int, head_ids: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> QueueFront:
        """Return the queued tasks that are next, and the slots in use."""
        return await self._hot.read(catalog.queue_front, now, limit, head_ids, absent)

    async def queued_creates(self) -> Sequence[Task]:
        """Return the queued tasks of gateway clients."""
        return await self._hot.read(catalog.queued_creates)

    async def assign_fair_shares(self, tag: str) -> None:
        """Set the fair share of each queued or running task to its value of *tag*."""
        await self._writer.execute(_ASSIGN_FAIR_SHARES, tag)

    async def slots_in_use(self, *, confirmed_only: bool = False, absent: Sequence[str] = ()) -> Mapping[str, int]:
        """Return the slots that running tasks use, by slot key."""
        return await self._hot.read(catalog.slots_in_use, confirmed_only=confirmed_only, absent=absent)

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events without a task, and deliveries."""
        await self._writer.execute(_ADD_EVENTS, AddEventsCall(events=events, deliveries=deliveries))


def _add(connection: sqlite3.Connection, group: Sequence[AddCall]) -> Sequence[Task | ItemError]:
    known = _tasks_by_idempotency_key(connection, group)
    batches = BatchMembership(_batches(connection, group))
    accepted: list[AddCall] = []
    results: list[Task | ItemError] = []
    for call in group:
        key = call.task.idempotency_key
        earlier = None if key is None else known.get(key)
        if earlier is not None and not is_key_released(earlier):
            results.append(earlier)
            continue
        try:
            batches.add(call.task, call.batch_size)
        except Conflict as exc:
            results.append(ItemError(exc))
            continue
        if earlier is not None:
            connection.execute(sql("release_idempotency_key"), {"task_id": earlier.id})
        if key is not None:
            known[key] = call.task
        accepted.append(call)
        results.append(call.task)
    write_rows(connection, "save_batch", batches.changed_rows())
    write_rows(connection, "insert_task", [rows.new_task_row(call.task) for call in accepted])
    write_rows(connection, "save_intent", [(call.task.id, call.intent) for call in accepted if call.intent])
    digests = [(call.task.id, call.digest) for call in accepted if call.digest is not None]
    if digests:
        write_rows(connection, "insert_request_digest", digests)
    write_events(connection, [event for call in accepted for event in call.events], ())
    return results


def _batches(connection: sqlite3.Connection, group: Sequence[AddCall]) -> Iterable[sqlite3.Row]:
    """Return the rows of the stored batches of the group."""
    names = {call.task.batch for call in group if call.task.batch is not None}
    return connection.execute(sql("batches_by_name"), {"names": json.dumps(list(names))}) if names else ()


def _tasks_by_idempotency_key(connection: sqlite3.Connection, group: Sequence[AddCall]) -> dict[str, Task]:
    """Return the stored tasks with the idempotency keys of the group, by key."""
    keys = [call.task.idempotency_key for call in group if call.task.idempotency_key is not None]
    found = connection.execute(sql("tasks_by_idempotency_key"), {"keys": json.dumps(keys)}) if keys else ()
    return {row["idempotency_key"]: rows.task(row) for row in found}


def _claim(connection: sqlite3.Connection, group: Sequence[ClaimTasksCall]) -> Sequence[Sequence[Task]]:
    return [_claim_one(connection, call) for call in group]


def _claim_one(connection: sqlite3.Connection, call: ClaimTasksCall) -> Sequence[Task]:
    due = {task.id: task for task in (*_due_after_push(connection, call), *_longest_due(connection, call))}
    claimed = [replace(task, due_at=call.until) for task in islice(due.values(), call.limit)]
    if claimed:
        ids = json.dumps([task.id for task in claimed])
        connection.execute(sql("postpone_tasks"), {"until": micros(call.until), "ids": ids})
    return claimed


def _due_after_push(connection: sqlite3.Connection, call: ClaimTasksCall) -> Sequence[Task]:
    """Return the due tasks whose next poll a push caused, if the call prefers them."""
    if not call.pushes_first:
        return []
    arguments = {"states": json.dumps(call.states), "now": micros(call.now), "limit": call.limit}
    return [rows.task(row) for row in connection.execute(sql("tasks_due_after_push"), arguments)]


def _longest_due(connection: sqlite3.Connection, call: ClaimTasksCall) -> Sequence[Task]:
    due: list[Task] = []
    endpoints = None if call.endpoints is None else json.dumps(call.endpoints)
    optional = {"endpoints": endpoints}
    statement = queries()["due_tasks"].with_optional(optional)
    for state in dict.fromkeys(call.states):
        arguments = {"state": state.value, "now": micros(call.now), "limit": call.limit, **optional}
        due += map(rows.task, connection.execute(statement, arguments))
    return sorted(due, key=lambda task: (task.due_at, task.id))


def _make_due(connection: sqlite3.Connection, group: Sequence[MakeDueCall]) -> Sequence[int]:
    return [
        connection.execute(
            sql("make_tasks_due"),
            {
                "states": json.dumps(call.states),
                "now": micros(call.now),
                "before": micros(call.before),
                "min_gap": call.min_gap // timedelta(microseconds=1),
            },
        ).rowcount
        for call in group
    ]


def _assign_fair_shares(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
    for tag in group:
        connection.execute(sql("assign_fair_shares"), {"tag": tag})
    return [None] * len(group)


def _add_events(connection: sqlite3.Connection, group: Sequence[AddEventsCall]) -> Sequence[None]:
    events = [event for call in group for event in call.events]
    write_events(connection, events, [delivery for call in group for delivery in call.deliveries])
    return [None] * len(group)


_ADD: WriteOp[AddCall, Task] = WriteOp(write=_add, size=lambda group: sum(len(call.intent) for call in group))
_CLAIM_TASKS: WriteOp[ClaimTasksCall, Sequence[Task]] = WriteOp(write=_claim, uses_disk=False, size=bodiless)
_MAKE_DUE: WriteOp[MakeDueCall, int] = WriteOp(write=_make_due, uses_disk=False)
_ASSIGN_FAIR_SHARES: WriteOp[str, None] = WriteOp(write=_assign_fair_shares)
# Alerts are small and few, and one of them reports a full disk.
_ADD_EVENTS: WriteOp[AddEventsCall, None] = WriteOp(write=_add_events, uses_disk=False)
