"""Intent → Kling → bound task. The intent and its token are stored before Kling is called.

Whatever happens after that, the task's external id tells whether Kling made it: a submit without a clear answer
is looked up, and sent again only when Kling has had its time and does not know it.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog

from receiver import lifecycle
from receiver.announce import Announcer
from receiver.bells import Bells
from receiver.clock import Clock, Ids
from receiver.errors import (
    Conflict,
    InvalidRequest,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    Retry,
    StoreError,
    Unreadable,
)
from receiver.kling import endpoints, protocol
from receiver.kling.client import Answer
from receiver.kling.endpoints import Endpoint
from receiver.kling.shortened import shortened
from receiver.model import Json, Origin, Push, Reading, Source, Task, TaskState, Verified
from receiver.settings import Settings
from receiver.store import ById, Change, Intake

log = structlog.get_logger()
T = TypeVar("T")

MARGIN = timedelta(seconds=5)
"""How much later than the call's own time-out a submit without an answer is looked up."""

_WAITING = (TaskState.QUEUED, TaskState.SUBMITTING)
_PASSING = (Retry.SOON, Retry.WHEN_FREE, Retry.AFTER_REMEDY, Retry.ANEW)
_BATCH = 32
_FIRST_WAIT = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(minutes=1)


class Calls(Protocol):
    """What a submit asks of Kling."""

    async def create(self, endpoint: str, content: bytes) -> Answer:
        """Create a task."""
        ...

    async def find(self, endpoint: str, external_task_id: str) -> Answer | None:
        """Look a task up by the id we gave it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A job for Kling. ``body`` goes to Kling with the callback URL and the external id put in."""

    endpoint: str
    body: Json
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None


