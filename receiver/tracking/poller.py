"""Asks Kling's API about tasks that have gone quiet, or whose news wants confirming. The guarantee behind callbacks.

However many tasks fall due at once, after a start or an outage, Kling is asked no more than so often, so much at a
time, and about each task by one at a time. While it cannot answer there is one question now and then, of another task
each time, and no task's own interval grows, so that all are caught up with as soon as it is back.

What a push waits for does not wait behind thousands of others that are due: every other claim takes such tasks first,
and only every other one, so that no flood of pushes keeps the rest waiting.

Tasks of the new generation that are due at the same moment share a question. Nobody waits for company, and whoever a
shared question does not serve is asked about alone. The older endpoints have no such question, only lists by pages,
in no order that Kling promises and moving on with every task that anybody makes: what is missing from a page would
prove nothing, so that each is asked about by itself.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog

from receiver.domain.backoff import backoff
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
from receiver.domain.notifier import Notifier
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.worker import TaskSet, run_worker
from receiver.kling import protocol
from receiver.kling.client import MAX_BATCH, KlingResponse, is_batchable
from receiver.store.interfaces import TaskStore
from receiver.tasks.account import QUERY, KlingCall
from receiver.tasks.poll_schedule import MIN_END_POLL_GAP

log = structlog.get_logger()

MAX_POLLS_PER_SECOND = 50
"""The most questions in a second."""

MAX_CONCURRENT = 8
"""The most questions under way at a time."""

MAX_BACKOFF = timedelta(seconds=20)
"""The longest Kling is left alone after it could not answer: with a call's own time-out still within a minute."""

_POLLABLE = tuple(state for state in TaskState if state not in (TaskState.QUEUED, TaskState.SUBMITTING))
_RUNNING = (TaskState.SUBMITTED, TaskState.PROCESSING)
_MARGIN = timedelta(seconds=5)
_SECOND = timedelta(seconds=1)
_MAX_TRACKED_TASKS = 10_000


class PollApi(Protocol):
    """What is asked of Kling."""

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Ask about one task."""
        ...

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        """Ask about several; those that nothing was said of are left out. Raises where nothing was said of any."""
        ...


class AnswerSink(Protocol):
    """Where answers go."""

    async def apply_answer(self, task_id: str, report: StatusReport, answer: bytes) -> None:
        """Take in what the API said."""
        ...

    async def next_poll_id(self, task: Task) -> str | None:
        """Give the id to ask about the task by."""
        ...

    async def record_no_answer(self, task_id: str, *, denied: str | None = None) -> None:
        """Note that the API said nothing about the task, or that it knows none by the id *denied*."""
        ...

    async def postpone_poll(self, task_id: str, until: datetime) -> None:
        """Leave the question for later; it does not count as asked."""
        ...


class CallObserver(Protocol):
    """Hears how calls to Kling end."""

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Take in how a call ended, None for well."""
        ...


