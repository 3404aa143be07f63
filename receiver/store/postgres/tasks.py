"""Tasks in a PostgreSQL store: new tasks, changes, claims, events without a task.

Each write is one function for a whole group of callers.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from msgspec.structs import replace

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import from_micros, micros
from receiver.domain.duties import Fence
from receiver.domain.errors import Conflict, DutyLost
from receiver.domain.model import Delivery, Event, Task, TaskState
from receiver.store import rows
from receiver.store.batch_members import BatchMembership
from receiver.store.interfaces import ApplyCall, ByToken, Change, Decide, QueueFront, TaskRef
from receiver.store.item_error import ItemError
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.fences import check_fence, lost_leases
from receiver.store.postgres.queries import change, fetch, fetch_value, write_each, write_rows
from receiver.store.postgres.task_changes import APPLY, write_events
from receiver.store.postgres.writer import WriteOp, Writer
from receiver.store.task_calls import AddCall, AddEventsCall, ClaimTasksCall, MakeDueCall, is_key_released

_MAX_KNOWN_TOKENS = 10_000


class _KeyOfRefusedTask(Exception):
    """A new task has the idempotency key of one that Kling refused, which does not need it any more."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class PostgresTaskStore:
    """Tasks, in a PostgreSQL database."""

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
        fence: Fence | None = None,
    ) -> Task:
        """Store a new task, or return the earlier one with its idempotency key."""
        call = AddCall(task=task, intent=intent, events=events, batch_size=batch_size, digest=digest, fence=fence)
        stored = await self._add(call)
        self._remember_token(stored)
        return stored

    async def _add(self, call: AddCall) -> Task:
        while True:
            try:
                return await self._writer.execute(_ADD_WITH_EVENTS if call.events else _ADD, call)
            except _KeyOfRefusedTask as found:
                # In a transaction of its own: this one holds names already, and must not wait for a task.
                await self._writer.execute(_RELEASE_KEY, found.task_id)

    async def request_digest(self, task_id: str) -> bytes | None:
        """Return the digest of the request that created a task."""
        digest: bytes | None = await self._hot.read(fetch_value, "request_digest", {"task_id": task_id})
        return digest

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
        arguments = {"token_hash": token_hash, "now": micros(now)}
        return bool(await self._hot.read(fetch_value, "has_live_token", arguments))

    async def has_verified_event(self, task_id: str) -> bool:
        """Return whether a signature or the API has verified anything about a task."""
        return bool(await self._hot.read(fetch_value, "has_verified_event", {"task_id": task_id}))

    async def intent(self, task_id: str) -> bytes:
        """Return the body a task was submitted with."""
        body: bytes | None = await self._hot.read(fetch_value, "intent", {"task_id": task_id})
        return body or b""

    async def intents(self, task_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bodies the tasks were submitted with, by task id."""
        found = await self._hot.read(fetch, "intents", {"ids": task_ids})
        return {row["task_id"]: row["body"] for row in found}

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
        return await self._hot.read(_next_task_due, states, after)

    async def queue_front(
        self, *, now: datetime, limit: int, head_ids: Sequence[str] = (), absent: Sequence[str] = ()
    ) -> QueueFront:
        """Return the queued tasks that are next, and the slots in use."""
        return await self._hot.read(_queue_front, now, limit, head_ids, absent)

    async def queued_creates(self) -> Sequence[Task]:
        """Return the queued tasks of gateway clients."""
        return [rows.task(row) for row in await self._hot.read(fetch, "queued_creates")]

    async def assign_fair_shares(self, tag: str) -> None:
        """Set the fair share of each queued or running task to its value of *tag*."""
        await self._writer.execute(_ASSIGN_FAIR_SHARES, tag)

    async def slots_in_use(self, *, confirmed_only: bool = False, absent: Sequence[str] = ()) -> Mapping[str, int]:
        """Return the slots that running tasks use, by slot key."""
        arguments = {"confirmed_only": confirmed_only or None, "absent": absent or None}
        found = await self._hot.read(fetch, "slots_in_use", arguments)
        return {row["slot_key"]: row["slots"] for row in found}

    async def add_events(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Store events without a task, and deliveries."""
        await self._writer.execute(_ADD_EVENTS, AddEventsCall(events=events, deliveries=deliveries))


async def _queue_front(
    connection: Connection, now: datetime, limit: int, head_ids: Sequence[str], absent: Sequence[str]
) -> QueueFront:
    arguments = {"now": micros(now), "limit": limit, "head_ids": head_ids}
    found = [rows.queued_task(row) for row in await fetch(connection, "next_queued_tasks", arguments)]
    slots = rows.NO_SLOTS
    if found:
        arguments = {"confirmed_only": None, "absent": absent or None}
        slots = rows.slot_use(await fetch(connection, "slots_in_use", arguments))
    return QueueFront(tasks=found, slots=slots, next_due_at=await _next_task_due(connection, (TaskState.QUEUED,), now))


async def _next_task_due(
    connection: Connection, states: Sequence[TaskState], after: datetime | None
) -> datetime | None:
    arguments = {"states": states, "after": rows.micros_or_none(after)}
    due_at: int | None = await fetch_value(connection, "next_task_due", arguments)
    return None if due_at is None else from_micros(due_at)


async def _add(connection: Connection, group: Sequence[AddCall]) -> Sequence[Task | ItemError]:
    keys = [call.task.idempotency_key for call in group if call.task.idempotency_key is not None]
    names = [call.task.batch for call in group if call.task.batch is not None]
    await _lock_names(connection, keys, names)
    known = await _tasks_by_idempotency_key(connection, keys)
    batches = BatchMembership(await fetch(connection, "lock_batches", {"names": names}) if names else ())
    lost = await lost_leases(connection, group)
    accepted: list[AddCall] = []
    results: list[Task | ItemError] = []
    for call in group:
        key = call.task.idempotency_key
        earlier = None if key is None else known.get(key)
        if earlier is not None:
            results.append(ItemError(_KeyOfRefusedTask(earlier.id)) if is_key_released(earlier) else earlier)
            continue
        try:
            check_fence(call.fence, lost)
            batches.add(call.task, call.batch_size)
        except (Conflict, DutyLost) as exc:
            results.append(ItemError(exc))
            continue
        if key is not None:
            known[key] = call.task
        accepted.append(call)
        results.append(call.task)
    await write_each(connection, "save_batch", batches.changed_rows())
    await write_rows(connection, "insert_task", [rows.new_task_row(call.task) for call in accepted])
    await write_rows(connection, "save_intent", [(call.task.id, call.intent) for call in accepted if call.intent])
    digests = [(call.task.id, call.digest) for call in accepted if call.digest is not None]
    await write_rows(connection, "insert_request_digest", digests)
    await write_events(connection, [event for call in accepted for event in call.events], ())
    return results


async def _release_key(connection: Connection, group: Sequence[str]) -> Sequence[None]:
    for task_id in group:
        await change(connection, "release_idempotency_key", {"task_id": task_id})
    return [None] * len(group)


async def _lock_names(connection: Connection, keys: Sequence[str], batches: Sequence[str]) -> None:
    """Lock idempotency keys and batches, of which another node may be creating some at this moment."""
    names = [*(f"key {key}" for key in keys), *(f"batch {name}" for name in batches)]
    if names:
        await fetch(connection, "lock_names", {"names": names})


async def _tasks_by_idempotency_key(connection: Connection, keys: Sequence[str]) -> dict[str, Task]:
    """Return the stored tasks that have some of these keys, by key."""
    found = await fetch(connection, "tasks_by_idempotency_key", {"keys": keys}) if keys else ()
    return {key: rows.task(row) for row in found if (key := row["idempotency_key"]) is not None}


async def _claim(connection: Connection, group: Sequence[ClaimTasksCall]) -> Sequence[Sequence[Task]]:
    # In sequence, because each call must see the claims of the previous ones.
    return [await _claim_one(connection, call) for call in group]


async def _claim_one(connection: Connection, call: ClaimTasksCall) -> Sequence[Task]:
    due = {task.id: task for task in (*await _due_after_push(connection, call), *await _longest_due(connection, call))}
    claimed = [replace(task, due_at=call.until) for task in islice(due.values(), call.limit)]
    if claimed:
        ids = [task.id for task in claimed]
        await change(connection, "postpone_tasks", {"until": micros(call.until), "ids": ids})
    return claimed


async def _due_after_push(connection: Connection, call: ClaimTasksCall) -> Sequence[Task]:
    """Return the due tasks whose next poll a push caused, if the call prefers them."""
    if not call.pushes_first:
        return []
    arguments = {"states": call.states, "now": micros(call.now), "limit": call.limit}
    return [rows.task(row) for row in await fetch(connection, "tasks_due_after_push", arguments)]


async def _longest_due(connection: Connection, call: ClaimTasksCall) -> Sequence[Task]:
    due: list[Task] = []
    for state in dict.fromkeys(call.states):
        arguments = {
            "state": state.value,
            "now": micros(call.now),
            "limit": call.limit,
            "endpoints": call.endpoints,
        }
        due += map(rows.task, await fetch(connection, "due_tasks", arguments))
    return sorted(due, key=lambda task: (task.due_at, task.id))


async def _make_due(connection: Connection, group: Sequence[MakeDueCall]) -> Sequence[int]:
    return [
        await change(
            connection,
            "make_tasks_due",
            {
                "states": call.states,
                "now": micros(call.now),
                "before": micros(call.before),
                "min_gap": call.min_gap // timedelta(microseconds=1),
            },
        )
        for call in group
    ]


async def _assign_fair_shares(connection: Connection, group: Sequence[str]) -> Sequence[None]:
    for tag in group:
        await change(connection, "assign_fair_shares", {"tag": tag})
    return [None] * len(group)


async def _add_events(connection: Connection, group: Sequence[AddEventsCall]) -> Sequence[None]:
    events = [event for call in group for event in call.events]
    await write_events(connection, events, [delivery for call in group for delivery in call.deliveries])
    return [None] * len(group)


async def _add_with_events(connection: Connection, group: Sequence[AddCall]) -> Sequence[Task | ItemError]:
    """Add tasks with events. The order of events is taken before the names, for which others wait who hold it."""
    await fetch(connection, "lock_event_order")
    return await _add(connection, group)


_ADD: WriteOp[AddCall, Task] = WriteOp(write=_add, groups=True, mixes=True)
_ADD_WITH_EVENTS: WriteOp[AddCall, Task] = WriteOp(write=_add_with_events, groups=True)
_RELEASE_KEY: WriteOp[str, None] = WriteOp(write=_release_key)
_CLAIM_TASKS: WriteOp[ClaimTasksCall, Sequence[Task]] = WriteOp(
    write=_claim, groups=True, mixes=True, skips_locked=True
)
_MAKE_DUE: WriteOp[MakeDueCall, int] = WriteOp(write=_make_due)
_ASSIGN_FAIR_SHARES: WriteOp[str, None] = WriteOp(write=_assign_fair_shares)
_ADD_EVENTS: WriteOp[AddEventsCall, None] = WriteOp(write=_add_events, groups=True)
