"""Creates of gateway clients. A repeated create gets the first one's outcome, so that the client does not pay twice.

A client repeats a create when it got no answer in time, or our 504. It says so with an ``Idempotency-Key``, or it sends
the same body again. The key is stored with the task and holds across a restart. Without a key, the same body of the
same client is a repeat while the first create has no delivered answer. Two creates at the same moment are two tasks.
"""

import asyncio
from datetime import timedelta
from typing import Protocol

import msgspec
import structlog

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock
from receiver.domain.errors import Conflict, KlingError, KlingUncertain, RetryHint
from receiver.domain.model import Task, TaskState
from receiver.domain.notifier import Notifier
from receiver.kling.client import KlingResponse
from receiver.kling.created_answer import created_answer
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.submission.held_creates import HeldCreates, StartedCreate
from receiver.submission.idempotency import Digests, check_same_request, request_digest
from receiver.submission.request import Caller, CreateRequest, TaskMetadata

log = structlog.get_logger()

_MAX_REMEMBERED = 1000
_MAX_ANSWER = 16 * 1024
_MAX_TRIES = 3
_REMEMBERED_SECONDS = 600.0
_SAME_MOMENT_SECONDS = 0.5
"""Two equal creates within this time are two tasks, unless the first client has left or got an unclear answer."""

_LOOK_EVERY = timedelta(seconds=1)
_UNKNOWN = "The first create with this key or body has no clear answer yet, so it is not sent again."
_SEND_AGAIN = "Send this one again later."
_KEY_REMEDY = "Use another Idempotency-Key for another body."


class CreateStarter(Protocol):
    """Starts creates."""

    async def begin_create(self, create: CreateRequest) -> StartedCreate | Task:
        """Store the task and start its create. A known key starts nothing and returns its task."""
        ...


class TaskReader(Protocol):
    """The stored tasks."""

    async def task(self, ref: str) -> Task | None:
        """Return a task."""
        ...


_NO_METADATA = TaskMetadata()
_UNKNOWN_CALLER = Caller()


