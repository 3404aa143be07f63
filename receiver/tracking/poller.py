"""Polls Kling for tasks that are due and for pushes that must be confirmed. Polling is the guarantee behind callbacks.

Many tasks may become due at once, after a start or an outage. The poller then limits the rate of polls and the polls
in flight, and each task has at most one. While Kling cannot answer, the circuit breaker permits one probe at a time,
each for another task. The interval of a task does not grow then, so polling catches up as soon as Kling is back.

Tasks with pending pushes do not wait behind thousands of due tasks: every second claim takes them first. Only every
second, so that a flood of pushes does not delay the other tasks.

Due tasks of the new API are polled in one batch. No task waits for a batch to fill, and a task that the answer omits
is polled alone from then on. The older endpoints have no batch query, only paged lists without a promised order. New
tasks shift the pages, so a task missing from a page proves nothing, and each of these tasks is polled alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog

from receiver.domain.backoff import backoff
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.clock import FAR_FUTURE, Clock
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.errors import (
    Forbidden,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    RetryHint,
    ServerError,
    UnknownResource,
)
from receiver.domain.model import StatusReport, Task, TaskState
from receiver.domain.notifier import Notifiers
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.worker import TaskSet, run_worker
from receiver.kling import parser_thread, protocol
from receiver.kling.client import MAX_BATCH, KlingResponse, is_batchable
from receiver.store.interfaces import TaskStore
from receiver.tasks.account import QUERY, KlingCall
from receiver.tasks.poll_schedule import MIN_END_POLL_GAP

log = structlog.get_logger()

MAX_POLLS_PER_SECOND = 50
"""The most polls in a second."""

MAX_CONCURRENT = 8
"""The most polls in flight at a time."""

MAX_BACKOFF = timedelta(seconds=20)
"""The longest delay after Kling could not answer; with the timeout of a call it stays within one minute."""

_POLLABLE = tuple(state for state in TaskState if state not in (TaskState.QUEUED, TaskState.SUBMITTING))
_RUNNING = (TaskState.SUBMITTED, TaskState.PROCESSING)
_MARGIN = timedelta(seconds=5)
_SECOND = timedelta(seconds=1)
_MAX_TRACKED_TASKS = 10_000


class PollApi(Protocol):
    """The part of Kling's API that queries tasks."""

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Query one task."""
        ...

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        """Query several tasks. The answer omits tasks that Kling omitted; raises if it omitted all of them."""
        ...


class AnswerSink(Protocol):
    """Applies the answers of polls."""

    async def apply_answer(self, task_id: str, report: StatusReport, answer: bytes) -> None:
        """Apply an answer of the API about a task."""
        ...

    async def next_poll_id(self, task: Task) -> str | None:
        """Return the id to poll the task by."""
        ...

    async def record_no_answer(self, task_id: str, *, denied: str | None = None) -> None:
        """Record a poll without an answer about the task; *denied* is an id that Kling does not know."""
        ...

    async def postpone_poll(self, task_id: str, until: datetime) -> None:
        """Postpone the poll; it does not count as a poll."""
        ...


class PollPlans(Protocol):
    """Knows when tasks may end."""

    def postponed_until(self, task: Task, *, now: datetime) -> datetime | None:
        """Return a better time for a poll that is due, or None."""
        ...


class CallObserver(Protocol):
    """Observes how calls to Kling end."""

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Record how a call ended, None if it succeeded."""
        ...


