"""Intent → Kling → bound task. The intent and its token are stored before Kling is called.

Whatever happens after that, the task's external id tells whether Kling made it: a submit without a clear answer is
left to :mod:`receiver.submission.recovery`, which looks it up. Nothing here sends a task again that Kling may have.

All that is queued stands in one line, in the store; whoever hands a task in serves the line like everybody else.
"""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import FAR_FUTURE, Clock, Ids, token_hash
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.errors import Conflict, InvalidRequest, KlingError, KlingUncertain, NotFound
from receiver.domain.model import EndReason, Origin, Push, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.domain.worker import TaskSet, run_worker
from receiver.kling import endpoints
from receiver.kling.client import NO_PASS_THROUGH, KlingResponse, PassThrough
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import ById, Change, TaskStore
from receiver.submission.executor import CreateExecutor
from receiver.submission.recorder import CreateRecorder
from receiver.submission.request import SubmitRequest, SubmitResult, TaskMetadata, make_task
from receiver.tasks import submit_lifecycle
from receiver.tasks.account import Scope

log = structlog.get_logger()
T = TypeVar("T")

MAX_CONCURRENT = 32
"""How many queued tasks are being sent at the same time at most."""

MAX_BYTES_IN_FLIGHT = 128 * 1024 * 1024
"""How many bytes of them: one with pictures in it may have tens of megabytes."""

_QUEUED = (TaskState.QUEUED,)
_SHUTDOWN_GRACE = timedelta(seconds=20)
_WAITING_FOR_SLOT = "waits for a slot"
_WAITING_FOR_MORE_SLOTS = "waits for more slots than Kling was seen to have free"
_NO_METADATA = TaskMetadata()


