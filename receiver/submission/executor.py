"""Calls Kling to create a task whose submit has begun, and records the result.

The result also adjusts the limits of :class:`~receiver.submission.admission.AdmissionControl`.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog
from msgspec.structs import replace

from receiver.domain.backoff import backoff
from receiver.domain.clock import Clock
from receiver.domain.coalesced_call import CoalescedCall
from receiver.domain.duties import ALWAYS, MAX_FENCE_AGE, Fence, Tenure
from receiver.domain.errors import (
    DutyLost,
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    RateLimited,
    RetryHint,
    StoreError,
    StoreUnavailable,
)
from receiver.domain.model import Origin, StatusReport, Task, TaskState
from receiver.domain.tracing import NO_TRACER, Tracer
from receiver.kling import create_body, endpoints, protocol
from receiver.kling.client import KlingResponse
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.settings import Settings
from receiver.store.interfaces import ApplyCall, ById, Change, TaskStore
from receiver.submission.admission import MAX_DELAY, AdmissionControl
from receiver.submission.recorder import CreateRecorder
from receiver.submission.request import permission_key
from receiver.tasks.account import AccountIssue, KlingCall, Scope
from receiver.tasks.expected_ends import ExpectedEnds

log = structlog.get_logger()

FIRST_LOOKUP_DELAY = timedelta(seconds=1)
"""How long after a create without a clear answer the task is looked up."""

_DUPLICATE = re.compile(r"external_task_id|duplicat|already (?:exist|in use|used)|重复|已存在")
_INTERNAL_ERROR = "The create ended with an internal error; the log has it."
_DUTY_LOST = "Another node submits tasks now. Nothing was sent."
_MARGIN = timedelta(seconds=5)
_BASE_DELAY = timedelta(seconds=1)
_MAX_LARGE_TASK_DELAY = timedelta(hours=1)


class CreateApi(Protocol):
    """The part of Kling's API that creates tasks."""

    async def create(
        self,
        endpoint: str,
        content: bytes,
        *,
        pass_through: PassThrough,
        before_send: Callable[[], Awaitable[None]] | None = None,
    ) -> KlingResponse:
        """Create a task; *pass_through* is what a gateway client sent beside the body.

        *before_send* is awaited directly before the request leaves; if it raises, nothing is sent.
        """
        ...


class CreateLookup(Protocol):
    """Looks up tasks that Kling may have created."""

    async def adopt(self, task: Task) -> bool:
        """Bind a task that exists at Kling according to its answer. Return False if it does not exist."""
        ...