class _Recent(msgspec.Struct, kw_only=True):
    """A create without a key that a client may repeat, until its answer is delivered.

    It is one before its task is stored, which may take longer than the client waits. ``task`` stays None if it cannot
    be stored. ``has_ended``: its client got an unclear answer, so that an equal create is a repeat.
    """

    begun_at: float
    caller: Caller
    has_ended: bool = False
    task: Task | None = None
    is_stored: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class GatewayCreates:
    """Sends gateway clients' creates, each once."""

    def __init__(
        self,
        submitter: CreateStarter,
        held: HeldCreates,
        digests: Digests,
        tasks: TaskReader,
        *,
        timeout: timedelta,
        notifier: Notifier,
        clock: Clock,
    ) -> None:
        """*timeout* is how long a repeated create waits for an outcome that is still unknown."""
        self._submitter = submitter
        self._held = held
        self._digests = digests
        self._tasks = tasks
        self._timeout = timeout
        self._notifier = notifier
        self._clock = clock
        self._answers: BoundedDict[str, asyncio.Future[KlingResponse | KlingError]] = BoundedDict(_MAX_REMEMBERED)
        self._recent: BoundedDict[tuple[str, bytes], _Recent] = BoundedDict(_MAX_REMEMBERED)

    async def submit_now(
        self,
        endpoint: Endpoint,
        body: bytes,
        metadata: TaskMetadata = _NO_METADATA,
        pass_through: PassThrough = NO_PASS_THROUGH,
        caller: Caller = _UNKNOWN_CALLER,
    ) -> KlingResponse:
        """Forward a client's create and return Kling's answer, or the first one's if the client repeats it.

        Raises MalformedBody and InvalidRequest for the body, KeyReused if the key belongs to another body, Conflict if
        the batch is closed, KlingUnreachable and KlingUncertain.
        """
        request = CreateRequest(
            endpoint=endpoint,
            body=body,
            metadata=metadata,
            pass_through=pass_through,
            caller=caller,
            digest=request_digest(endpoint.path, pass_through.query, body),
            deadline=self._held.deadline(),
        )
        for attempt in range(_MAX_TRIES):  # Kling may refuse the first create while its repeats wait for it
            first = await self._first_or_begun(request, is_repeat=attempt > 0)
            if isinstance(first, StartedCreate):
                return await self._finish(first, request)
            log.info("create.repeated", task=first.id, has_key=caller.key is not None)
            answer = await self._outcome(first, request)
            if answer is None or not caller.has_left():
                self._forget(first, request)
            if answer is not None:
                return answer
            if caller.has_left():  # its client may have sent another repeat, which is sent
                raise Conflict("Kling did not make the first create, and this client has left.", remedy=_SEND_AGAIN)
        raise Conflict("Equal creates end at the same time again and again.", remedy=_SEND_AGAIN)

    async def _first_or_begun(self, request: CreateRequest, *, is_repeat: bool) -> Task | StartedCreate:
        """Return the task of the create that the request repeats, or else begin the request's own create.

        One that *is_repeat* also repeats a create that began at the same moment: of several repeats of a refused create
        one is sent again, and the others wait for it.
        """
        key = request.caller.key
        if not key:
            return await self._first_without_key(request, is_repeat=is_repeat)
        begun = await self._begin(request)
        if not isinstance(begun, StartedCreate):
            await check_same_request(self._digests, begun, request.digest, key=key, remedy=_KEY_REMEDY)
        return begun

    async def _first_without_key(self, request: CreateRequest, *, is_repeat: bool) -> Task | StartedCreate:
        while (repeated := self._repeated(request, is_repeat=is_repeat)) is not None:
            await repeated.is_stored.wait()
            if repeated.task is not None:
                return repeated.task
        recent = _Recent(begun_at=self._clock.monotonic(), caller=request.caller)
        self._recent.pop(request.slot, None)  # the new one must not be evicted as the oldest
        self._recent[request.slot] = recent
        try:
            begun = await self._begin(request)
            recent.task = begun.task if isinstance(begun, StartedCreate) else begun
        finally:
            if recent.task is None and self._recent.get(request.slot) is recent:
                del self._recent[request.slot]
            recent.is_stored.set()
        return begun

    async def _begin(self, request: CreateRequest) -> StartedCreate | Task:
        begun = await self._submitter.begin_create(request)
        if isinstance(begun, StartedCreate):
            self._answers[begun.task.id] = begun.answer
        return begun

    async def _finish(self, begun: StartedCreate, request: CreateRequest) -> KlingResponse:
        """Return the answer of a create, and forget the create if its client gets a clear one.

        The create continues if the caller is cancelled. Raises its KlingError.
        """
        try:
            answer = await self._answer(begun.task, begun.answer, request)
        finally:
            if recent := self._find_recent(begun.task, request):
                recent.has_ended = True
        if isinstance(answer, KlingUncertain):
            own_id = begun.task.external_task_id
            raise KlingUncertain(answer.message, remedy=answer.remedy, external_task_id=own_id) from answer
        if isinstance(answer, KlingError):
            raise answer
        if len(answer.body) > _MAX_ANSWER:
            self._answers.pop(begun.task.id, None)
        is_clear = answer.error is None or answer.error.retry is not RetryHint.AFTER_LOOKUP
        if is_clear and not request.caller.has_left():
            self._forget(begun.task, request)
        return answer

    def _forget(self, task: Task, request: CreateRequest) -> None:
        """Forget the create of *task*, so that an equal one is sent. A newer equal create is kept.

        So is one that still waits for a slot or is being sent, for another client that repeated it.
        """
        if self._find_recent(task, request) and self._held.find(task.id) is None:
            del self._recent[request.slot]

    def _find_recent(self, task: Task, request: CreateRequest) -> _Recent | None:
        recent = self._recent.get(request.slot)
        return recent if recent is not None and recent.task is not None and recent.task.id == task.id else None

    async def _answer(
        self, task: Task, answer: "asyncio.Future[KlingResponse | KlingError]", request: CreateRequest
    ) -> KlingResponse | KlingError:
        held = self._held.find(task.id)
        if held is None:
            return await asyncio.shield(answer)
        return await self._held.wait(held, request.caller, request.deadline)

    def _repeated(self, request: CreateRequest, *, is_repeat: bool) -> _Recent | None:
        """Return the create without a key that this one repeats, or None."""
        recent = self._recent.get(request.slot)
        if recent is None:
            return None
        age = self._clock.monotonic() - recent.begun_at
        if age > _REMEMBERED_SECONDS:
            return None
        is_answer_lost = recent.has_ended or recent.caller.has_left()
        return recent if is_repeat or is_answer_lost or age >= _SAME_MOMENT_SECONDS else None

    async def _outcome(self, task: Task, request: CreateRequest) -> KlingResponse | None:
        """Return the answer of an earlier create, or None if it created nothing. Raises KlingUncertain."""
        create, is_held = self._answers.get(task.id), self._held.find(task.id) is not None
        if create is not None and not _has_failed(create):
            answer = await self._answer(task, create, request)
            error = answer if isinstance(answer, KlingError) else answer.error
            has_waited = is_held and self._clock.monotonic() >= request.deadline
            if isinstance(answer, KlingResponse) and (error is None or has_waited):
                return answer
            if error is not None and error.retry is not RetryHint.AFTER_LOOKUP:
                return None
        elif task.state is TaskState.QUEUED and await self._held.withdraw(task):
            return None  # its client waited when an earlier process ended
        return await self._looked_up(task, request.endpoint)

    async def _looked_up(self, task: Task, endpoint: Endpoint) -> KlingResponse | None:
        """Wait until the look-up of a lost create has ended, at most one time-out."""
        deadline = self._clock.monotonic() + self._timeout.total_seconds()
        wake = self._notifier.subscribe()
        try:
            while True:
                wake.clear()
                held = await self._tasks.task(task.id)
                if held is None or (held.state is TaskState.REJECTED and not held.kling_id):
                    return None
                if held.kling_id and held.state is not TaskState.SUBMITTING:
                    body = created_answer(held, endpoint.generation)
                    return KlingResponse(status=200, headers={"content-type": "application/json"}, body=body)
                if held.state is not TaskState.SUBMITTING or self._clock.monotonic() >= deadline:
                    raise KlingUncertain(_UNKNOWN, external_task_id=task.external_task_id)
                await self._clock.wait(wake, until=self._clock.now() + _LOOK_EVERY)
        finally:
            self._notifier.unsubscribe(wake)


def _has_failed(create: "asyncio.Future[KlingResponse | KlingError]") -> bool:
    """Return whether a create ended without an answer: by an internal error, or because an operator cancelled it."""
    return create.done() and (create.cancelled() or create.exception() is not None)