class Poller:
    """Claims tasks as they fall due and asks about each; a task is asked about by one at a time."""

    def __init__(
        self,
        task_store: TaskStore,
        kling: PollApi,
        answers: AnswerSink,
        observer: CallObserver,
        *,
        timeout: timedelta,
        tasks_notifier: Notifier,
        clock: Clock,
        latest: datetime,
    ) -> None:
        """*latest* is the latest moment that former runs knew of."""
        self._clock_watch = ClockWatch(latest=latest)
        self._task_store = task_store
        self._kling = kling
        self._answers = answers
        self._observer = observer
        self._lease = 2 * timeout + _MARGIN  # a call may be signed anew and made once more
        self._notifier = tasks_notifier
        self._clock = clock
        self._rate_limiter = RateLimiter(count=MAX_POLLS_PER_SECOND, per=_SECOND)
        self._breaker = CircuitBreaker(max_delay=MAX_BACKOFF, failure_threshold=1)
        self._failures: OrderedDict[str, int] = OrderedDict()
        self._unbatchable: OrderedDict[str, int] = OrderedDict()
        self._batch_endpoints: set[str] = set()
        self._pushes_first = True
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._polls = TaskSet("poll")

    async def run(self, stop: asyncio.Event) -> None:
        """Ask about tasks as they fall due, until *stop*; what is under way then is waited for."""
        wake = self._notifier.subscribe()
        try:
            await run_worker(partial(self._poll_due, wake), wake=wake, stop=stop, clock=self._clock, name="polls")
        finally:
            self._notifier.unsubscribe(wake)
        await self._polls.drain()

    async def _catch_up(self) -> None:
        """At start: have all running tasks asked about now, for nobody was there to be called back.

        Nor does what a former process was asking about wait for its lease's end. The same holds when the clock was set
        back: what was planned by it lies too far ahead.
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
        """Claim what is due, sorted into *limit* questions at the most; a probe is about one task alone."""
        until, pushes_first = now + self._lease, self._pushes_first
        self._pushes_first = not pushes_first
        claimed = await self._task_store.claim_tasks(
            _POLLABLE, now=now, until=until, limit=limit, pushes_first=pushes_first
        )
        alone, together = self._partition(claimed)
        if together and self._breaker.next_probe_at is None:
            self._batch_endpoints.update(task.endpoint or "" for task in together)
            room, endpoints = MAX_BATCH - len(together), sorted(self._batch_endpoints)
            more = await self._task_store.claim_tasks(_POLLABLE, now=now, until=until, limit=room, endpoints=endpoints)
            others, company = self._partition(more)
            together += company
            for task in others:
                await self._answers.postpone_poll(task.id, now)
        return [[task] for task in alone] + ([together] if together else [])

    def _partition(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Tell those to be asked about one by one from those that share a question, leaving out who is asked about."""
        alone: list[Task] = []
        together: list[Task] = []
        for task in tasks:
            if task.id not in self._in_flight:  # else the answer under way plans the next question
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
        asked_for = await self._answers.next_poll_id(task)
        if task.endpoint is None or asked_for is None:
            self._breaker.cancel(self._clock.now())
            await self._answers.record_no_answer(task.id)
            return
        begun = self._clock.now()
        answer: KlingResponse | KlingError
        try:
            answer = await self._kling.query(task.endpoint, asked_for)
        except KlingError as exc:
            answer = exc
        error = answer if isinstance(answer, KlingError) else answer.error
        await self._observer.on_call(error, QUERY)
        is_no_word = isinstance(answer, KlingResponse) and _is_proxy_error(answer)
        if error is not None and (error.retry is not RetryHint.NEVER or is_no_word):
            await self._postpone([task], error, begun)
            return
        self._breaker.record_success()
        self._failures.pop(task.id, None)
        if isinstance(answer, KlingResponse) and error is None and answer.report is not None:
            await self._answers.apply_answer(task.id, answer.report, answer.body)
            return
        log.warning("poll.refused", task=task.id, reason="" if error is None else str(error))
        await self._answers.record_no_answer(task.id, denied=asked_for if _is_task_not_found(error) else None)

    async def _poll_batch(self, tasks: Sequence[Task]) -> None:
        begun = self._clock.now()
        told: Mapping[str, KlingResponse] = {}
        error: KlingError | None = None
        try:
            told = await self._kling.query_batch(tasks[0].endpoint or "", [task.kling_id or "" for task in tasks])
        except KlingError as exc:
            error = exc
        await self._observer.on_call(error, QUERY)
        if error is not None and error.retry is not RetryHint.NEVER:
            await self._postpone(tasks, error, begun)
            return
        self._breaker.record_success()
        if len(told) < len(tasks):
            log.warning("poll.incomplete", told=len(told), of=len(tasks), reason="" if error is None else str(error))
        taking = (self._apply_one(task, told.get(task.kling_id or "")) for task in tasks)
        for task, ended in zip(tasks, await asyncio.gather(*taking, return_exceptions=True), strict=True):
            if isinstance(ended, BaseException):
                log.error("poll.failed", task=task.id, exc_info=ended)

    async def _apply_one(self, task: Task, answer: KlingResponse | None) -> None:
        """Take in what an answer about several says of one; whom it leaves out is asked about alone, from now on."""
        if answer is None or answer.report is None:
            _increment(self._unbatchable, task.id)
            del self._in_flight[task.id]
            await self._answers.postpone_poll(task.id, self._clock.now())
        else:
            await self._answers.apply_answer(task.id, answer.report, answer.body)

    async def _postpone(self, tasks: Sequence[Task], error: KlingError, started_at: datetime) -> None:
        """Leave tasks for later that Kling could not answer about; others may be answered about all the same."""
        now = self._clock.now()
        log.warning("poll.failed", task=tasks[0].id, of=len(tasks), code=error.code, reason=error.message)
        asked = error.retry_after if isinstance(error, KlingRefusal) else None
        self._breaker.record_failure(error.message, started_at=started_at, now=now, retry_after=asked)
        for task in tasks:
            times = self._failures.get(task.id, 0)
            if isinstance(error, ServerError | KlingUncertain) or error.retry is RetryHint.NEVER:
                # it may be the task that Kling, or what stands before it, chokes on
                _increment(self._failures, task.id)
            await self._answers.postpone_poll(task.id, now + backoff(times, base=_SECOND, maximum=MAX_BACKOFF))


def _increment(counts: OrderedDict[str, int], task_id: str) -> None:
    """Count one more time for a task, and forget whom nothing was counted for the longest."""
    counts[task_id] = counts.pop(task_id, 0) + 1
    if len(counts) > _MAX_TRACKED_TASKS:
        counts.popitem(last=False)


def _is_proxy_error(answer: KlingResponse) -> bool:
    """Tell whether an error says nothing of the task: a page, or a 403, that some proxy or firewall put in between.

    A gateway may say in JSON, without a code, that it knows no such task, or cannot be asked about any.
    """
    error = answer.error
    if not isinstance(error, KlingRefusal) or error.kling_code not in (None, answer.status):
        return False
    return isinstance(error, Forbidden) or not protocol.is_object(answer.body)


def _is_task_not_found(error: KlingError | None) -> bool:
    """Tell whether Kling itself denies the task: a bare 404 may be a gateway that cannot be asked about tasks."""
    return isinstance(error, UnknownResource) and error.kling_code is not None
