"""Intent → Kling → bound task. The intent and its token are stored before Kling is called.

Whatever happens after that, the task's external id tells whether Kling made it: a submit without a clear answer is
left to :mod:`receiver.recover`, which looks it up. Nothing here sends a task again that Kling may have.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog

from receiver import lifecycle
from receiver.bells import Bells
from receiver.clock import Clock, Ids
from receiver.errors import (
    Conflict,
    InvalidParameters,
    InvalidRequest,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    NotFound,
    Retry,
    StoreError,
    StoreUnavailable,
)
from receiver.intent import SubmitRequest, make_task
from receiver.kling import endpoints, protocol
from receiver.kling.client import Answer
from receiver.kling.endpoints import Endpoint
from receiver.model import Origin, Push, Reading, Task, TaskState
from receiver.outcomes import Outcomes
from receiver.patience import Patience
from receiver.settings import Settings
from receiver.slots import Slots
from receiver.store import ById, Change, Intake

log = structlog.get_logger()
T = TypeVar("T")

AT_ONCE = 32
"""How many queued tasks are being sent at the same time at most."""

FIRST_LOOK = timedelta(seconds=1)
"""How long after a create without a clear answer the task is looked up."""

_QUEUED = (TaskState.QUEUED,)
_MARGIN = timedelta(seconds=5)
_LOOK_AGAIN = timedelta(seconds=1)
_FIRST_WAIT = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(minutes=1)
_GRACE = timedelta(seconds=20)
_WAITS_FOR_SLOT = "waits for a slot"


class Calls(Protocol):
    """What a submit asks of Kling."""

    async def create(self, endpoint: str, content: bytes) -> Answer:
        """Create a task."""
        ...


class Lookup(Protocol):
    """Finds out about tasks that Kling may have made."""

    async def adopt(self, task: Task) -> bool:
        """Bind a task that Kling says it has already; False when it has not, after all."""
        ...


class Listener(Protocol):
    """Hears how calls to Kling end."""

    async def called(self, error: KlingError | None, *, by: str) -> None:
        """Take in how a call ended, None for well."""
        ...


class Submitter:
    """Sends tasks to Kling, each once, no more at a time than there are slots."""

    def __init__(
        self,
        intake: Intake,
        kling: Calls,
        outcomes: Outcomes,
        lookup: Lookup,
        listener: Listener,
        *,
        settings: Settings,
        bells: Bells,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._intake = intake
        self._kling = kling
        self._outcomes = outcomes
        self._lookup = lookup
        self._listener = listener
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._bells = bells
        self._starting = asyncio.Lock()
        slots = settings.kling.slots
        self._slots = Slots({"video": slots.video, "image": slots.image})
        self._patience = Patience(longest=_LONGEST_WAIT)
        self._call_lasts = 2 * settings.kling.timeout + _MARGIN  # a call may be signed anew and made once more
        self._sending: set[asyncio.Task[object]] = set()

    async def submit(self, request: SubmitRequest) -> Task:
        """Store a job and send it if a slot is free; give the task as it then stands.

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
        task = self._intend(endpoint, intent, Origin.API, TaskState.QUEUED)
        task = replace(task, label=request.label, tags=dict(request.tags), batch=request.batch)
        task = replace(task, idempotency_key=request.idempotency_key)
        stored = await self._intake.add(task, intent, batch_size=request.batch_size)
        if stored.id != task.id:
            return stored
        log.info("task.queued", task=task.id, endpoint=task.endpoint)
        return await self._owned(self._start(stored, endpoint))

    async def relay(self, endpoint: Endpoint, body: bytes) -> Answer:
        """Send a gateway client's create on, and give Kling's answer back. It is never queued.

        Raises Unreadable and InvalidRequest for the body, KlingUnreachable, KlingUncertain.
        """
        token = self._ids.token()
        task = self._intend(endpoint, body, Origin.GATEWAY, TaskState.SUBMITTING)
        task = lifecycle.begin(task, _hash(token), now=task.created_at, until=task.created_at + self._call_lasts)
        await self._intake.add(task, body)
        answer = await self._owned(self._send(task, endpoint, body, token))
        if isinstance(answer, KlingUncertain):
            raise KlingUncertain(
                answer.message, remedy=answer.remedy, external_task_id=task.external_task_id
            ) from answer
        if isinstance(answer, KlingError):
            raise answer
        return answer

    async def mint(self, *, label: str | None, endpoint: str | None) -> tuple[Task, str]:
        """Make a callback URL for a job submitted elsewhere. The URL is told here and never again."""
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
            label=label,
            token_hash=_hash(token),
            created_at=now,
            updated_at=now,
            expires_at=now + self._settings.callbacks.expire_after,
        )
        await self._intake.add(task, b"")
        log.info("callback_url.minted", task=task.id, endpoint=task.endpoint)
        return task, self._callback_url(token)

    async def revoke(self, task_id: str) -> Task:
        """Let a task's callback URL lead nowhere from now on; the task is followed by polling alone.

        Raises NotFound.
        """

        def judge(held: Task, _: Sequence[Push]) -> Change:
            return Change(task=replace(held, token_hash=None, updated_at=self._clock.now()))

        change = await self._intake.apply(ById(id=task_id), judge)
        if change is None or change.task is None:
            raise NotFound(f"No task goes by {task_id[:64]!r}.")
        log.info("callback_url.revoked", task=task_id)
        return change.task

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks as slots get free, until *stop*; calls under way then are waited for, within bounds."""
        bell = self._bells.tasks.listen()
        try:
            while not stop.is_set():
                bell.clear()
                try:
                    until = await self._round()
                except StoreUnavailable as exc:  # a full disk, say; what is due stays due
                    log.warning("submits.delayed", reason=exc.message)
                    until = self._clock.now() + _LOOK_AGAIN
                await self._clock.wait(bell, until=until)
        finally:
            self._bells.tasks.leave(bell)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE.total_seconds()):
                await self.drain()

    async def drain(self) -> None:
        """Wait for calls to Kling that are under way, so that their answers are bound."""
        while self._sending:
            await asyncio.wait(self._sending)

    async def _round(self) -> datetime | None:
        """Send what may be sent now; tell when there may be more, None when a bell will."""
        now = self._clock.now()
        if not self._patience.admits(now):
            return self._patience.opens_at
        free = AT_ONCE - len(self._sending) if self._patience.opens_at is None else 1
        if free <= 0:
            return None
        due = await self._intake.next_task_due(_QUEUED)
        if due is None or due > now:
            return due
        full = self._slots.full(await self._intake.occupancy(), now)
        due = await self._intake.next_task_due(_QUEUED, without=full) if full else due
        if due is None or due > now:
            moments = [moment for moment in (due, self._slots.opens_at(now)) if moment is not None]
            return min(moments, default=None)
        until = now + self._call_lasts
        tasks = await self._intake.claim_tasks(_QUEUED, now=now, until=until, limit=free, without=full)
        await asyncio.gather(*(self._take_up(task) for task in tasks))
        return self._clock.now()

    async def _take_up(self, task: Task) -> None:
        """Have a claimed task sent; returns when it is on its way, or back in the queue."""
        endpoint = endpoints.resolve(task.endpoint or "")
        if endpoint is None:
            return
        decided = asyncio.Event()
        owned = self._own(self._start(task, endpoint, decided=decided))
        owned.add_done_callback(lambda _: decided.set())
        await decided.wait()

    async def _start(self, task: Task, endpoint: Endpoint, *, decided: asyncio.Event | None = None) -> Task:
        """Send a queued task if that may be now; else leave it queued until it may."""
        token = self._ids.token()
        async with self._starting:
            now = self._clock.now()
            why = await self._why_not_now(task, now)
            if why:
                return await self._outcomes.queued(task, why, until=task.created_at)
            begun = await self._begin(task, token, now)
        if decided is not None:
            decided.set()
        if begun is None:
            return task
        await self._send(begun, endpoint, await self._intake.intent(task.id), token)
        return await self._as_it_stands(task)

    async def _why_not_now(self, task: Task, now: datetime) -> str:
        """Tell why a task cannot be sent just now; "" when it can, and then its place is taken."""
        if not self._patience.admits(now):
            return self._patience.why
        if not self._slots.take(task, await self._intake.occupancy(), now, lasts=self._call_lasts):
            return _WAITS_FOR_SLOT
        self._patience.call(now, lasts=self._call_lasts)
        return ""

    async def _begin(self, task: Task, token: str, now: datetime) -> Task | None:
        def judge(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.QUEUED:
                return Change()
            return Change(task=lifecycle.begin(held, _hash(token), now=now, until=now + self._call_lasts))

        begun = await self._intake.apply(ById(id=task.id), judge)
        return None if begun is None else begun.task

    async def _send(self, task: Task, endpoint: Endpoint, intent: bytes, token: str) -> Answer | KlingError:
        """Call Kling for a task whose submit has begun, and write down what came of it."""
        composed = protocol.compose(
            intent,
            generation=endpoint.generation,
            callback_url=self._callback_url(token) if self._settings.public.url else None,
            external_task_id=task.external_task_id,
        )
        begun = self._clock.now()
        answer: Answer | KlingError
        self._outcomes.awaited.add(task.id)
        try:
            answer = await self._kling.create(endpoint.path, composed.content)
        except (KlingUnreachable, KlingUncertain) as exc:
            answer = exc
        finally:
            self._outcomes.awaited.discard(task.id)
        error = answer if isinstance(answer, KlingError) else answer.error
        try:
            self._heed(task, error, begun, taken=await self._taken_besides(task))
            await self._write_down(task, answer, error, intent)
            await self._listener.called(error, by="submit")
        except StoreError as exc:
            # Whoever asked must hear what Kling said; the task is looked up and bound when its lease is over.
            log.error("task.unrecorded", task=task.id, reason=exc.message)  # noqa: TRY400 -- the reason is all there is
        return answer

    def _heed(self, task: Task, error: KlingError | None, begun: datetime, *, taken: Mapping[str, int]) -> None:
        """Learn from how a create ended when the next may be made."""
        now = self._clock.now()
        if error is None:
            self._slots.accepted(task, taken)
        if error is None or error.retry in (Retry.NO, Retry.WHEN_FREE):
            self._patience.succeed()
        else:
            asked = error.retry_after if isinstance(error, KlingRefusal) else None
            self._patience.fail(str(error), begun=begun, now=now, asked=asked)
        if error is not None and error.retry is Retry.WHEN_FREE:
            self._slots.refused(task, taken, begun=begun, now=now)

    async def _taken_besides(self, task: Task) -> Mapping[str, int]:
        """Count the slots that other tasks take while this one is being sent."""
        taken = dict(await self._intake.occupancy())
        if task.pack is not None:
            taken[task.pack] = max(0, taken.get(task.pack, 0) - task.weight)
        return taken

    async def _write_down(
        self, task: Task, answer: Answer | KlingError, error: KlingError | None, intent: bytes
    ) -> None:
        if error is None and isinstance(answer, Answer):
            reading = answer.reading or Reading(state=None)
            if reading.kling_id:
                await self._outcomes.bound(task, reading, intent=intent)
                return
            error = KlingUncertain("Kling answered that it made the task, and did not name it.")
        if isinstance(answer, Answer) and answer.is_success and isinstance(error, KlingUncertain):
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is not None and not endpoint.is_listed:
                await self._outcomes.nameless(task, answer.body, intent=intent)
                return
        if error is not None:
            await self._failed(task, error, answer.body if isinstance(answer, Answer) else b"")

    async def _failed(self, task: Task, error: KlingError, body: bytes) -> None:
        """Write down a create that did not succeed: queued again, to be looked up, or rejected."""
        log.warning("task.refused", task=task.id, code=error.code, retry=error.retry, reason=error.message)
        if error.retry is Retry.LOOK_UP_FIRST:
            await self._outcomes.open(task, error.message, wait=FIRST_LOOK)
        elif task.origin is Origin.API and error.retry is Retry.WHEN_FREE:
            await self._outcomes.queued(task, str(error), until=task.created_at)
        elif task.origin is Origin.API and error.retry is not Retry.NO:
            await self._outcomes.queued(task, str(error), until=self._clock.now() + _wait(task, error))
        elif isinstance(error, InvalidParameters) and task.attempts > 1 and await self._lookup.adopt(task):
            log.info("task.adopted", task=task.id)  # its external id was taken by an attempt before this one
        else:
            await self._outcomes.rejected(task, error.message, body)

    def _intend(self, endpoint: Endpoint, body: bytes, origin: Origin, state: TaskState) -> Task:
        now = self._clock.now()
        return make_task(
            endpoint,
            body,
            task_id=self._ids.new("tsk"),
            origin=origin,
            state=state,
            now=now,
            due_at=now + _MARGIN,
            expires_at=now + self._settings.callbacks.expire_after,
        )

    async def _as_it_stands(self, task: Task) -> Task:
        seen = task

        def look(held: Task, _: Sequence[Push]) -> Change:
            nonlocal seen
            seen = held
            return Change()

        await self._intake.apply(ById(id=task.id), look)
        return seen

    def _own(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        """Run *work* as a task of ours: it goes on when whoever asked for it goes away."""
        owned = asyncio.create_task(work)
        self._sending.add(owned)
        owned.add_done_callback(self._done)
        return owned

    async def _owned(self, work: Coroutine[object, object, T]) -> T:
        return await asyncio.shield(self._own(work))

    def _done(self, owned: "asyncio.Task[object]") -> None:
        self._sending.discard(owned)
        self._bells.tasks.ring()
        if not owned.cancelled() and owned.exception() is not None:
            log.error("submit.failed", exc_info=owned.exception())

    def _callback_url(self, token: str) -> str:
        return f"{self._settings.public.url.rstrip('/')}/callbacks/{token}"


def _wait(task: Task, error: KlingError) -> timedelta:
    """Tell how long to leave Kling alone with a task: what it asks for, else a doubling wait."""
    asked = error.retry_after if isinstance(error, KlingRefusal) else None
    grown: timedelta = _FIRST_WAIT * 2 ** min(max(task.attempts - 1, 0), 10)
    return min(max(grown, asked or timedelta()), _LONGEST_WAIT)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
