"""The submit queue: sends queued tasks to Kling, each once, in their order, as far as admission control permits.

All queued tasks form one queue in the store. A caller that submits a task serves this queue like the worker does.
Callers that come at the same moment share a pass over the queue, and the tasks of a pass share a transaction.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from receiver.domain.clock import FAR_FUTURE, Clock, Ids, token_hash
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.coalesced_call import CoalescedCall
from receiver.domain.duties import Fence
from receiver.domain.errors import DutyLost, KlingError
from receiver.domain.model import Push, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.domain.worker import STORE_RETRY_DELAY, TaskSet, run_worker
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import ApplyCall, ById, Change, QueueFront, SlotUse, TaskStore
from receiver.submission.admission import Admitted, Skip, Wait
from receiver.submission.executor import CreateExecutor
from receiver.submission.held_creates import HeldCreates
from receiver.submission.recorder import CreateRecorder
from receiver.tasks import submit_lifecycle
from receiver.tasks.account import KlingCall

log = structlog.get_logger()
T = TypeVar("T")

MAX_CONCURRENT = 32
"""The most queued tasks that are sent at the same time."""

MAX_BYTES_IN_FLIGHT = 128 * 1024 * 1024
"""The most bytes of their bodies: one body with images may have tens of megabytes."""

_MAX_ROUNDS = 16
"""The most starts of one pass, so that its callers are answered although other clients submit without a pause."""

_QUEUED = (TaskState.QUEUED,)
_SHUTDOWN_GRACE = timedelta(seconds=20)
_MAX_WAIT_FOR_ROOM = timedelta(seconds=2)
"""How long a caller waits, beside :data:`MAX_CONCURRENT` creates in flight, before its task is returned as queued."""


class _Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A queued task that may be sent: its callback token, and the slots that other tasks use when it is sent."""

    task: Task
    endpoint: Endpoint
    call: KlingCall
    token: str
    slots: SlotUse
    size: int


