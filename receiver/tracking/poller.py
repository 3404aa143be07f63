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
from typing import Protocol

import structlog

from receiver.delivery.retry import Pace
from receiver.domain.circuit_breaker import Patience
from receiver.domain.clock import FAR, Clock
from receiver.domain.errors import (
    Forbidden,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    Retry,
    ServerTrouble,
    StoreUnavailable,
    UnknownResource,
)
from receiver.domain.model import Reading, Task, TaskState
from receiver.domain.notifier import Bell
from receiver.kling import protocol
from receiver.kling.client import TOGETHER, Answer, may_be_asked_together
from receiver.store.interfaces import Intake
from receiver.tasks.account import QUERY, Call
from receiver.tasks.poll_schedule import END_APART

log = structlog.get_logger()

PER_SECOND = 50
"""The most questions in a second."""

AT_ONCE = 8
"""The most questions under way at a time."""

LONGEST_PAUSE = timedelta(seconds=20)
"""The longest Kling is left alone after it could not answer: with a call's own time-out still within a minute."""

_ASKABLE = tuple(state for state in TaskState if state not in (TaskState.QUEUED, TaskState.SUBMITTING))
_RUNNING = (TaskState.SUBMITTED, TaskState.PROCESSING)
_MARGIN = timedelta(seconds=5)
_LOOK_AGAIN = timedelta(seconds=1)
_SECOND = timedelta(seconds=1)
_REMEMBERED = 10_000


