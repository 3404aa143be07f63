"""The create itself: Kling is called for a task whose submit has begun, and what came of it is written down.

What an answer teaches stays here: when Kling may be called again, and how many tasks it takes at once.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from receiver.domain.backoff import backoff
from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.clock import Clock
from receiver.domain.errors import (
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    RateLimited,
    RetryHint,
    StoreError,
)
from receiver.domain.model import Origin, StatusReport, Task, TaskState
from receiver.kling import create_body, endpoints, protocol
from receiver.kling.client import NO_PASS_THROUGH, KlingResponse, PassThrough
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import TaskStore
from receiver.submission.recorder import CreateRecorder
from receiver.submission.request import permission_key
from receiver.submission.slots import SlotLimiter
from receiver.tasks.account import AccountIssue, IssueBreakers, KlingCall, Scope

log = structlog.get_logger()

FIRST_LOOKUP_DELAY = timedelta(seconds=1)
"""How long after a create without a clear answer the task is looked up."""

_MARGIN = timedelta(seconds=5)
_BASE_DELAY = timedelta(seconds=1)
_MAX_DELAY = timedelta(minutes=1)
_MAX_LARGE_TASK_DELAY = timedelta(hours=1)


class CreateApi(Protocol):
    """What a submit asks of Kling."""

    async def create(self, endpoint: str, content: bytes, *, pass_through: PassThrough) -> KlingResponse:
        """Create a task; what is *beside* the body goes along, as far as it may."""
        ...


class CreateLookup(Protocol):
    """Finds out about tasks that Kling may have made."""

    async def adopt(self, task: Task) -> bool:
        """Bind a task that Kling says it has already; False when it has not, after all."""
        ...


class CallObserver(Protocol):
    """Hears how calls to Kling end."""

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Take in how a call ended, None for well."""
        ...

    async def restore(self) -> Mapping[AccountIssue, str]:
        """Give what was in trouble before a restart, and what was said of it."""
        ...