class CallObserver(Protocol):
    """Observes how calls to Kling end."""

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Record how a call ended, None if it succeeded."""
        ...

    async def restore(self) -> Mapping[AccountIssue, str]:
        """Return the issues that were open before a restart, with their reasons."""
        ...


class CreateExecutor:
    """Makes creates and records their results. ``max_duration`` is the longest that one create may take.

    ``confirmed_slots`` reads the slots that tasks use, by slot key, without those that are still submitting.
    """

    def __init__(
        self,
        task_store: TaskStore,
        kling: CreateApi,
        recorder: CreateRecorder,
        lookup: CreateLookup,
        observer: CallObserver,
        *,
        ends: ExpectedEnds,
        settings: Settings,
        clock: Clock,
        tracer: Tracer = NO_TRACER,
        tenure: Tenure = ALWAYS,
    ) -> None:
        """*tenure* says whether this process may call Kling."""
        self._task_store = task_store
        self._kling = kling
        self._recorder = recorder
        self._lookup = lookup
        self._observer = observer
        self._ends = ends
        self._public_url = settings.public.url.rstrip("/")
        self._clock = clock
        self._tracer = tracer
        self.tenure = tenure
        self.max_duration = 2 * settings.kling.timeout + _MARGIN  # a call may be signed again and repeated once
        self.admission = AdmissionControl(settings.kling.slots, max_duration=self.max_duration)
        self.confirmed_slots = CoalescedCall(partial(task_store.slots_in_use, confirmed_only=True))

    def apply(self, settings: Settings) -> None:
        """Use the slots of *settings* for later creates."""
        self.admission.apply(settings.kling.slots)

    async def restore(self) -> None:
        """Restore the limits at the start from the stored tasks and the open issues.

        If a limit is learned from Kling, the slots in use count as the limit until Kling shows another one. Creates
        that were in flight count as well: if Kling has them, a lower limit would leave slots idle until its next probe.
        """
        in_use = await self._task_store.slots_in_use()
        self.admission.restore(in_use, await self._observer.restore(), self._clock.now())

    async def count_found(self) -> None:
        """Raise the learned limits to the slots in use that include creates which a lookup has found at Kling."""
        while self._recorder.found:
            _, task = self._recorder.found.popitem()
            in_use = await self._confirmed_in_use(task)
            self.admission.accepted(task, self._clock.now(), in_use_before=in_use, in_use_after=in_use)

    async def call_of(self, task: Task, endpoint: Endpoint) -> KlingCall:
        """Return what the create of a task needs from the account. The model is read only if it matters."""
        intent = await self._task_store.intent(task.id) if self.admission.has_issue_at(endpoint.path) else b"{}"
        return KlingCall(
            creates=True, pack=task.queueing.pack, resource=permission_key(endpoint, protocol.parse_object(intent))
        )

    async def execute(
        self,
        task: Task,
        endpoint: Endpoint,
        intent: bytes,
        token: str,
        *,
        slots_in_use: Mapping[str, int],
        pass_through: PassThrough = NO_PASS_THROUGH,
        keeps_queued: bool = False,
        fence: Fence | None = None,
    ) -> KlingResponse | KlingError:
        """Call Kling for a task whose submit has begun with *fence*, and record the result.

        *slots_in_use* is the number of slots by slot key that other tasks used when the call began. *pass_through* is
        what a gateway client sent beside the body. With *keeps_queued* its task returns to the queue after a 1303.
        """
        body = self._create_body(task, endpoint, intent, token)
        self._ends.remember_body(task, body.parsed)
        call = KlingCall(creates=True, pack=task.queueing.pack, resource=permission_key(endpoint, body.parsed))
        started_at = self._clock.now()
        answer = await self._call(task, endpoint, body.content, pass_through, fence)
        try:
            before = self.admission.in_use(task, slots_in_use)
            await self._apply_answer(task, call, answer, intent, started_at, before=before, keeps_queued=keeps_queued)
        except StoreError as exc:
            # The caller must get Kling's answer. The task is looked up and bound when its lease ends.
            log.error("task.not_recorded", task=task.id, reason=exc.message)  # noqa: TRY400 -- the reason is all there is
        except Exception:
            log.exception("task.not_recorded", task=task.id)  # as above
        return answer

    async def _call(
        self, task: Task, endpoint: Endpoint, content: bytes, pass_through: PassThrough, fence: Fence | None
    ) -> KlingResponse | KlingError:
        """Return Kling's answer, or why there is none. After an internal error Kling may have the task as well."""
        self._recorder.in_flight.add(task.id)
        self._recorder.begun_at[task.id] = self._clock.monotonic()
        try:
            async with self._tracer.span("kling.create", task.id):
                return await self._create(task, endpoint, content, pass_through, fence)
        except (KlingUnreachable, KlingUncertain) as exc:
            return exc
        except Exception:
            await self._recorder.schedule_lookup(task, _INTERNAL_ERROR, wait=FIRST_LOOKUP_DELAY)
            raise
        finally:
            self._recorder.in_flight.discard(task.id)

    async def _create(
        self, task: Task, endpoint: Endpoint, content: bytes, pass_through: PassThrough, fence: Fence | None
    ) -> KlingResponse:
        """Call Kling if this process has the duty. Raises KlingUnreachable if not."""
        if not self.tenure.is_held:
            raise KlingUnreachable(_DUTY_LOST)
        if fence is None:
            return await self._kling.create(endpoint.path, content, pass_through=pass_through)
        check = partial(self._require_duty, task, fence)
        return await self._kling.create(endpoint.path, content, pass_through=pass_through, before_send=check)

    async def _require_duty(self, task: Task, fence: Fence) -> None:
        """Raise KlingUnreachable unless the store has shown less than ``MAX_FENCE_AGE`` ago that the duty is ours.

        This process may have stood still since it stored the start. Another one that has taken the duty meanwhile
        waits so long until it believes that Kling does not have the task.
        """
        while self.tenure.is_held and self._clock.monotonic() - fence.made_at > MAX_FENCE_AGE:
            fence = replace(fence, made_at=self._clock.monotonic())
            check = ApplyCall(ref=ById(id=task.id), decide=lambda *_: Change(), fence=fence)
            try:
                [shown] = await self._task_store.apply_all([check])
            except StoreUnavailable as exc:
                raise KlingUnreachable(f"{exc.message} Nothing was sent.") from exc
            if isinstance(shown, DutyLost):
                self.tenure.end()
        if not self.tenure.is_held:
            raise KlingUnreachable(_DUTY_LOST)

    def callback_url(self, token: str) -> str:
        """Return the URL that Kling calls back for a task."""
        return f"{self._public_url}/callbacks/{token}"

    def _create_body(self, task: Task, endpoint: Endpoint, intent: bytes, token: str) -> create_body.CreateBody:
        return create_body.compose(
            intent,
            generation=endpoint.generation,
            callback_url=self.callback_url(token) if self._public_url else None,
            external_task_id=task.external_task_id,
        )

    async def _apply_answer(
        self,
        task: Task,
        call: KlingCall,
        answer: KlingResponse | KlingError,
        intent: bytes,
        started_at: datetime,
        *,
        before: int,
        keeps_queued: bool,
    ) -> None:
        """Adjust the limits, record the result and inform the observer."""
        error = answer if isinstance(answer, KlingError) else answer.error
        after = 0 if error is None else await self._confirmed_in_use(task)
        self.admission.finished(
            task, call, error, started_at=started_at, now=self._clock.now(), max_in_use=max(before, after)
        )
        is_alone = not before and not after
        await self._record(task, call, answer, error, intent, alone=is_alone, keeps_queued=keeps_queued)
        if error is None and self.admission.has_learned_limit(task):
            # includes tasks created at the same time, as far as they are recorded
            after = await self._confirmed_in_use(task) - _unproven_slots(task, intent)
            self.admission.accepted(task, self._clock.now(), in_use_before=before, in_use_after=after)
        await self._observer.on_call(error, call)
        if error is None and self.admission.resolve_issues(call):
            await self._wake_postponed()

    async def _confirmed_in_use(self, task: Task) -> int:
        return self.admission.in_use(task, await self.confirmed_slots())

    async def _wake_postponed(self) -> None:
        """Make the tasks due that were postponed because of an issue that has ended."""
        now = self._clock.now()
        before = now + self.max_duration + MAX_DELAY
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
        keeps_queued: bool,
    ) -> None:
        if error is None and isinstance(answer, KlingResponse):
            report = answer.report or StatusReport(state=None)
            if report.kling_id:
                await self._recorder.bind(task, report, intent=intent)
                return
            error = KlingUncertain("Kling accepted the create, but its answer contains no task id.")
        if isinstance(answer, KlingResponse) and answer.is_success and isinstance(error, KlingUncertain):
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is not None and not endpoint.is_listed:
                await self._recorder.record_unnamed(task, answer.body, intent=intent)
                return
        if error is not None:
            body = answer.body if isinstance(answer, KlingResponse) else b""
            await self._record_failure(task, call, error, body, alone=alone, keeps_queued=keeps_queued)

    async def _record_failure(
        self, task: Task, call: KlingCall, error: KlingError, body: bytes, *, alone: bool, keeps_queued: bool
    ) -> None:
        """Record a create that did not succeed: requeue the task, schedule a lookup, or reject it."""
        log.warning("task.refused", task=task.id, code=error.code, retry=error.retry, reason=error.message)
        if error.retry is RetryHint.AFTER_LOOKUP:
            await self._recorder.schedule_lookup(task, error.message, wait=FIRST_LOOKUP_DELAY)
        elif (keeps_queued and error.retry is RetryHint.WHEN_SLOT_FREE) or (
            task.origin is Origin.API and (error.retry is not RetryHint.NEVER or call.issue_for(error) is not None)
        ):
            await self._requeue(task, call, error, alone=alone)
        elif not await self._is_made_before(task, error):
            await self._recorder.reject(task, error.message, body)

    async def _is_made_before(self, task: Task, error: KlingError) -> bool:
        """Return whether an earlier attempt made the task, so that Kling refuses the repeated external id.

        A gateway client's create is only repeated after a 1303, so its external id is the client's mistake.
        The task is bound then. If Kling does not find it, but says that our own id is taken, it exists all the same.
        """
        if not isinstance(error, InvalidParameters) or task.queueing.attempts <= 1 or task.origin is Origin.GATEWAY:
            return False
        if await self._lookup.adopt(task):
            log.info("task.adopted", task=task.id)
            return True
        if task.external_task_id == task.id and _DUPLICATE.search(error.message.lower()):
            await self._recorder.record_unknown(
                task, f"Kling has a task with its external id, but does not find it. {error}"
            )
            return True
        return False

    async def _requeue(self, task: Task, call: KlingCall, error: KlingError, *, alone: bool) -> None:
        """Requeue a task: at its old place if other tasks would get the same answer, else after a delay.

        A large task that Kling has no slots for, although no other task of ours runs, would block all others. It is
        delayed too.
        """
        retry_after = error.retry_after if isinstance(error, KlingRefusal) else None
        issue = call.issue_for(error)
        if error.retry is RetryHint.WHEN_SLOT_FREE and alone and task.queueing.weight > 1:
            wait = _backoff(task, maximum=_MAX_LARGE_TASK_DELAY)
            await self._recorder.requeue(task, str(error), until=self._clock.now() + wait)
        elif (
            error.retry is RetryHint.WHEN_SLOT_FREE
            or isinstance(error, RateLimited)
            or (issue is not None and issue.scope is Scope.PACK)
        ):
            async with self.admission.queue_lock:
                await self._recorder.requeue(task, str(error), until=task.created_at)
                self.admission.requeued_at_head(task)
        else:
            wait = min(max(_backoff(task, maximum=MAX_DELAY), retry_after or timedelta()), MAX_DELAY)
            await self._recorder.requeue(task, str(error), until=self._clock.now() + wait)


def _unproven_slots(task: Task, intent: bytes) -> int:
    """Return how many of the task's slots it may not need, because Kling chooses the length of its series."""
    endpoint = endpoints.resolve(task.endpoint or "")
    if endpoint is None or task.queueing.weight < endpoints.MAX_IMAGES:
        return 0
    fewest, most = endpoints.slot_range(endpoint, protocol.parse_object(intent))
    return most - fewest


def _backoff(task: Task, *, maximum: timedelta) -> timedelta:
    return backoff(task.queueing.attempts - 1, base=_BASE_DELAY, maximum=maximum)
