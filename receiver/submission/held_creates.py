"""Creates of gateway clients that wait in the queue for a slot, with their clients still connected.

Such a create is a queued task like any other, so it goes in order with the queue. What its client sent beside the body
is only in memory: a create that a restart interrupts is not sent, because no client is left to get its answer.
"""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Protocol, TypeAlias

import msgspec
import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import Conflict, KlingError, RetryHint, ServiceStopping, SlotsFull
from receiver.domain.model import Origin, Task
from receiver.kling.client import KlingResponse
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.settings import values
from receiver.store.interfaces import TaskStore
from receiver.submission.admission import AdmissionControl
from receiver.submission.recorder import CreateRecorder
from receiver.submission.request import Caller, CreateRequest

log = structlog.get_logger()

MAX_HELD = 200
"""The most creates that wait for a slot. Another one is answered 1303 at once."""

MAX_HELD_BYTES = 64 * 1024 * 1024
"""The most bytes of their bodies: a quarter of the memory for large bodies."""

_CHECK_EVERY = timedelta(seconds=1)
_SLOTS_FULL = 1303
_LEFT = "The client left while its create waited for a slot. It was not sent."
_STOPPING = "The service is stopping, and this create still waited for a slot. It was not sent."

Answer: TypeAlias = KlingResponse | KlingError


class Execute(Protocol):
    """Sends a create to Kling."""

    def __call__(self, *, pass_through: PassThrough, keeps_queued: bool) -> Awaitable[Answer]:
        """Send it; with *keeps_queued* the task returns to the queue if Kling has no free slot."""
        ...


class HeldCreate(msgspec.Struct, kw_only=True, eq=False):
    """A create in the queue, and the clients that wait for its answer. ``refusal`` is Kling's last 1303 for it."""

    task: Task
    pass_through: PassThrough
    size: int
    has_room: bool
    callers: list[Caller]
    answer: "asyncio.Future[Answer]" = msgspec.field(default_factory=lambda: asyncio.get_running_loop().create_future())
    answered: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    refusal: KlingResponse | None = None
    is_stored: bool = False
    is_in_flight: bool = False

    @property
    def is_abandoned(self) -> bool:
        """Whether no client waits for the answer any more."""
        return all(caller.has_left() for caller in self.callers)

    def leave(self, caller: Caller) -> None:
        """Remove a client that no longer waits."""
        self.callers = [each for each in self.callers if each is not caller]


