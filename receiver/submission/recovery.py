"""Recovers tasks whose create has no clear answer: after a crash, a timeout, or a 5000.

Kling may have created and billed such a task. So it is looked up by its external id. It is sent again only if Kling
answers "not found" after enough time.

"Not found" is not always trusted. A gateway that drops the external id never finds a task by it. An endpoint that the
catalogue does not list may not permit lookups. "Not found" is trusted:

- at a listed endpoint, if the host is Kling's own: a gateway has another host;
- if another recent task of ours at the same endpoint was found by its external id;
- at a listed endpoint, if every task that the endpoint lists is known. An empty list counts only on this machine.

Otherwise the task ends as unknown, with an alert.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from receiver.domain.backoff import backoff
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.clock import FAR_FUTURE, Clock
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.duties import ALWAYS, Tenure
from receiver.domain.errors import KlingError, KlingUncertain, NoResponse, RetryHint, UnknownResource
from receiver.domain.model import Origin, StatusReport, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.domain.worker import TaskSet, run_worker
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.task_ids import may_be_made_between
from receiver.settings import Settings
from receiver.settings.addresses import is_loopback
from receiver.store.interfaces import Page, TaskStore
from receiver.submission.recorder import CreateRecorder

log = structlog.get_logger()

_SUBMITTING = (TaskState.SUBMITTING,)
_BOUND = (TaskState.SUBMITTED, TaskState.PROCESSING, TaskState.SUCCEED, TaskState.FAILED)
_MAX_CONCURRENT = 4
_BATCH_SIZE = 64
_MARGIN = timedelta(seconds=5)
_BASE_DELAY = timedelta(seconds=1)
_MAX_DELAY = timedelta(minutes=1)
_MIN_WAIT = timedelta(hours=1)  # of lookups in this process, before a task is given up
_MAX_REMEMBERED = 10_000
_MAX_NAMED = 3  # candidates that a message names
_MAX_EVIDENCE_AGE = timedelta(days=1)
_OFFICIAL_DOMAINS = ("klingai.com", "kling.ai")  # Kling's domains: a host in them is not a gateway
_NOT_CREATED = "Kling did not receive the create"
_ANSWER_LOST = "The answer to the create was lost, and Kling has no such task: nothing was created. Send it again."


class LookupApi(Protocol):
    """The part of Kling's API that looks tasks up."""

    async def find_by_external_id(self, endpoint: str, external_task_id: str) -> KlingResponse | None:
        """Return the task with an external id of ours, or None."""
        ...

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Query one task."""
        ...

    async def list_newest(self, endpoint: str) -> Sequence[StatusReport] | None:
        """Return the newest tasks of an endpoint, or None if some of the newest may be missing."""
        ...


class TaskHistory(Protocol):
    """The stored tasks."""

    async def task(self, ref: str) -> Task | None:
        """Return the task with this id, Kling id or external id."""
        ...

    async def tasks(
        self, *, states: Sequence[TaskState] = (), endpoint: str | None = None, limit: int = 50
    ) -> Page[Task]:
        """Return a page of tasks, newest first."""
        ...


class _Unavailable(Exception):
    """Kling cannot be queried now."""

    def __init__(self, error: KlingError) -> None:
        super().__init__(error.message)
        self.error = error


class _Inconclusive(Exception):
    """Kling answered, and its answer does not show whether the task exists."""


class CreateRecovery:
    """Looks up each task whose create was in flight when its answer was lost or the process ended."""

    def __init__(
        self,
        task_store: TaskStore,
        kling: LookupApi,
        recorder: CreateRecorder,
        history: TaskHistory,
        *,
        settings: Settings,
        notifiers: Notifiers,
        clock: Clock,
        tenure: Tenure = ALWAYS,
    ) -> None:
        self._task_store = task_store
        self._tenure = tenure
        self._kling = kling
        self._recorder = recorder
        self._history = history
        self._settings = settings
        self._notifiers = notifiers
        self._clock = clock
        self._lease = 5 * settings.kling.timeout + _MARGIN  # a lookup takes up to five calls
        self._breaker = CircuitBreaker(max_delay=_MAX_DELAY)
        self._clock_watch = ClockWatch()
        self._seen_at: BoundedDict[str, float] = BoundedDict(_MAX_REMEMBERED)
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._lookups = TaskSet("lookup.failed")

    def apply(self, settings: Settings) -> None:
        """Use *settings* for later lookups."""
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        """Look up due tasks until *stop*, first those that an earlier process was sending."""
        self._clock_watch, self._breaker = ClockWatch(), CircuitBreaker(max_delay=_MAX_DELAY)
        self._seen_at.clear()  # another process may have begun a create of the same task since
        self._recorder.forget_creates()
        wake = self._notifiers.lookups.subscribe()
        look_up_due = partial(self._look_up_due, wake)
        try:
            await run_worker(look_up_due, wake=wake, stop=stop, clock=self._clock, name="lookups")
        finally:
            self._notifiers.lookups.unsubscribe(wake)
            await self._lookups.drain()

    async def adopt(self, task: Task) -> bool:
        """Bind a task that exists at Kling according to its answer. Return False if it does not exist.

        If Kling cannot be queried now, schedule a lookup and return True.
        """
        try:
            return await self._find_and_bind(task)
        except _Unavailable as exc:
            await self._recorder.schedule_lookup(task, str(exc), wait=_MARGIN)
            return True
        except _Inconclusive:
            return False

    async def _catch_up(self) -> None:
        """Make the affected tasks due at the start and after the clock was set back."""
        now = self._clock.now()
        if self._clock_watch.is_start:
            await self._make_interrupted_due(now)
        elif self._clock_watch.was_set_back(now):
            await self._task_store.make_due(_SUBMITTING, now=now, before=FAR_FUTURE, min_gap=timedelta())
        self._clock_watch.record(now)

    async def _make_interrupted_due(self, started_at: datetime) -> None:
        """Make the tasks due that an earlier process was sending, although their leases have not ended.

        A start time after *started_at* and ahead of the clock was set before the clock was set back.
        """
        horizon = started_at + 2 * self._lease
        await self._task_store.make_due(_SUBMITTING, now=horizon, before=FAR_FUTURE, min_gap=timedelta())
        left: list[Task] = []
        while tasks := await self._task_store.claim_tasks(
            _SUBMITTING, now=horizon, until=horizon + _MARGIN, limit=_BATCH_SIZE
        ):
            left += tasks
        for task in left:
            if task.started_at is None or task.started_at <= started_at or task.started_at > self._clock.now():
                await self._recorder.schedule_lookup(task, task.message, wait=timedelta())

    async def _look_up_due(self, wake: asyncio.Event) -> datetime | None:
        await self._catch_up()
        now = self._clock.now()
        if not self._breaker.allows(now):
            return self._breaker.next_probe_at
        free = (_MAX_CONCURRENT if self._breaker.next_probe_at is None else 1) - len(self._in_flight)
        if free <= 0:
            return None
        due = await self._task_store.next_task_due(_SUBMITTING)
        if due is None or due > now:
            return due
        tasks = await self._task_store.claim_tasks(_SUBMITTING, now=now, until=now + self._lease, limit=free)
        for task in tasks:
            # the lease of a task in flight ends only if the clock was set
            if task.id not in self._recorder.in_flight and task.id not in self._in_flight:
                self._breaker.start(now, max_duration=self._lease)
                self._spawn(task, wake)
        return now

    async def _look_up(self, task: Task) -> None:
        """Look up one task and record the result."""
        begun = self._clock.now()
        try:
            if await self._find_and_bind(task):
                self._breaker.record_success()
                return
            denied = await self._trusts_denial(task)
        except _Unavailable as exc:
            self._breaker.record_failure(str(exc), started_at=begun, now=self._clock.now())
            await self._retry_later(task, exc.error)
            return
        except _Inconclusive as exc:
            self._breaker.record_success()
            await self._conclude(task, denied=False, reason=str(exc))
            return
        self._breaker.record_success()
        await self._conclude(task, denied=denied, reason="Kling does not find it by its external id or any other id.")

    async def _find_and_bind(self, task: Task) -> bool:
        """Bind the task if Kling has it. Return False if it was not found, or if it is another task of ours."""
        if task.external_task_id:
            try:
                answer = await self._kling.find_by_external_id(task.endpoint or "", task.external_task_id)
            except KlingError as exc:
                if not task.kling_id or _is_transient(exc):
                    raise _classify(exc) from exc
                answer = None
            if answer is not None and answer.report is not None and await self._is_same_task(task, answer.report):
                await self._bind(task, answer.report)
                return True
        return await self._bind_by_callback(task)

    async def _bind_by_callback(self, task: Task) -> bool:
        """Bind the task by the id from its callback. Only Kling knew the callback URL."""
        if not task.kling_id:
            return False
        try:
            answer = await self._kling.query(task.endpoint or "", task.kling_id)
        except KlingError as exc:
            raise _classify(exc) from exc
        if answer.error is not None:
            if isinstance(answer.error, UnknownResource) and answer.error.kling_code is not None:
                return False
            raise _classify(answer.error)
        if answer.report is None or not await self._is_same_task(task, answer.report):
            return False
        await self._bind(task, answer.report)
        return True

    async def _is_same_task(self, task: Task, report: StatusReport) -> bool:
        """Return whether *report* is about this task: a client may have used one external id twice."""
        if not report.kling_id:
            raise _Inconclusive("Kling returned a task without an id.")
        if report.external_task_id and task.external_task_id and report.external_task_id != task.external_task_id:
            return False
        known = await self._history.task(report.kling_id)
        return known is None or known.id == task.id or known.kling_id != report.kling_id

    async def _bind(self, task: Task, report: StatusReport) -> None:
        log.info("task.found", task=task.id)
        await self._recorder.bind(task, report, intent=await self._task_store.intent(task.id), poll_now=True)

    async def _trusts_denial(self, task: Task) -> bool:
        """Return whether "not found" is trusted; the module's docstring lists the conditions."""
        since = self._clock.now() - _MAX_EVIDENCE_AGE
        page = await self._history.tasks(states=_BOUND, endpoint=task.endpoint, limit=10)
        for other in page.items:
            if other.kling_id and other.external_task_id and other.created_at >= since and other.id != task.id:
                try:
                    found = await self._kling.find_by_external_id(other.endpoint or "", other.external_task_id)
                except KlingError as exc:
                    if _is_transient(exc):
                        raise _Unavailable(exc) from exc
                    return False
                return found is not None
        endpoint = endpoints.resolve(task.endpoint or "")
        is_listed = endpoint is not None and endpoint.is_listed  # only there a lookup is known to work
        if not is_listed or _is_official_host(self._settings.kling.base_url):
            return is_listed
        return await self._all_listed_are_known(task.endpoint or "")

    async def _all_listed_are_known(self, endpoint: str) -> bool:
        """Return whether every task that an endpoint lists is known here, so that none can be the lost task.

        An empty list counts only on this machine, where a simulator answers: a gateway may always return it.
        """
        try:
            listed = await self._kling.list_newest(endpoint)
        except KlingError as exc:
            if _is_transient(exc):
                raise _Unavailable(exc) from exc
            return False
        if listed is None:
            return False
        for report in listed:
            refs = [ref for ref in (report.kling_id, report.external_task_id) if ref]
            if not any([await self._history.task(ref) for ref in refs]):
                return False
        return bool(listed) or is_loopback(urlsplit(self._settings.kling.base_url).hostname or "")

    async def _conclude(self, task: Task, *, denied: bool, reason: str) -> None:
        """Record the result. Before enough time has passed, look again: a create in progress may not be visible."""
        waited = self._waited(task)
        left = 2 * self._settings.kling.timeout - waited
        if waited < timedelta():
            await self._recorder.schedule_lookup(task, task.message, wait=-waited)
        elif left > timedelta():
            wait = min(_backoff(task), left)
            await self._recorder.schedule_lookup(task, task.message, wait=wait, is_absent=denied)
        elif not denied:
            await self._recorder.record_unknown(task, f"{reason}{await self._name_candidates(task)}")
        elif task.origin is Origin.API:
            await self._recorder.requeue(task, _NOT_CREATED, until=self._clock.now())
            self._notifiers.tasks.notify()
        else:
            await self._recorder.reject(task, _ANSWER_LOST)

    async def _name_candidates(self, task: Task) -> str:
        """Name the tasks of Kling's that may be the lost one by the time in their ids, for the operator alone.

        The time narrows the search and proves nothing: no task is bound, sent again or rejected because of it.
        """
        try:
            listed = await self._kling.list_newest(task.endpoint or "") or ()
        except KlingError:
            return ""
        since = task.started_at or task.created_at
        until = min(self._clock.now(), since + 2 * self._settings.kling.timeout)
        found = [
            report.kling_id
            for report in listed
            if report.kling_id
            and may_be_made_between(report.kling_id, since, until)
            and await self._history.task(report.kling_id) is None
        ]
        if not found:
            return ""
        more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        named = ", ".join(found[:_MAX_NAMED])
        return f" Made since then by the time in their IDs, and not known here: {named}{more}."

    async def _retry_later(self, task: Task, error: KlingError) -> None:
        """Schedule another lookup, or record the task as unknown after `give_up_after`."""
        log.warning("task.lookup_failed", task=task.id, code=error.code, reason=error.message)
        age, give_up_after = self._clock.now() - (task.started_at or task.created_at), self._settings.poll.give_up_after
        if age >= give_up_after and self._waited(task) >= min(give_up_after, _MIN_WAIT):
            await self._recorder.record_unknown(task, f"Kling could not be queried since: {error.message}")
        else:
            await self._recorder.schedule_lookup(task, task.message, wait=_backoff(task))

    def _waited(self, task: Task) -> timedelta:
        """Return how long ago the create began, or this process first looked the task up if another one began it.

        It is negative while that other process may still begin it.
        The time is that of the monotonic clock. By the wall clock, a step forward would make Kling's "not found" count
        while the create is still in progress. Then the task would be paid twice, or its result be lost.
        """
        now = self._clock.monotonic()
        begun_at = self._recorder.begun_at.get(task.id)
        if begun_at is None:
            begun_at = self._seen_at.setdefault(task.id, max(now, self._tenure.overlaps_until))
        return timedelta(seconds=now - begun_at)

    def _spawn(self, task: Task, wake: asyncio.Event) -> None:
        def done() -> None:
            del self._in_flight[task.id]
            wake.set()

        self._in_flight[task.id] = self._lookups.spawn(self._look_up(task), on_done=done)


def _is_official_host(base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    return any(host == domain or host.endswith(f".{domain}") for domain in _OFFICIAL_DOMAINS)


def _is_transient(error: KlingError) -> bool:
    """Return whether Kling cannot be queried now and may answer later.

    An uncertain answer that was not caused by a missing response would be the same again.
    """
    if isinstance(error, KlingUncertain):
        return isinstance(error.__cause__, NoResponse)
    return error.retry is not RetryHint.NEVER


def _classify(error: KlingError) -> _Unavailable | _Inconclusive:
    return _Unavailable(error) if _is_transient(error) else _Inconclusive(error.message)


def _backoff(task: Task) -> timedelta:
    return backoff(task.polling.count, base=_BASE_DELAY, maximum=_MAX_DELAY)
