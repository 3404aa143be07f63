"""Submits tasks: store the intent, call Kling, bind the id. The intent and its token are stored before the call.

After that, the external id of the task shows whether Kling created it. :mod:`receiver.submission.recovery` looks up
a submit without a clear answer. This module never repeats a create that may have succeeded.
:mod:`receiver.submission.submit_queue` sends the queued tasks.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import TypeVar

import structlog
from msgspec.structs import replace

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, Ids, token_hash
from receiver.domain.duties import Fence
from receiver.domain.errors import Conflict, DutyLost, InvalidRequest, NotFound, StoreUnavailable
from receiver.domain.model import EndReason, Origin, Push, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.domain.queueing import Queueing
from receiver.kling import endpoints, protocol
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import ById, Change, TaskStore
from receiver.submission.admission import WAITING_FOR_SLOT
from receiver.submission.executor import CreateExecutor
from receiver.submission.held_creates import HeldCreates, StartedCreate
from receiver.submission.idempotency import check_same_request, request_digest
from receiver.submission.recorder import CreateRecorder
from receiver.submission.reply_url import check_reply_url
from receiver.submission.request import (
    CreateRequest,
    SubmitRequest,
    SubmitResult,
    TaskMetadata,
    make_task,
    permission_key,
)
from receiver.submission.retry import batch_names, retry_request
from receiver.submission.slot_assignment import SlotKeys
from receiver.submission.submit_queue import SubmitQueue
from receiver.tasks import submit_lifecycle
from receiver.tasks.account import KlingCall

log = structlog.get_logger()
T = TypeVar("T")

_NO_METADATA = TaskMetadata()
_KEY_REMEDY = "Use another key, or set `reuse` (`--reuse`) to get that task."


class Submitter:
    """Stores tasks and has them sent to Kling: each once."""

    def __init__(
        self,
        task_store: TaskStore,
        queue: SubmitQueue,
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
        self._queue = queue
        self._executor = executor
        self._admission = executor.admission
        self._recorder = recorder
        self._held = held
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._notifiers = notifiers
        self._slot_keys = SlotKeys(settings.kling.slots)

    def apply(self, settings: Settings) -> None:
        """Use *settings* for later tasks."""
        self._settings = settings
        self._queue.apply(settings)
        self._slot_keys.apply(settings.kling.slots)

    async def submit(self, request: SubmitRequest, *, wait: bool = True) -> SubmitResult:
        """Store a task and send it if it is next in the queue. Return the task after that, or as stored without *wait*.

        A repeated idempotency key returns the first request's task. Raises InvalidRequest, KeyReused if that had
        another body, and Conflict if the batch is closed.
        """
        endpoint = endpoints.resolve(request.endpoint)
        if endpoint is None:
            raise InvalidRequest(
                f"Kling has no asynchronous endpoint {request.endpoint!r}.",
                remedy='Write it without "/v1/", such as "images/multi-image2image".',
            )
        intent = json.dumps(request.body, separators=(",", ":")).encode()
        task = self._new_task(endpoint, intent, Origin.API, TaskState.QUEUED, request)
        task = replace(
            task,
            idempotency_key=request.idempotency_key,
            queueing=replace(task.queueing, priority=request.priority),
            message=self._admission.expected_wait_reason(task, self._clock.now()),
        )
        digest = None
        if request.idempotency_key:
            digest = request_digest(endpoint.path, json.dumps(request.body, sort_keys=True))
        stored = await self._task_store.add(task, intent, batch_size=request.batch_size, digest=digest)
        if stored.id != task.id:
            if digest is not None and not request.reuse:
                key = request.idempotency_key or ""
                await check_same_request(self._task_store, stored, digest, key=key, remedy=_KEY_REMEDY)
            return SubmitResult(task=stored, deduplicated=True)
        log.info("task.queued", task=task.id, endpoint=task.endpoint)
        if stored.message or not wait:  # the worker sends it; most of many tasks have to wait
            self._notifiers.tasks.notify()
            return SubmitResult(task=stored)
        return SubmitResult(task=await asyncio.shield(self._queue.spawn(self._sent(stored))))

    async def _sent(self, task: Task) -> Task:
        """Return a stored task when Kling has answered, or when it has to wait.

        It is sent even if the store fails now. An error would let the client submit, and pay, a second one.
        """
        try:
            if not self._executor.tenure.is_held:  # another node sends it
                return await self._recorder.outcome(task, limit=self._executor.max_duration)
            return await self._queue.submit(task)
        except StoreUnavailable as exc:
            log.warning("task.outcome_unknown", task=task.id, reason=exc.message)
            return task

    async def begin_create(self, create: CreateRequest) -> StartedCreate | Task:
        """Store the task of a gateway client and start its create, or queue it if it may wait for a slot.

        A known key returns its task. Raises MalformedBody and InvalidRequest for the body, Conflict if the batch is
        closed, and DutyLost if another node sends creates now.
        """
        task = self._new_task(create.endpoint, create.body, Origin.GATEWAY, TaskState.QUEUED, create.metadata)
        if not self._held.applies_to(create.endpoint):
            return await self._start_create(task, create)
        if self._has_issue(task, create):
            async with self._admission.queue_lock:  # until the start is stored, so that the next one counts it
                if await self._is_slot_free(task):
                    return await self._start_create(task, create)
        return await self._queue_create(task, create)

    def _has_issue(self, task: Task, create: CreateRequest) -> bool:
        """Return whether Kling cannot be reached or has an issue with such a create. The model is read if it matters.

        It then waits only for a slot, because its client must get Kling's answer.
        """
        path = create.endpoint.path
        body = protocol.parse_object(create.body) if self._admission.has_issue_at(path) else {}
        call = KlingCall(creates=True, pack=task.queueing.pack, resource=permission_key(create.endpoint, body))
        return self._admission.has_issue(call, self._clock.now())

    async def _is_slot_free(self, task: Task) -> bool:
        in_use = await self._task_store.slots_in_use(absent=tuple(self._recorder.absent))
        return self._admission.is_slot_free(task, in_use, self._clock.now())

    async def _start_create(self, task: Task, create: CreateRequest) -> StartedCreate | Task:
        token, endpoint, body = self._ids.token(), create.endpoint, create.body
        now = self._clock.now()  # it may have waited for the lock of the queue
        lookup_at = now + self._executor.max_duration
        task = submit_lifecycle.start_submit(task, token_hash(token), now=now, lookup_at=lookup_at)
        fence = self._executor.tenure.fence()
        in_use = await self._executor.confirmed_slots()
        try:
            task, stored = await self._add_create(task, create, fence)
        except DutyLost:
            self._executor.tenure.end()
            raise
        if stored.id != task.id:
            return stored
        self._notifiers.lookups.notify_due(lookup_at, now=now)
        pass_through = create.pass_through
        answer = self._queue.spawn(
            self._executor.execute(
                task, endpoint, body, token, slots_in_use=in_use, pass_through=pass_through, fence=fence
            )
        )
        return StartedCreate(task=task, answer=answer)

    async def _queue_create(self, task: Task, create: CreateRequest) -> StartedCreate | Task:
        task = replace(task, message=WAITING_FOR_SLOT)
        with self._held.added(task, create) as held:
            task, stored = await self._add_create(task, create)
            if stored.id != task.id:
                return stored
            held.is_stored = True
        log.info("task.queued", task=task.id, endpoint=task.endpoint)
        self._notifiers.tasks.notify()
        return StartedCreate(task=task, answer=held.answer)

    async def _add_create(self, task: Task, create: CreateRequest, fence: Fence | None = None) -> tuple[Task, Task]:
        """Store the task of a gateway client. Return it with its key, and the task that has the key."""
        task = replace(task, idempotency_key=create.idempotency_key)
        size, digest = create.metadata.batch_size, create.digest if create.idempotency_key else None
        return task, await self._task_store.add(task, create.body, batch_size=size, digest=digest, fence=fence)

    async def cancel(self, task_id: str, *, reason: str, actor: str) -> Task:
        """Cancel a queued task: it becomes rejected. Idempotent.

        Raises NotFound, and Conflict if Kling may have the task already, because Kling cannot cancel a task.
        """
        action = AuditEntry(at=self._clock.now(), actor=actor, verb="task.cancelled", subject=task_id, reason=reason)
        task = await self._recorder.cancel(task_id, action)
        if task is None:
            raise _not_found(task_id)
        if task.end_reason is not EndReason.CANCELLED:
            raise Conflict(f"The task is no longer queued: {task.state}.", remedy="Kling cannot cancel a task.")
        self._admission.removed(task)
        self._held.cancelled(task.id)
        return task

    async def retry(self, task: Task, *, reason: str, actor: str) -> SubmitResult:
        """Submit a task that failed again, as a new task, in its batch or a new one. Idempotent. Raises Conflict."""
        request = retry_request(task, await self._task_store.intent(task.id))
        for batch in batch_names(task.batch):
            try:
                result = await self.submit(replace(request, batch=batch), wait=False)
            except Conflict:  # the batch is closed
                continue
            if not result.deduplicated:
                log.warning("task.retried", task=task.id, new=result.task.id, actor=actor, why=reason)
            return result
        raise Conflict(f"Every batch of task {task.id} is closed.", remedy="Submit it again from its source.")

    async def create_callback_url(
        self, *, endpoint: str | None, metadata: TaskMetadata = _NO_METADATA
    ) -> tuple[Task, str]:
        """Create a callback URL for a task that is submitted elsewhere. The URL is returned only here.

        The task may never be submitted, so it is not in a batch: the batch would wait for it.
        """
        if not self._settings.public.url:
            raise Conflict("Kling needs a public URL to call back.", remedy="Set [public] url in config.toml.")
        known = None if endpoint is None else endpoints.resolve(endpoint)
        if endpoint is not None and known is None:
            raise InvalidRequest(f"Kling has no asynchronous endpoint {endpoint!r}.")
        token, now = self._ids.token(), self._clock.now()
        task = Task(
            id=self._ids.new("tsk"),
            origin=Origin.MINTED,
            state=TaskState.AWAITING,
            endpoint=None if known is None else known.path,
            queueing=Queueing(slot_key=(known and known.pack) or ""),
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
        """Revoke the callback URL of a task, which is then only polled. Raises NotFound."""

        def decide(held: Task, _: Sequence[Push]) -> Change:
            return Change(task=replace(held, token_hash=None, updated_at=self._clock.now()))

        change = await self._task_store.apply(ById(id=task_id), decide)
        if change is None or change.task is None:
            raise _not_found(task_id)
        log.info("callback_url.revoked", task=task_id)
        return change.task

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks until *stop*. Then wait for calls in flight."""
        await self._queue.run(stop)

    async def drain(self) -> None:
        """Wait for calls to Kling in flight, so that their answers are bound."""
        await self._queue.drain()

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
            slot_key=self._slot_keys.key,
        )
        if task.reply_to is not None:
            check_reply_url(task.reply_to, self._settings.network.allow)
        return metadata.add_to(task, self._settings)


def _not_found(task_id: str) -> NotFound:
    return NotFound(f"Unknown task {task_id[:64]!r}.")