class StartedCreate(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway client's create: its task, and the answer to come."""

    task: Task
    answer: "asyncio.Future[KlingResponse | KlingError]"


class HeldCreates:
    """The creates that wait for a slot, at most ``[gateway] wait`` each."""

    def __init__(
        self,
        task_store: TaskStore,
        recorder: CreateRecorder,
        admission: AdmissionControl,
        *,
        wait: timedelta,
        clock: Clock,
    ) -> None:
        self._task_store = task_store
        self._recorder = recorder
        self._admission = admission
        self._wait = wait
        self._clock = clock
        self._held: dict[str, HeldCreate] = {}

    def find(self, task_id: str) -> HeldCreate | None:
        """Return the create of a task that waits for a slot or is being sent after that."""
        return self._held.get(task_id)

    def deadline(self) -> float:
        """Return until when a create that arrives now may wait, on the monotonic clock."""
        return self._clock.monotonic() + self._wait.total_seconds()

    def applies_to(self, endpoint: Endpoint) -> bool:
        """Return whether a create of this endpoint may wait for a slot."""
        return self._wait > timedelta() and endpoint.pack is not None

    @contextmanager
    def added(self, task: Task, create: CreateRequest) -> Iterator[HeldCreate]:
        """Add a create while its task is being stored. It is removed again if it is not stored."""
        size = len(create.body)
        waiting = [held.size for held in self._held.values() if not held.is_abandoned]
        held = HeldCreate(
            task=task,
            pass_through=create.pass_through,
            size=size,
            has_room=len(waiting) < MAX_HELD and size + sum(waiting) <= MAX_HELD_BYTES,
            callers=[create.caller],
        )
        self._held[task.id] = held
        try:
            yield held
        finally:
            if not held.is_stored:
                del self._held[task.id]

    async def wait(self, held: HeldCreate, caller: Caller, deadline: float) -> Answer:
        """Wait for the answer of a create. Return a 1303 if no slot is free before *deadline*.

        Nothing is sent for a client that has left. Raises ServiceStopping, and Conflict if an operator cancels it.
        """
        if caller not in held.callers:
            held.callers.append(caller)
        try:
            while not held.answered.is_set():
                is_over = self._clock.monotonic() >= deadline or not held.has_room
                if (is_over or caller.has_left() or caller.is_stopping()) and not held.is_in_flight:
                    held.leave(caller)
                    if not held.is_abandoned or await self.withdraw(held.task, self._why(held, caller)):
                        return self._refusal(held, caller)
                await self._clock.wait(held.answered, until=self._next_check(deadline))
            return held.answer.result()
        finally:
            held.leave(caller)

    def _next_check(self, deadline: float) -> datetime:
        left = deadline - self._clock.monotonic()
        return self._clock.now() + (min(timedelta(seconds=left), _CHECK_EVERY) if left > 0 else _CHECK_EVERY)

    def is_wanted(self, task: Task) -> bool:
        """Return whether a queued task may be sent: a create of the gateway only if its client still waits."""
        held = self._held.get(task.id)
        return task.origin is not Origin.GATEWAY or (held is not None and not held.is_abandoned)

    async def send(self, task_id: str, execute: Execute) -> Answer:
        """Send the create of a task, and pass the answer to its clients unless it was a 1303."""
        held = self._held.get(task_id)
        if held is None:
            return await execute(pass_through=NO_PASS_THROUGH, keeps_queued=False)
        held.is_in_flight = True
        try:
            answer = await execute(pass_through=held.pass_through, keeps_queued=True)
        except BaseException as exc:
            self._finish(held, exc)
            raise
        finally:
            held.is_in_flight = False
        if isinstance(answer, KlingResponse) and answer.error and answer.error.retry is RetryHint.WHEN_SLOT_FREE:
            held.refusal = answer
        else:
            self._finish(held, answer)
        return answer

    async def withdraw(self, task: Task, why: str = _LEFT) -> bool:
        """Take a create out of the queue. Return False if it is being sent; its client then gets Kling's answer."""
        if not await self._recorder.withdraw(task, why):
            return False
        self._admission.removed(task)
        if held := self._held.get(task.id):
            self._finish(held, self._full(held))
        return True

    def cancelled(self, task_id: str) -> None:
        """End the wait of a create whose task an operator cancelled."""
        if held := self._held.get(task_id):
            self._finish(held, Conflict("An operator cancelled this create while it waited for a slot."))

    async def withdraw_leftovers(self) -> None:
        """Take the creates out of the queue whose clients waited when an earlier process ended."""
        for task in await self._task_store.queued_creates():
            if task.id not in self._held:
                await self.withdraw(task, "The service was restarted while this create waited for a slot.")

    def _why(self, held: HeldCreate, caller: Caller) -> str:
        if caller.is_stopping():
            return _STOPPING
        return _LEFT if caller.has_left() else self._full_message(held)

    def _refusal(self, held: HeldCreate, caller: Caller) -> KlingResponse:
        if caller.is_stopping():
            raise ServiceStopping(_STOPPING, remedy="Send it again after the restart.")
        return self._full(held)

    def _full(self, held: HeldCreate) -> KlingResponse:
        """Return Kling's own 1303, or one of ours if no create was sent."""
        if held.refusal is not None:
            return held.refusal
        message = self._full_message(held)
        error = SlotsFull(message, status=HTTPStatus.TOO_MANY_REQUESTS, kling_code=_SLOTS_FULL)
        body = json.dumps({"code": _SLOTS_FULL, "message": message, "request_id": ""}).encode()
        headers = {"content-type": "application/json"}
        return KlingResponse(status=HTTPStatus.TOO_MANY_REQUESTS, headers=headers, body=body, error=error)

    def _full_message(self, held: HeldCreate) -> str:
        if not held.has_room:
            return f"No slot is free, and {MAX_HELD} creates or {MAX_HELD_BYTES >> 20} MiB already wait for one."
        reason = self._admission.issue_reason(held.task)
        wait = values.write_duration(self._wait)
        return f"It could not be sent within {wait}: {reason}" if reason else f"No slot became free within {wait}."

    def _finish(self, held: HeldCreate, outcome: Answer | BaseException) -> None:
        self._held.pop(held.task.id, None)
        if held.answer.done():
            return
        if isinstance(outcome, KlingResponse | KlingError):
            held.answer.set_result(outcome)
        else:
            held.answer.set_exception(outcome)
            held.answer.exception()  # it is no error if no client is left to see it
        held.answered.set()