class Poller:
    """Claims due tasks and polls Kling about them; each task has at most one poll in flight."""

    def __init__(
        self,
        task_store: TaskStore,
        kling: PollApi,
        answers: AnswerSink,
        observer: CallObserver,
        plans: PollPlans,
        *,
        timeout: timedelta,
        notifiers: Notifiers,
        clock: Clock,
        latest: Callable[[], datetime],
    ) -> None:
        """*latest* returns the latest time that other processes recorded."""
        self._latest = latest
        self._clock_watch = ClockWatch(latest=latest())
        self._task_store = task_store
        self._kling = kling
        self._answers = answers
        self._observer = observer
        self._plans = plans
        self._lease = 2 * timeout + _MARGIN  # a call may be signed again and repeated once
        self._notifiers = notifiers
        self._clock = clock
        self._rate_limiter = RateLimiter(count=MAX_POLLS_PER_SECOND, per=_SECOND)
        self._breaker = CircuitBreaker(max_delay=MAX_BACKOFF, failure_threshold=1)
        self._failures: BoundedDict[str, int] = BoundedDict(_MAX_TRACKED_TASKS)
        self._unbatchable: BoundedDict[str, None] = BoundedDict(_MAX_TRACKED_TASKS)
        self._batch_endpoints: set[str] = set()
        self._pushes_first = True
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._polls = TaskSet("poll.failed")

    async def run(self, stop: asyncio.Event) -> None:
        """Poll due tasks until *stop*, then wait for the polls in flight."""
        self._clock_watch = ClockWatch(latest=self._latest())
        self._breaker = CircuitBreaker(max_delay=MAX_BACKOFF, failure_threshold=1)
        self._failures.clear()
        wake = self._notifiers.polls.subscribe()
        try:
            await run_worker(partial(self._poll_due, wake), wake=wake, stop=stop, clock=self._clock, name="polls")
        finally:
            self._notifiers.polls.unsubscribe(wake)
            await self._polls.drain()

    async def _catch_up(self) -> None:
        """Make tasks due at the start and after the clock was set back.

        At the start all running tasks are due, because their callbacks may have been missed, and so are the tasks that
        an earlier process had claimed. Times planned before the clock was set back lie too far ahead.
        """
        now = self._clock.now()
        if self._clock_watch.needs_catch_up(now):
            before = FAR_FUTURE if self._clock_watch.was_set_back(now) else now + self._lease
            await self._task_store.make_due(_POLLABLE, now=now, before=before, min_gap=MIN_END_POLL_GAP)
            await self._task_store.make_due(_RUNNING, now=now, before=FAR_FUTURE, min_gap=MIN_END_POLL_GAP)
        self._clock_watch.record(now)

    async def _poll_due(self, wake: asyncio.Event) -> datetime | None:
        """Start the polls that are due. Return when to continue, or None to wait for a notification."""
        await self._catch_up()
        now = self._clock.now()
        if not self._breaker.allows(now):
            return self._breaker.next_probe_at
        free = (MAX_CONCURRENT if self._breaker.next_probe_at is None else 1) - len(set(self._in_flight.values()))
        if free <= 0:
            return None
        allowed = self._rate_limiter.available(now)
        if allowed <= 0:
            return self._rate_limiter.next_at(now)
        due = await self._task_store.next_task_due(_POLLABLE)
        if due is None or due > now:
            return due
        for tasks in await self._claim(now, limit=min(free, allowed)):
            self._start(tasks, wake, now)
        return now

    async def _claim(self, now: datetime, *, limit: int) -> Sequence[Sequence[Task]]:
        """Claim due tasks, grouped into at most *limit* polls. A probe is for one task."""
        until, pushes_first = now + self._lease, self._pushes_first
        self._pushes_first = not pushes_first
        claimed = await self._task_store.claim_tasks(
            _POLLABLE, now=now, until=until, limit=limit, pushes_first=pushes_first
        )
        alone, together = self._partition(await self._wanted(claimed, now))
        if together and self._breaker.next_probe_at is None:
            self._batch_endpoints.update(task.endpoint or "" for task in together)
            capacity, endpoints = MAX_BATCH - len(together), sorted(self._batch_endpoints)
            more = await self._task_store.claim_tasks(
                _POLLABLE, now=now, until=until, limit=capacity, endpoints=endpoints
            )
            others, batchable = self._partition(more)
            together += batchable
            for task in others:
                await self._answers.postpone_poll(task.id, now)
        return [[task] for task in alone] + ([together] if together else [])

    async def _wanted(self, tasks: Sequence[Task], now: datetime) -> Sequence[Task]:
        """Return the tasks to poll. Postpone those that, as other polls have shown since, cannot end yet."""
        wanted = []
        for task in tasks:
            later = None if task.id in self._in_flight else self._plans.postponed_until(task, now=now)
            if later is None:
                wanted.append(task)
            else:
                await self._answers.postpone_poll(task.id, later)
        return wanted

    def _partition(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Split *tasks* into those polled alone and those polled in a batch, without those already in flight."""
        alone: list[Task] = []
        together: list[Task] = []
        for task in tasks:
            if task.id not in self._in_flight:  # else the answer in flight schedules the next poll
                (together if self._is_batchable(task) else alone).append(task)
        return alone, together

    def _is_batchable(self, task: Task) -> bool:
        if task.id in self._failures or task.id in self._unbatchable:
            return False
        return bool(task.endpoint and task.kling_id) and is_batchable(task.endpoint or "", task.kling_id or "")

    def _start(self, tasks: Sequence[Task], wake: asyncio.Event, now: datetime) -> None:
        self._rate_limiter.acquire(1, now)
        self._breaker.start(now, max_duration=self._lease)
        poll = self._poll_one(tasks[0]) if len(tasks) == 1 else self._poll_batch(tasks)

        def done() -> None:
            for task in tasks:
                if self._in_flight.get(task.id) is spawned:
                    del self._in_flight[task.id]
            wake.set()

        spawned = self._polls.spawn(poll, on_done=done, task=tasks[0].id)
        self._in_flight.update(dict.fromkeys((task.id for task in tasks), spawned))

    async def _poll_one(self, task: Task) -> None:
        kling_id = await self._answers.next_poll_id(task)
        if task.endpoint is None or kling_id is None:
            self._breaker.cancel(self._clock.now())
            await self._answers.record_no_answer(task.id)
            return
        started_at = self._clock.now()
        answer: KlingResponse | KlingError
        try:
            answer = await self._kling.query(task.endpoint, kling_id)
        except KlingError as exc:
            answer = exc
        error = answer if isinstance(answer, KlingError) else answer.error
        await self._observer.on_call(error, QUERY)
        is_from_proxy = isinstance(answer, KlingResponse) and await parser_thread.run(
            len(answer.body), _is_proxy_error, answer
        )
        if error is not None and (error.retry is not RetryHint.NEVER or is_from_proxy):
            await self._postpone([task], error, started_at)
            return
        self._breaker.record_success()
        self._failures.pop(task.id, None)
        if isinstance(answer, KlingResponse) and error is None and answer.report is not None:
            await self._answers.apply_answer(task.id, answer.report, answer.body)
            return
        log.warning("poll.refused", task=task.id, reason="" if error is None else str(error))
        await self._answers.record_no_answer(task.id, denied=kling_id if _is_task_not_found(error) else None)

    async def _poll_batch(self, tasks: Sequence[Task]) -> None:
        started_at = self._clock.now()
        answers: Mapping[str, KlingResponse] = {}
        error: KlingError | None = None
        try:
            answers = await self._kling.query_batch(tasks[0].endpoint or "", [task.kling_id or "" for task in tasks])
        except KlingError as exc:
            error = exc
        await self._observer.on_call(error, QUERY)
        if error is not None and error.retry is not RetryHint.NEVER:
            await self._postpone(tasks, error, started_at)
            return
        self._breaker.record_success()
        if len(answers) < len(tasks):
            reason = "" if error is None else str(error)
            log.warning("poll.incomplete", answered=len(answers), of=len(tasks), reason=reason)
        applying = (self._apply_one(task, answers.get(task.kling_id or "")) for task in tasks)
        for task, result in zip(tasks, await asyncio.gather(*applying, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                log.error("poll.failed", task=task.id, exc_info=result)

    async def _apply_one(self, task: Task, answer: KlingResponse | None) -> None:
        """Apply the part of a batch answer about one task. An omitted task is polled alone from now on."""
        if answer is None or answer.report is None:
            self._unbatchable[task.id] = None
            del self._in_flight[task.id]
            await self._answers.postpone_poll(task.id, self._clock.now())
        else:
            await self._answers.apply_answer(task.id, answer.report, answer.body)

    async def _postpone(self, tasks: Sequence[Task], error: KlingError, started_at: datetime) -> None:
        """Postpone tasks that Kling could not answer about; other tasks may still be polled."""
        now = self._clock.now()
        log.warning("poll.failed", task=tasks[0].id, of=len(tasks), code=error.code, reason=error.message)
        retry_after = error.retry_after if isinstance(error, KlingRefusal) else None
        self._breaker.record_failure(error.message, started_at=started_at, now=now, retry_after=retry_after)
        for task in tasks:
            failures = self._failures.get(task.id, 0)
            if isinstance(error, ServerError | KlingUncertain) or error.retry is RetryHint.NEVER:
                # this task may be the one that Kling or a proxy fails on
                self._failures[task.id] = self._failures.pop(task.id, 0) + 1
            await self._answers.postpone_poll(task.id, now + backoff(failures, base=_SECOND, maximum=MAX_BACKOFF))


def _is_proxy_error(answer: KlingResponse) -> bool:
    """Return whether an error is not about the task: an HTML page or a 403 from a proxy or firewall.

    A gateway may answer in JSON, without a code, that the task does not exist or that it does not support queries.
    """
    error = answer.error
    if not isinstance(error, KlingRefusal) or error.kling_code not in (None, answer.status):
        return False
    return isinstance(error, Forbidden) or not protocol.is_object(answer.body)


def _is_task_not_found(error: KlingError | None) -> bool:
    """Return whether Kling itself does not know the task: a bare 404 may be a gateway without queries."""
    return isinstance(error, UnknownResource) and error.kling_code is not None