class Submitter:
    """Sends tasks to Kling, each once and in its turn, no more at a time than there are slots."""

    def __init__(
        self,
        task_store: TaskStore,
        executor: CreateExecutor,
        recorder: CreateRecorder,
        *,
        settings: Settings,
        notifiers: Notifiers,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._task_store = task_store
        self._executor = executor
        self._recorder = recorder
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._notifiers = notifiers
        self._clock_watch = ClockWatch()
        self._is_restored = False
        self._in_flight: dict[str, asyncio.Task[KlingResponse | KlingError]] = {}
        self._bytes_in_flight: dict[str, int] = {}
        self._spawned = TaskSet("submit")

    async def submit(self, request: SubmitRequest, *, wait: bool = True) -> SubmitResult:
        """Store a job and send it if it is its turn; give the task as it then stands, or without *wait* as stored.

        A request whose idempotency key was seen before gives the first one's task. Raises InvalidRequest, and
        Conflict where its batch is closed.
        """
        endpoint = endpoints.resolve(request.endpoint)
        if endpoint is None:
            raise InvalidRequest(
                f"Kling has no asynchronous endpoint {request.endpoint!r}.",
                remedy='Name it without "/v1/", such as "images/multi-image2image".',
            )
        intent = json.dumps(request.body, separators=(",", ":")).encode()
        task = self._new_task(endpoint, intent, Origin.API, TaskState.QUEUED, request)
        task = replace(
            task,
            idempotency_key=request.idempotency_key,
            priority=request.priority,
            message=self._wait_reason(task),
        )
        stored = await self._task_store.add(task, intent, batch_size=request.batch_size)
        if stored.id != task.id:
            return SubmitResult(task=stored, deduplicated=True)
        log.info("task.queued", task=task.id, endpoint=task.endpoint)
        if stored.message or not wait:  # whoever serves the line hears of it; most of many at once have to wait
            self._notifiers.tasks.notify()
            return SubmitResult(task=stored)
        return SubmitResult(task=await asyncio.shield(self._spawn(self._submit_and_wait(stored))))

    async def submit_now(
        self,
        endpoint: Endpoint,
        body: bytes,
        metadata: TaskMetadata = _NO_METADATA,
        pass_through: PassThrough = NO_PASS_THROUGH,
    ) -> KlingResponse:
        """Send a gateway client's create on, and give Kling's answer back. It is never queued.

        What the client sent *beside* the body goes along, and is not kept.
        Raises Unreadable and InvalidRequest for the body, Conflict where its batch is closed, KlingUnreachable,
        KlingUncertain.
        """
        token = self._ids.token()
        task = self._new_task(endpoint, body, Origin.GATEWAY, TaskState.SUBMITTING, metadata)
        task = submit_lifecycle.start_submit(
            task, token_hash(token), now=task.created_at, lookup_at=task.created_at + self._executor.max_duration
        )
        taken = await self._task_store.slots_in_use(confirmed_only=True)
        await self._task_store.add(task, body, batch_size=metadata.batch_size)
        sending = self._spawn(
            self._executor.execute(task, endpoint, body, token, slots_in_use=taken, pass_through=pass_through)
        )
        answer = await asyncio.shield(sending)
        if isinstance(answer, KlingUncertain):
            raise KlingUncertain(
                answer.message, remedy=answer.remedy, external_task_id=task.external_task_id
            ) from answer
        if isinstance(answer, KlingError):
            raise answer
        return answer

    async def cancel(self, task_id: str, *, reason: str, actor: str) -> Task:
        """Take a task that waits to be sent out of the line: it counts as rejected. Twice is as good as once.

        Raises NotFound, and Conflict where Kling may have it already, which takes nothing back.
        """
        action = AuditEntry(at=self._clock.now(), actor=actor, verb="task.cancelled", subject=task_id, reason=reason)
        task = await self._recorder.cancel(task_id, action)
        if task is None:
            raise _not_found(task_id)
        if task.end_reason is not EndReason.CANCELLED:
            raise Conflict(f"It does not wait to be sent any more: {task.state}.", remedy="Kling takes no task back.")
        self._executor.slot_limiter.remove(task)
        return task

    async def create_callback_url(
        self, *, endpoint: str | None, metadata: TaskMetadata = _NO_METADATA
    ) -> tuple[Task, str]:
        """Make a callback URL for a job submitted elsewhere. The URL is told here and never again.

        Nobody may ever submit that job: it belongs to no batch, which would wait for it.
        """
        if not self._settings.public.url:
            raise Conflict(
                "There is no public address that Kling could call.", remedy="Set [public] url in config.toml."
            )
        known = None if endpoint is None else endpoints.resolve(endpoint)
        if endpoint is not None and known is None:
            raise InvalidRequest(f"Kling has no asynchronous endpoint {endpoint!r}.")
        token, now = self._ids.token(), self._clock.now()
        task = Task(
            id=self._ids.new("tsk"),
            origin=Origin.MINTED,
            state=TaskState.AWAITING,
            endpoint=None if known is None else known.path,
            pack=None if known is None else known.pack,
            label=metadata.label,
            tags=dict(metadata.tags),
            token_hash=token_hash(token),
            created_at=now,
            updated_at=now,
            expires_at=now + self._settings.callbacks.expire_after,
        )
        await self._task_store.add(task, b"")
        log.info("callback_url.minted", task=task.id, endpoint=task.endpoint)
        return task, self._executor.callback_url(token)

    async def revoke_callback_url(self, task_id: str) -> Task:
        """Let a task's callback URL lead nowhere from now on; the task is followed by polling alone.

        Raises NotFound.
        """

        def decide(held: Task, _: Sequence[Push]) -> Change:
            return Change(task=replace(held, token_hash=None, updated_at=self._clock.now()))

        change = await self._task_store.apply(ById(id=task_id), decide)
        if change is None or change.task is None:
            raise _not_found(task_id)
        log.info("callback_url.revoked", task=task_id)
        return change.task

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks as slots get free, until *stop*; calls under way then are waited for, within bounds."""
        wake = self._notifiers.tasks.subscribe()
        self._is_restored = False
        try:
            await run_worker(self._submit_due, wake=wake, stop=stop, clock=self._clock, name="submits")
        finally:
            self._notifiers.tasks.unsubscribe(wake)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_GRACE.total_seconds()):
                await self.drain()

    async def drain(self) -> None:
        """Wait for calls to Kling that are under way, so that their answers are bound."""
        await self._spawned.drain()

    async def _submit_due(self) -> datetime | None:
        if not self._is_restored:
            await self._executor.restore()
            await self._task_store.assign_fair_shares(self._settings.kling.fair_by)  # the tag may have changed
            self._is_restored = True
        await self._catch_up()
        return await self._drain_queue()

    async def _catch_up(self) -> None:
        """Make every queued task due at the start and after the clock was set back."""
        now = self._clock.now()
        if self._clock_watch.needs_catch_up(now):
            await self._task_store.make_due(_QUEUED, now=now, before=FAR_FUTURE, min_gap=timedelta())
        self._clock_watch.record(now)

    async def _drain_queue(self) -> datetime | None:
        """Send all that may be sent now; tell when there may be more, None when a bell will."""
        async with self._executor.queue_lock:
            while True:
                now = self._clock.now()
                if not self._executor.breaker.allows(now):
                    return self._executor.breaker.next_probe_at
                if len(self._in_flight) >= MAX_CONCURRENT or sum(self._bytes_in_flight.values()) >= MAX_BYTES_IN_FLIGHT:
                    return None
                if not await self._submit_next(now):
                    due = await self._task_store.next_task_due(_QUEUED, after=now)
                    opening = (
                        self._executor.slot_limiter.next_probe_at(now),
                        self._executor.issue_breakers.next_pack_probe_at(now),
                    )
                    moments = [moment for moment in (due, *opening) if moment is not None]
                    return min(moments, default=None)

    async def _submit_next(self, now: datetime) -> bool:
        """Send the next task in the line that there is room for; False where there is none."""
        line = await self._task_store.next_queued(now=now, head_ids=self._executor.slot_limiter.head_ids)
        self._executor.slot_limiter.sync_heads(line)
        if not line:
            return False
        taken, bound = await self._task_store.slots_in_use(), await self._task_store.slots_in_use(confirmed_only=True)
        for task in line:
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is None:
                await self._recorder.reject(task, f"This version knows no endpoint {task.endpoint!r}.")
                return True
            call = await self._executor.call_of(task, endpoint)
            barred = self._executor.issue_breakers.blocked(call, now)
            if barred is not None and barred.issue.scope is Scope.RESOURCE:
                await self._recorder.requeue(task, barred.reason, until=barred.until)
                return True  # whoever comes after it may ask for something else
            if barred is not None:
                continue
            if not self._executor.slot_limiter.admits(task, taken, now):
                aside = self._executor.slot_limiter.yields_until(task, now)
                if aside is None:
                    continue
                await self._recorder.requeue(task, _WAITING_FOR_MORE_SLOTS, until=aside)
                return True
            token = self._ids.token()
            begun = await self._start(task, token, now)
            if begun is not None:
                self._executor.slot_limiter.start(task, taken, now, max_duration=self._executor.max_duration)
                self._executor.breaker.start(now, max_duration=self._executor.max_duration)
                self._executor.issue_breakers.start(call, now, max_duration=self._executor.max_duration)
                loaded = asyncio.Event()
                self._in_flight[task.id] = self._spawn(self._execute(begun, endpoint, token, bound, loaded))
                await loaded.wait()  # so that what it holds is known before the next one goes
            return True
        return False

    async def _start(self, task: Task, token: str, now: datetime) -> Task | None:
        """Write down that a task is being sent; None where it is not queued any more."""

        def decide(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.QUEUED:
                return Change()
            return Change(
                task=submit_lifecycle.start_submit(
                    held, token_hash(token), now=now, lookup_at=now + self._executor.max_duration
                )
            )

        begun = await self._task_store.apply(ById(id=task.id), decide)
        return None if begun is None else begun.task

    async def _execute(
        self, task: Task, endpoint: Endpoint, token: str, slots_in_use: Mapping[str, int], loaded: asyncio.Event
    ) -> KlingResponse | KlingError:
        try:
            intent = await self._task_store.intent(task.id)
            self._bytes_in_flight[task.id] = len(intent)
            loaded.set()
            return await self._executor.execute(task, endpoint, intent, token, slots_in_use=slots_in_use)
        finally:
            loaded.set()
            self._bytes_in_flight.pop(task.id, None)
            del self._in_flight[task.id]

    async def _submit_and_wait(self, task: Task) -> Task:
        """Serve the line on a new task's behalf; give the task when Kling has answered, or when it has to wait."""
        await self._drain_queue()
        sending = self._in_flight.get(task.id)
        if sending is not None:
            await asyncio.wait([sending])
        seen = task

        def decide(held: Task, _: Sequence[Push]) -> Change:
            nonlocal seen
            is_untold = held.state is TaskState.QUEUED and not held.message
            why = self._executor.breaker.reason or self._executor.issue_breakers.reason(task.pack) or _WAITING_FOR_SLOT
            seen = replace(held, message=why) if is_untold else held
            return Change(task=seen) if is_untold else Change()

        await self._task_store.apply(ById(id=task.id), decide)
        return seen

    def _wait_reason(self, task: Task) -> str:
        """Tell people why a new task is not sent at once, as far as that can be foreseen; "" where it may be."""
        if not self._executor.breaker.allows(self._clock.now()):
            return self._executor.breaker.reason
        return self._executor.issue_breakers.reason(task.pack) or (
            _WAITING_FOR_SLOT if self._executor.slot_limiter.has_waiters(task) else ""
        )

    def _new_task(
        self, endpoint: Endpoint, body: bytes, origin: Origin, state: TaskState, metadata: TaskMetadata
    ) -> Task:
        now = self._clock.now()
        task = make_task(
            endpoint,
            body,
            task_id=self._ids.new("tsk"),
            origin=origin,
            state=state,
            now=now,
            expires_at=now + self._settings.callbacks.expire_after,
        )
        share = metadata.tags.get(self._settings.kling.fair_by, "")
        return replace(task, label=metadata.label, tags=dict(metadata.tags), batch=metadata.batch, fair_share=share)

    def _spawn(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        """Run *work* as an owned task: it continues if the caller is cancelled."""
        return self._spawned.spawn(work, on_done=self._notifiers.tasks.notify)


def _not_found(task_id: str) -> NotFound:
    return NotFound(f"No task goes by {task_id[:64]!r}.")