class CreateExecutor:
    """Calls Kling, and learns from how it goes. ``lasts`` is the longest that one call may take.

    Whoever chooses who goes next does it while ``serving`` is theirs, so that the line does not change meanwhile.
    """

    def __init__(
        self,
        task_store: TaskStore,
        kling: CreateApi,
        recorder: CreateRecorder,
        lookup: CreateLookup,
        observer: CallObserver,
        *,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._task_store = task_store
        self._kling = kling
        self._recorder = recorder
        self._lookup = lookup
        self._observer = observer
        self._public_url = settings.public.url.rstrip("/")
        self._clock = clock
        self.queue_lock = asyncio.Lock()
        slots = settings.kling.slots
        self.slot_limiter = SlotLimiter({"video": slots.video, "image": slots.image})
        self.breaker = CircuitBreaker(max_delay=_MAX_DELAY)
        self.issue_breakers = IssueBreakers()
        self.max_duration = 2 * settings.kling.timeout + _MARGIN  # a call may be signed anew and made once more

    async def restore(self) -> None:
        """At start: begin with one trial where there was trouble before, not with all that wait.

        Where Kling teaches how many there may be, what runs is taken for as many until it is known better.
        """
        now = self._clock.now()
        self.slot_limiter.restore(await self._task_store.slots_in_use(confirmed_only=True), now)
        for concern, why in (await self._observer.restore()).items():
            if concern.scope is Scope.ACCOUNT:
                self.breaker.record_failure(why, started_at=now, now=now)
            else:
                self.issue_breakers.record_failure(concern, why, started_at=now, now=now)

    async def call_of(self, task: Task, endpoint: Endpoint) -> KlingCall:
        """Tell what a task asks of the account; the model it names is looked up only where that matters."""
        is_right_missing = self.issue_breakers.has_issue_at(endpoint.path)
        intent = await self._task_store.intent(task.id) if is_right_missing else b"{}"
        return KlingCall(creates=True, pack=task.pack, resource=permission_key(endpoint, protocol.parse_object(intent)))

    async def execute(
        self,
        task: Task,
        endpoint: Endpoint,
        intent: bytes,
        token: str,
        *,
        slots_in_use: Mapping[str, int],
        pass_through: PassThrough = NO_PASS_THROUGH,
    ) -> KlingResponse | KlingError:
        """Call Kling for a task whose submit has begun, and write down what came of it.

        *taken* counts by pack the slots that other tasks were known to take when it was sent, *beside* is what a
        client of the gateway sent with the body.
        """
        composed = self._create_body(task, endpoint, intent, token)
        call = KlingCall(creates=True, pack=task.pack, resource=permission_key(endpoint, composed.parsed))
        begun = self._clock.now()
        answer: KlingResponse | KlingError
        self._recorder.in_flight.add(task.id)
        try:
            answer = await self._kling.create(endpoint.path, composed.content, pass_through=pass_through)
        except (KlingUnreachable, KlingUncertain) as exc:
            answer = exc
        finally:
            self._recorder.in_flight.discard(task.id)
        error = answer if isinstance(answer, KlingError) else answer.error
        try:
            before, after = (
                held.get(task.pack or "", 0)
                for held in (slots_in_use, await self._task_store.slots_in_use(confirmed_only=True))
            )
            self._update_limits(task, call, error, begun, in_use_before=before, in_use_after=after)
            await self._record(task, call, answer, error, intent, alone=not before and not after)
            if error is None:  # with those made at the same time, as far as they are written down
                held = (await self._task_store.slots_in_use(confirmed_only=True)).get(task.pack or "", 0)
                self.slot_limiter.on_accepted(task, before, held, self._clock.now())
            await self._observer.on_call(error, call)
            if error is None and self.issue_breakers.record_success(call):
                await self._wake_postponed()
        except StoreError as exc:
            # Whoever asked must hear what Kling said; the task is looked up and bound when its lease is over.
            log.error("task.not_recorded", task=task.id, reason=exc.message)  # noqa: TRY400 -- the reason is all there is
        return answer

    def _create_body(self, task: Task, endpoint: Endpoint, intent: bytes, token: str) -> create_body.CreateBody:
        return create_body.compose(
            intent,
            generation=endpoint.generation,
            callback_url=self.callback_url(token) if self._public_url else None,
            external_task_id=task.external_task_id,
        )

    def callback_url(self, token: str) -> str:
        """Give the address that Kling calls a task's news in by."""
        return f"{self._public_url}/callbacks/{token}"

    def _update_limits(
        self,
        task: Task,
        call: KlingCall,
        error: KlingError | None,
        started_at: datetime,
        *,
        in_use_before: int,
        in_use_after: int,
    ) -> None:
        """Learn from how a create ended when the next may be made: so many slots were taken *before* and *after* it."""
        now = self._clock.now()
        concern = None if error is None else call.issue_for(error)
        is_barred = concern is not None and concern.scope is not Scope.ACCOUNT
        if concern is not None and is_barred:
            self.issue_breakers.record_failure(concern, str(error), started_at=started_at, now=now)
        if error is None or is_barred or error.retry in (RetryHint.NEVER, RetryHint.WHEN_SLOT_FREE):
            self.breaker.record_success()
        else:
            asked = error.retry_after if isinstance(error, KlingRefusal) else None
            self.breaker.record_failure(str(error), started_at=started_at, now=now, retry_after=asked)
        if error is not None and error.retry is RetryHint.WHEN_SLOT_FREE:
            self.slot_limiter.on_slots_full(task, max(in_use_before, in_use_after), started_at=started_at, now=now)
        elif error is not None:
            self.slot_limiter.on_other_error(task, now)

    async def _wake_postponed(self) -> None:
        """Let those that were put aside for what is mended now go at once."""
        now = self._clock.now()
        before = now + self.max_duration + _MAX_DELAY
        await self._task_store.make_due((TaskState.QUEUED,), now=now, before=before, min_gap=timedelta())

    async def _record(
        self,
        task: Task,
        call: KlingCall,
        answer: KlingResponse | KlingError,
        error: KlingError | None,
        intent: bytes,
        *,
        alone: bool,
    ) -> None:
        if error is None and isinstance(answer, KlingResponse):
            reading = answer.report or StatusReport(state=None)
            if reading.kling_id:
                await self._recorder.bind(task, reading, intent=intent)
                return
            error = KlingUncertain("Kling answered that it made the task, and did not name it.")
        if isinstance(answer, KlingResponse) and answer.is_success and isinstance(error, KlingUncertain):
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is not None and not endpoint.is_listed:
                await self._recorder.record_unnamed(task, answer.body, intent=intent)
                return
        if error is not None:
            await self._record_failure(
                task, call, error, answer.body if isinstance(answer, KlingResponse) else b"", alone=alone
            )

    async def _record_failure(
        self, task: Task, call: KlingCall, error: KlingError, body: bytes, *, alone: bool
    ) -> None:
        """Write down a create that did not succeed: queued again, to be looked up, or rejected."""
        log.warning("task.refused", task=task.id, code=error.code, retry=error.retry, reason=error.message)
        if error.retry is RetryHint.AFTER_LOOKUP:
            await self._recorder.schedule_lookup(task, error.message, wait=FIRST_LOOKUP_DELAY)
        elif task.origin is Origin.API and (error.retry is not RetryHint.NEVER or call.issue_for(error) is not None):
            await self._requeue(task, call, error, alone=alone)
        elif isinstance(error, InvalidParameters) and task.attempts > 1 and await self._lookup.adopt(task):
            log.info("task.adopted", task=task.id)  # its external id was taken by an attempt before this one
        else:
            await self._recorder.reject(task, error.message, body)

    async def _requeue(self, task: Task, call: KlingCall, error: KlingError, *, alone: bool) -> None:
        """Put a task back: to its place where others would fare no better, else aside for a while.

        A large one that Kling has no room for, though nothing else of ours runs, would keep all others from going.
        """
        asked = error.retry_after if isinstance(error, KlingRefusal) else None
        concern = call.issue_for(error)
        if error.retry is RetryHint.WHEN_SLOT_FREE and alone and task.weight > 1:
            wait = _backoff(task, maximum=_MAX_LARGE_TASK_DELAY)
            await self._recorder.requeue(task, str(error), until=self._clock.now() + wait)
        elif (
            error.retry is RetryHint.WHEN_SLOT_FREE
            or isinstance(error, RateLimited)
            or (concern is not None and concern.scope is Scope.PACK)
        ):
            async with self.queue_lock:
                await self._recorder.requeue(task, str(error), until=task.created_at)
                self.slot_limiter.requeue_at_head(task)
        else:
            wait = min(max(_backoff(task, maximum=_MAX_DELAY), asked or timedelta()), _MAX_DELAY)
            await self._recorder.requeue(task, str(error), until=self._clock.now() + wait)


def _backoff(task: Task, *, maximum: timedelta) -> timedelta:
    return backoff(task.attempts - 1, base=_BASE_DELAY, maximum=maximum)