class Questions(Protocol):
    """What is asked of Kling."""

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Ask about one task."""
        ...

    async def query_together(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, Answer]:
        """Ask about several; those that nothing was said of are left out. Raises where nothing was said of any."""
        ...


class Answers(Protocol):
    """Where answers go."""

    async def learn(self, task_id: str, reading: Reading, answer: bytes) -> None:
        """Take in what the API said."""
        ...

    async def question(self, task: Task) -> str | None:
        """Give the id to ask about the task by."""
        ...

    async def learn_nothing(self, task_id: str, *, denied: str | None = None) -> None:
        """Note that the API said nothing about the task, or that it knows none by the id *denied*."""
        ...

    async def put_off(self, task_id: str, until: datetime) -> None:
        """Leave the question for later; it does not count as asked."""
        ...


class Listener(Protocol):
    """Hears how calls to Kling end."""

    async def called(self, error: KlingError | None, call: Call) -> None:
        """Take in how a call ended, None for well."""
        ...


class Reconciler:
    """Claims tasks as they fall due and asks about each; a task is asked about by one at a time."""

    def __init__(
        self,
        intake: Intake,
        kling: Questions,
        answers: Answers,
        listener: Listener,
        *,
        timeout: timedelta,
        tasks_bell: Bell,
        clock: Clock,
        latest: datetime,
    ) -> None:
        """*latest* is the latest moment that former runs knew of."""
        self._latest = latest
        self._intake = intake
        self._kling = kling
        self._answers = answers
        self._listener = listener
        self._lease = 2 * timeout + _MARGIN  # a call may be signed anew and made once more
        self._bell = tasks_bell
        self._clock = clock
        self._pace = Pace(count=PER_SECOND, per=_SECOND)
        self._patience = Patience(longest=LONGEST_PAUSE, tolerates=1)
        self._in_vain: OrderedDict[str, int] = OrderedDict()
        self._unsociable: OrderedDict[str, int] = OrderedDict()
        self._sociable: set[str] = set()
        self._pushes_first = True
        self._seen_at: datetime | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Ask about tasks as they fall due, until *stop*; what is under way then is waited for."""
        bell = self._bell.listen()
        try:
            while not stop.is_set():
                bell.clear()
                try:
                    await self._catch_up()
                    until = await self._round(bell)
                except StoreUnavailable as exc:  # a full disk, say; what is due stays due
                    log.warning("queries.delayed", reason=exc.message)
                    until = self._clock.now() + _LOOK_AGAIN
                await self._clock.wait(bell, until=until)
        finally:
            self._bell.leave(bell)
        if self._asking:
            await asyncio.wait(set(self._asking.values()))

    async def _catch_up(self) -> None:
        """At start: have all running tasks asked about now, for nobody was there to be called back.

        Nor does what a former process was asking about wait for its lease's end. The same holds when the clock was set
        back: what was planned by it lies too far ahead.
        """
        now = self._clock.now()
        was_set_back = now < (self._seen_at or self._latest) - _MARGIN
        if self._seen_at is None or was_set_back:
            before = FAR if was_set_back else now + self._lease
            await self._intake.hasten_tasks(_ASKABLE, now=now, before=before, apart=END_APART)
            await self._intake.hasten_tasks(_RUNNING, now=now, before=FAR, apart=END_APART)
        self._seen_at = now

    async def _round(self, bell: asyncio.Event) -> datetime | None:
        """Ask about what is due; tell when to look again, None when a bell will say."""
        now = self._clock.now()
        if not self._patience.admits(now):
            return self._patience.opens_at
        free = (AT_ONCE if self._patience.opens_at is None else 1) - len(set(self._asking.values()))
        if free <= 0:
            return None
        allowed = self._pace.allowance(now)
        if allowed <= 0:
            return self._pace.next_at(now)
        due = await self._intake.next_task_due(_ASKABLE)
        if due is None or due > now:
            return due
        for tasks in await self._claim(now, limit=min(free, allowed)):
            self._start(tasks, bell, now)
        return now

    async def _claim(self, now: datetime, *, limit: int) -> Sequence[Sequence[Task]]:
        """Claim what is due, sorted into *limit* questions at the most; a probe is about one task alone."""
        until, pushes_first = now + self._lease, self._pushes_first
        self._pushes_first = not pushes_first
        claimed = await self._intake.claim_tasks(_ASKABLE, now=now, until=until, limit=limit, pushes_first=pushes_first)
        alone, together = self._sorted(claimed)
        if together and self._patience.opens_at is None:
            self._sociable.update(task.endpoint or "" for task in together)
            room, endpoints = TOGETHER - len(together), sorted(self._sociable)
            more = await self._intake.claim_tasks(_ASKABLE, now=now, until=until, limit=room, endpoints=endpoints)
            others, company = self._sorted(more)
            together += company
            for task in others:
                await self._answers.put_off(task.id, now)
        return [[task] for task in alone] + ([together] if together else [])

    def _sorted(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Tell those to be asked about one by one from those that share a question, leaving out who is asked about."""
        alone: list[Task] = []
        together: list[Task] = []
        for task in tasks:
            if task.id not in self._asking:  # else the answer under way plans the next question
                (together if self._is_sociable(task) else alone).append(task)
        return alone, together

    def _is_sociable(self, task: Task) -> bool:
        if task.id in self._in_vain or task.id in self._unsociable:
            return False
        return bool(task.endpoint and task.kling_id) and may_be_asked_together(task.endpoint or "", task.kling_id or "")

    def _start(self, tasks: Sequence[Task], bell: asyncio.Event, now: datetime) -> None:
        self._pace.take(1, now)
        self._patience.call(now, lasts=self._lease)
        asking = asyncio.create_task(self._ask(tasks[0]) if len(tasks) == 1 else self._ask_together(tasks))
        self._asking.update(dict.fromkeys((task.id for task in tasks), asking))

        def done(ended: "asyncio.Task[None]") -> None:
            for task in tasks:
                if self._asking.get(task.id) is ended:
                    del self._asking[task.id]
            bell.set()
            if not ended.cancelled() and ended.exception() is not None:
                log.error("query.failed", task=tasks[0].id, exc_info=ended.exception())

        asking.add_done_callback(done)

    async def _ask(self, task: Task) -> None:
        asked_for = await self._answers.question(task)
        if task.endpoint is None or asked_for is None:
            self._patience.forgo(self._clock.now())
            await self._answers.learn_nothing(task.id)
            return
        begun = self._clock.now()
        answer: Answer | KlingError
        try:
            answer = await self._kling.query(task.endpoint, asked_for)
        except KlingError as exc:
            answer = exc
        error = answer if isinstance(answer, KlingError) else answer.error
        await self._listener.called(error, QUERY)
        is_no_word = isinstance(answer, Answer) and _is_no_word_of_klings(answer)
        if error is not None and (error.retry is not Retry.NO or is_no_word):
            await self._put_off([task], error, begun)
            return
        self._patience.succeed()
        self._in_vain.pop(task.id, None)
        if isinstance(answer, Answer) and error is None and answer.reading is not None:
            await self._answers.learn(task.id, answer.reading, answer.body)
            return
        log.warning("query.refused", task=task.id, reason="" if error is None else str(error))
        await self._answers.learn_nothing(task.id, denied=asked_for if _is_unknown(error) else None)

    async def _ask_together(self, tasks: Sequence[Task]) -> None:
        begun = self._clock.now()
        told: Mapping[str, Answer] = {}
        error: KlingError | None = None
        try:
            told = await self._kling.query_together(tasks[0].endpoint or "", [task.kling_id or "" for task in tasks])
        except KlingError as exc:
            error = exc
        await self._listener.called(error, QUERY)
        if error is not None and error.retry is not Retry.NO:
            await self._put_off(tasks, error, begun)
            return
        self._patience.succeed()
        if len(told) < len(tasks):
            log.warning("query.incomplete", told=len(told), of=len(tasks), reason="" if error is None else str(error))
        taking = (self._take(task, told.get(task.kling_id or "")) for task in tasks)
        for task, ended in zip(tasks, await asyncio.gather(*taking, return_exceptions=True), strict=True):
            if isinstance(ended, BaseException):
                log.error("query.failed", task=task.id, exc_info=ended)

    async def _take(self, task: Task, answer: Answer | None) -> None:
        """Take in what an answer about several says of one; whom it leaves out is asked about alone, from now on."""
        if answer is None or answer.reading is None:
            _remember(self._unsociable, task.id)
            del self._asking[task.id]
            await self._answers.put_off(task.id, self._clock.now())
        else:
            await self._answers.learn(task.id, answer.reading, answer.body)

    async def _put_off(self, tasks: Sequence[Task], error: KlingError, begun: datetime) -> None:
        """Leave tasks for later that Kling could not answer about; others may be answered about all the same."""
        now = self._clock.now()
        log.warning("query.failed", task=tasks[0].id, of=len(tasks), code=error.code, reason=error.message)
        asked = error.retry_after if isinstance(error, KlingRefusal) else None
        self._patience.fail(error.message, begun=begun, now=now, asked=asked)
        for task in tasks:
            times = self._in_vain.get(task.id, 0)
            if isinstance(error, ServerTrouble | KlingUncertain) or error.retry is Retry.NO:
                # it may be the task that Kling, or what stands before it, chokes on
                _remember(self._in_vain, task.id)
            await self._answers.put_off(task.id, now + min(_SECOND * 2 ** min(times, 10), LONGEST_PAUSE))


def _remember(times: OrderedDict[str, int], task_id: str) -> None:
    """Count one more time for a task, and forget whom nothing was counted for the longest."""
    times[task_id] = times.pop(task_id, 0) + 1
    if len(times) > _REMEMBERED:
        times.popitem(last=False)


def _is_no_word_of_klings(answer: Answer) -> bool:
    """Tell whether an error says nothing of the task: a page, or a 403, that some proxy or firewall put in between.

    A gateway may say in JSON, without a code, that it knows no such task, or cannot be asked about any.
    """
    error = answer.error
    if not isinstance(error, KlingRefusal) or error.kling_code not in (None, answer.status):
        return False
    return isinstance(error, Forbidden) or not protocol.is_object(answer.body)


def _is_unknown(error: KlingError | None) -> bool:
    """Tell whether Kling itself denies the task: a bare 404 may be a gateway that cannot be asked about tasks."""
    return isinstance(error, UnknownResource) and error.kling_code is not None