class Submitter:
    """Sends tasks to Kling, each once, no more at a time than there are slots."""

    def __init__(
        self,
        intake: Intake,
        kling: Calls,
        announcer: Announcer,
        *,
        settings: Settings,
        bells: Bells,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._intake = intake
        self._kling = kling
        self._announcer = announcer
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._bells = bells
        self._starting = asyncio.Lock()
        self._short_of_slots = False
        self._sending: set[asyncio.Task[object]] = set()

    async def submit(self, request: SubmitRequest) -> Task:
        """Store a job and send it if a slot is free; give the task as it then stands.

        A request whose idempotency key was seen before gives the first one's task. Raises InvalidRequest.
        """
        endpoint = endpoints.resolve(request.endpoint)
        if endpoint is None:
            raise InvalidRequest(
                f"Kling has no asynchronous endpoint {request.endpoint!r}.",
                remedy='Name it without "/v1/", such as "images/multi-image2image".',
            )
        intent = json.dumps(request.body, separators=(",", ":")).encode()
        task = self._intend(endpoint, intent, Origin.API, TaskState.QUEUED)
        task = replace(task, label=request.label, tags=dict(request.tags), idempotency_key=request.idempotency_key)
        stored = await self._intake.add(task, intent)
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
        task = lifecycle.begin(task, _hash(token), now=task.created_at, until=self._lease_end())
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

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks as slots get free, and look up those whose answer was lost, until *stop*."""
        bell = self._bells.tasks.listen()
        await self._look_up_interrupted()
        while not stop.is_set():
            bell.clear()
            now = self._clock.now()
            horizon = now + _LONGEST_WAIT if self._short_of_slots else now
            self._short_of_slots = False
            tasks = await self._intake.claim_tasks(
                (TaskState.QUEUED,), now=horizon, until=horizon + MARGIN, limit=_BATCH
            )
            tasks = [
                *tasks,
                *await self._intake.claim_tasks(
                    (TaskState.SUBMITTING,), now=now, until=self._lease_end(), limit=_BATCH
                ),
            ]
            for task in tasks:
                await self._take_up(task)
            due = await self._intake.next_task_due(_WAITING)
            await self._clock.wait(bell, until=due)
        self._bells.tasks.leave(bell)

    async def drain(self) -> None:
        """Wait for calls to Kling that are under way, so that their answers are bound."""
        while self._sending:
            await asyncio.wait(self._sending)

    async def _look_up_interrupted(self) -> None:
        """At start: what a former process was sending is looked up now, not at its lease's end."""
        horizon = self._lease_end()
        while tasks := await self._intake.claim_tasks(
            (TaskState.SUBMITTING,), now=horizon, until=horizon + MARGIN, limit=_BATCH
        ):
            for task in tasks:
                await self._take_up(task)

    async def _take_up(self, task: Task) -> None:
        endpoint = endpoints.resolve(task.endpoint or "")
        if endpoint is None:
            return
        if task.state is TaskState.QUEUED:
            self._own(self._start(task, endpoint))
        else:
            self._own(self._recover(task, endpoint))

    async def _start(self, task: Task, endpoint: Endpoint) -> Task:
        """Send a queued task if a slot is free; else leave it queued until one may be."""
        token = self._ids.token()
        async with self._starting:
            now = self._clock.now()
            if not await self._has_room(task):
                self._short_of_slots = True
                return await self._change(
                    task.id,
                    lambda held: lifecycle.queue_again(held, "waits for a slot", now=now, until=now + _LONGEST_WAIT),
                )
            begun = await self._intake.apply(
                ById(id=task.id),
                lambda held, _: (
                    Change()
                    if held.state is not TaskState.QUEUED
                    else Change(task=lifecycle.begin(held, _hash(token), now=now, until=self._lease_end()))
                ),
            )
        if begun is None or begun.task is None:
            return task
        await self._send(begun.task, endpoint, await self._intake.intent(task.id), token)
        return await self._as_it_stands(task)

    async def _send(self, task: Task, endpoint: Endpoint, intent: bytes, token: str) -> Answer | KlingError:
        """Call Kling for a task whose submit has begun, and write down what came of it."""
        callback_url = self._callback_url(token) if self._settings.public.url else None
        composed = protocol.compose(
            intent,
            generation=endpoint.generation,
            callback_url=callback_url,
            external_task_id=task.external_task_id,
        )
        try:
            answer = await self._kling.create(endpoint.path, composed.content)
        except (KlingUnreachable, KlingUncertain) as exc:
            await self._failed(task, exc, b"")
            return exc
        if answer.error is not None:
            await self._failed(task, answer.error, answer.body)
            return answer
        try:
            await self._bound(task, answer.reading or Reading(state=None), intent)
        except StoreError as exc:
            # Kling has made it, so whoever asked must hear that; the task is looked up and bound at its lease's end.
            log.error("task.unbound", task=task.id, reason=exc.message)  # noqa: TRY400  # the reason is all there is to tell
        return answer

    async def _bound(self, task: Task, reading: Reading, intent: bytes) -> None:
        now = self._clock.now()
        slim = shortened(intent)

        def judge(held: Task, pending: Sequence[Push]) -> Change:
            bound = lifecycle.bind(held, reading, awaited=bool(pending), now=now, poll=self._settings.poll)
            return Change(task=bound, intent=slim)

        await self._intake.apply(ById(id=task.id), judge, with_pending=True)
        self._bells.tasks.ring()
        log.info("task.submitted", task=task.id, kling_id=reading.kling_id, endpoint=task.endpoint)

    async def _failed(self, task: Task, error: KlingError, body: bytes) -> None:
        """Write down a create that did not succeed: queued again, to be looked up, or rejected."""
        now = self._clock.now()
        log.warning("task.refused", task=task.id, code=error.code, retry=error.retry, reason=error.message)
        if error.retry is Retry.LOOK_UP_FIRST:
            await self._change(task.id, lambda held: replace(held, message=error.message, due_at=now + MARGIN))
        elif task.origin is Origin.API and error.retry in _PASSING:
            wait = _wait(task, error)
            self._short_of_slots |= error.retry is Retry.WHEN_FREE
            await self._change(task.id, lambda held: lifecycle.queue_again(held, str(error), now=now, until=now + wait))
        else:
            await self._reject(task, error.message, body, now=now)

    async def _reject(self, task: Task, message: str, body: bytes, *, now: datetime) -> None:
        def judge(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.SUBMITTING:
                return Change()
            rejected = lifecycle.reject(held, message, now=now)
            said = self._announcer.task_event(
                rejected,
                Reading(state=None),
                body if _is_object(body) else b"",
                source=Source.SUBMIT,
                verified=Verified.API,
                at=now,
            )
            return Change(task=rejected, events=(said.event,), deliveries=said.deliveries)

        await self._intake.apply(ById(id=task.id), judge)
        self._bells.ring()

    async def _recover(self, task: Task, endpoint: Endpoint) -> None:
        """Find out what became of a submit whose answer was lost; send it again only if Kling made nothing."""
        now = self._clock.now()
        try:
            answer = await self._kling.find(endpoint.path, task.external_task_id or task.id)
        except KlingError as exc:
            log.warning("task.lookup_failed", task=task.id, code=exc.code, reason=exc.message)
            wait = _wait(task, exc)
            await self._change(task.id, lambda held: replace(held, due_at=now + wait))
            return
        if answer is not None and answer.reading is not None:
            log.info("task.found", task=task.id)
            await self._bound(task, answer.reading, await self._intake.intent(task.id))
            return
        certain_at = task.updated_at + self._settings.kling.timeout
        if now < certain_at:
            await self._change(task.id, lambda held: replace(held, due_at=certain_at))
        elif task.origin is Origin.API:
            await self._change(
                task.id, lambda held: lifecycle.queue_again(held, "Kling never got it", now=now, until=now)
            )
            self._bells.tasks.ring()
        else:
            reason = "The answer was lost, and Kling knows no such task: nothing was made."
            await self._reject(task, reason, b"", now=now)

    async def _has_room(self, task: Task) -> bool:
        slots = self._settings.kling.slots
        limit = {"video": slots.video, "image": slots.image}.get(task.pack or "", 0)
        if not limit:
            return True
        taken = (await self._intake.occupancy()).get(task.pack or "", 0)
        return taken == 0 or taken + task.weight <= limit

    def _intend(self, endpoint: Endpoint, body: bytes, origin: Origin, state: TaskState) -> Task:
        """Make the task for a job; checks its body as far as we put something into it."""
        task_id, now = self._ids.new("tsk"), self._clock.now()
        composed = protocol.compose(body, generation=endpoint.generation, callback_url=None, external_task_id=task_id)
        return Task(
            id=task_id,
            origin=origin,
            state=state,
            endpoint=endpoint.path,
            external_task_id=composed.external_task_id,
            reply_to=composed.reply_to,
            pack=endpoint.pack,
            weight=endpoints.weight(endpoint, protocol.parse_object(body)),
            created_at=now,
            updated_at=now,
            due_at=now + MARGIN,
            expires_at=now + self._settings.callbacks.expire_after,
        )

    async def _change(self, task_id: str, become: Callable[[Task], Task]) -> Task:
        """Change a task that is still waiting or being sent; one that callbacks moved on is left alone."""

        def judge(held: Task, _: Sequence[Push]) -> Change:
            return Change(task=become(held) if held.state in _WAITING else held)

        change = await self._intake.apply(ById(id=task_id), judge)
        if change is None or change.task is None:
            raise Conflict(f"Task {task_id} is gone.")
        return change.task

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
        if not owned.cancelled() and owned.exception() is not None:
            log.error("submit.failed", exc_info=owned.exception())

    def _callback_url(self, token: str) -> str:
        return f"{self._settings.public.url.rstrip('/')}/callbacks/{token}"

    def _lease_end(self) -> datetime:
        return self._clock.now() + self._settings.kling.timeout + MARGIN


def _wait(task: Task, error: KlingError) -> timedelta:
    """Tell how long to leave Kling alone: what it asks for, else a doubling wait."""
    asked = error.retry_after if isinstance(error, KlingRefusal) else None
    grown: timedelta = _FIRST_WAIT * 2 ** min(max(task.attempts - 1, 0), 10)
    return min(max(grown, asked or timedelta()), _LONGEST_WAIT)


def _is_object(body: bytes) -> bool:
    try:
        protocol.parse_object(body)
    except Unreadable:
        return False
    return True


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