class SubmitQueue:
    """Sends queued tasks: as the background worker, and for callers that wait for their task."""

    def __init__(
        self,
        task_store: TaskStore,
        executor: CreateExecutor,
        recorder: CreateRecorder,
        held: HeldCreates,
        *,
        settings: Settings,
        notifiers: Notifiers,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._task_store = task_store
        self._executor = executor
        self._admission = executor.admission
        self._recorder = recorder
        self._held = held
        self._settings = settings
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids
        self._clock_watch = ClockWatch()
        self._is_restored = False
        self._in_flight: dict[str, asyncio.Task[KlingResponse | KlingError]] = {}
        self._bytes_in_flight: dict[str, int] = {}
        self._max_read = MAX_CONCURRENT
        self._serve = CoalescedCall(self._serve_all, lock=self._admission.queue_lock)
        self._spawned = TaskSet("submit.failed")

    def apply(self, settings: Settings) -> None:
        """Use *settings* from the next start on."""
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks as slots become free, until *stop*. Then wait for calls in flight, at most 20 s."""
        wake = self._notifiers.tasks.subscribe()
        self._is_restored, self._clock_watch = False, ClockWatch()
        try:
            await run_worker(self._submit_due, wake=wake, stop=stop, clock=self._clock, name="submits")
        finally:
            self._notifiers.tasks.unsubscribe(wake)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_GRACE.total_seconds()):
                await self.drain()

    async def drain(self) -> None:
        """Wait for calls to Kling in flight, so that their answers are bound."""
        await self._spawned.drain()

    def spawn(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        """Run *work* as an owned task: it continues if the caller is cancelled."""
        return self._spawned.spawn(work, on_done=self._notifiers.tasks.notify)

    async def submit(self, task: Task) -> Task:
        """Serve the queue for a new task. Return the task when Kling has answered, or when the task has to wait."""
        with self._recorder.watched(task.id) as watched:
            await self._serve()
            if task.id not in self._in_flight and not self._has_room(()):  # it is sent when another create has ended
                await self._clock.wait(watched.recorded, until=self._clock.now() + _MAX_WAIT_FOR_ROOM)
            create = self._in_flight.get(task.id)
            if create is not None:
                await asyncio.wait([create])
            return watched.latest or await self._with_wait_reason(task)

    async def _with_wait_reason(self, task: Task) -> Task:
        """Store why a task waits that is still queued. Return the task as it is now."""
        latest = task

        def decide(held: Task, _: Sequence[Push]) -> Change:
            nonlocal latest
            needs_reason = held.state is TaskState.QUEUED and not held.message
            latest = replace(held, message=self._admission.wait_reason(task)) if needs_reason else held
            return Change(task=latest) if needs_reason else Change()

        await self._task_store.apply(ById(id=task.id), decide)
        return latest

    async def _submit_due(self) -> datetime | None:
        if not self._is_restored:
            await self._executor.restore()
            await self._held.withdraw_leftovers()
            await self._task_store.assign_fair_shares(self._settings.kling.fair_by)  # the tag may have changed
            self._is_restored = True
        await self._catch_up()
        return await self._serve()

    async def _catch_up(self) -> None:
        """Make every queued task due at the start and after the clock was set back."""
        now = self._clock.now()
        if self._clock_watch.needs_catch_up(now):
            await self._task_store.make_due(_QUEUED, now=now, before=FAR_FUTURE, min_gap=timedelta())
        self._clock_watch.record(now)

    async def _serve_all(self) -> datetime | None:
        """Send all tasks that may be sent now. Return when to continue, or None to wait for a notification."""
        for _ in range(_MAX_ROUNDS):
            if not self._executor.tenure.is_held:
                return self._clock.now() + STORE_RETRY_DELAY  # the lease may be renewed
            now, fence = self._clock.now(), self._executor.tenure.fence()
            if not self._admission.is_open(now):
                return self._admission.account_probe_at
            if not self._has_room(()):
                return None
            await self._executor.count_found()
            front = await self._task_store.queue_front(
                now=now,
                limit=min(self._max_read, MAX_CONCURRENT - len(self._in_flight)),
                head_ids=self._admission.head_ids,
                absent=tuple(self._recorder.absent),
            )
            try:
                is_changed = await self._serve_front(front, now, fence)
            except DutyLost as exc:
                log.warning("starts.refused", reason=exc.message)
                self._executor.tenure.end()
                continue
            if not is_changed:
                probe_at = self._admission.next_probe_at(now)
                return min((at for at in (front.next_due_at, probe_at) if at is not None), default=None)
        self._notifiers.tasks.notify()  # the worker continues
        return None

    async def _serve_front(self, front: QueueFront, now: datetime, fence: Fence | None) -> bool:
        """Send the tasks at the queue's front for which this is possible. Return False if the queue is unchanged."""
        self._admission.sync_heads([queued.task for queued in front.tasks])
        admitted, moved = await self._admit(front, now)
        # To read tasks that have to wait costs more than to read again.
        used = len(admitted) + moved
        self._max_read = min(2 * self._max_read, MAX_CONCURRENT) if used == len(front.tasks) else max(used, 1)
        if admitted:
            await self._send(admitted, now, fence)
        return used > 0

    async def _admit(self, front: QueueFront, now: datetime) -> tuple[Sequence[_Admitted], int]:
        """Return the tasks that may be sent together, and how many others left the queue or were postponed.

        A probe is sent alone, because its result decides about the others. What follows another change of its key is
        read again.
        """
        admitted: list[_Admitted] = []
        postponed: list[tuple[Task, Wait]] = []
        slots, waiting, changed = front.slots, set[str](), set[str]()
        for queued in front.tasks:
            task, key = queued.task, queued.task.queueing.slot_key
            if key in waiting:
                continue
            if not self._has_room(admitted):
                break
            endpoint = await self._endpoint_of(task)
            if endpoint is None:
                return admitted, 1 + await self._postpone(postponed)
            call = await self._executor.call_of(task, endpoint)
            match self._admission.admit(task, call, slots.all, now):
                case Wait() as wait:
                    postponed.append((task, wait))
                    changed.add(key)
                case Skip():
                    waiting.add(key)
                case Admitted(is_probe=is_probe):
                    if key in changed or (is_probe and admitted):
                        break
                    token = self._ids.token()
                    admitted.append(
                        _Admitted(task=task, endpoint=endpoint, call=call, token=token, slots=slots, size=queued.size)
                    )
                    slots = slots.with_submitting(task)
                    if is_probe or task.id in self._admission.head_ids:
                        break
        return admitted, await self._postpone(postponed)

    async def _postpone(self, postponed: Sequence[tuple[Task, Wait]]) -> int:
        """Let tasks wait until a time, in one transaction: there may be thousands. Return their number."""
        requeues = [self._recorder.requeue(task, wait.reason, until=wait.until) for task, wait in postponed]
        for result in await asyncio.gather(*requeues, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return len(postponed)

    async def _endpoint_of(self, task: Task) -> Endpoint | None:
        """Return the endpoint of a queued task. A task that cannot be sent leaves the queue; then return None."""
        if not self._held.is_wanted(task):
            await self._held.withdraw(task)
            return None
        endpoint = endpoints.resolve(task.endpoint or "")
        if endpoint is None:
            await self._recorder.reject(task, f"This version does not know the endpoint {task.endpoint!r}.")
        return endpoint

    def _has_room(self, admitted: Sequence[_Admitted]) -> bool:
        """Return whether another task may be sent beside those in flight and *admitted*."""
        size = sum(self._bytes_in_flight.values()) + sum(each.size for each in admitted)
        return len(self._in_flight) + len(admitted) < MAX_CONCURRENT and size < MAX_BYTES_IN_FLIGHT

    async def _send(self, admitted: Sequence[_Admitted], now: datetime, fence: Fence | None) -> None:
        """Start the creates of tasks, except those that are no longer queued. Their starts are stored first.

        *fence* is older than the look at the slots: if another process has had the duty since, nothing is sent.
        """
        bodies = await self._task_store.intents([each.task.id for each in admitted])
        lookup_at = now + self._executor.max_duration
        calls = [
            ApplyCall(ref=ById(id=each.task.id), decide=partial(_start, each.token, now, lookup_at), fence=fence)
            for each in admitted
        ]
        changes = await self._task_store.apply_all(calls)
        self._notifiers.lookups.notify_due(lookup_at, now=now)
        for each, change in zip(admitted, changes, strict=True):
            if isinstance(change, Change) and change.task is not None:
                self._admission.started(each.task, each.call, each.slots.all, now)
                body = bodies.get(each.task.id, b"")
                self._bytes_in_flight[each.task.id] = len(body)
                self._in_flight[each.task.id] = self.spawn(self._execute(each, change.task, body, fence))
        for change in changes:
            if isinstance(change, BaseException):
                raise change

    async def _execute(
        self, admitted: _Admitted, task: Task, body: bytes, fence: Fence | None
    ) -> KlingResponse | KlingError:
        try:
            execute = partial(
                self._executor.execute,
                task,
                admitted.endpoint,
                body,
                admitted.token,
                slots_in_use=admitted.slots.confirmed,
                fence=fence,
            )
            return await self._held.send(task.id, execute)
        finally:
            del self._bytes_in_flight[task.id]
            del self._in_flight[task.id]


def _start(token: str, now: datetime, lookup_at: datetime, held: Task, _: Sequence[Push]) -> Change:
    """Record that the submit of a task starts, if it is still queued."""
    if held.state is not TaskState.QUEUED:
        return Change()
    return Change(task=submit_lifecycle.start_submit(held, token_hash(token), now=now, lookup_at=lookup_at))
