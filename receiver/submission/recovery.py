"""Finds out about tasks whose create has no clear answer: a crash, a time-out, a 5000. Kling may have made them, and
billed them, so each is looked up by its external id, and sent again only when Kling, having had its time, denies it.

Not every denial counts. Gateways that drop the external id know no task by it, whatever was made, and at an endpoint
that the catalogue does not list nobody knows whether tasks can be looked up. There a denial is believed only after
another task of ours at the same endpoint was found by such an id, or where every task that is listed there is known to
us; else the task ends as unknown, aloud. Kling's own hosts are believed without that: whatever stands between has
another. The list of a host on this machine may be empty for that, any other's may not.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from receiver.domain.circuit_breaker import Patience
from receiver.domain.clock import FAR, Clock
from receiver.domain.errors import KlingError, KlingUncertain, NoAnswer, Retry, StoreUnavailable, UnknownResource
from receiver.domain.model import Origin, Reading, Task, TaskState
from receiver.domain.notifier import Bells
from receiver.kling import endpoints
from receiver.kling.client import Answer
from receiver.settings import Settings
from receiver.settings.addresses import is_loopback
from receiver.store.interfaces import Intake, Page
from receiver.submission.recorder import Outcomes

log = structlog.get_logger()

_SUBMITTING = (TaskState.SUBMITTING,)
_BOUND = (TaskState.SUBMITTED, TaskState.PROCESSING, TaskState.SUCCEED, TaskState.FAILED)
_AT_ONCE = 4
_BATCH = 64
_MARGIN = timedelta(seconds=5)
_LOOK_AGAIN = timedelta(seconds=1)
_FIRST_WAIT = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(minutes=1)
_WITNESS_AGE = timedelta(days=1)
_KLINGS_OWN = ("klingai.com", "kling.ai")  # its domains: no host in them is a gateway's
_NOT_MADE = "Kling never got it"
_LOST = "The answer to the create was lost, and Kling knows no such task: nothing was made. Send it again."


class Questions(Protocol):
    """What is asked of Kling."""

    async def find(self, endpoint: str, external_task_id: str) -> Answer | None:
        """Look a task up by the id we gave it."""
        ...

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Ask about one task."""
        ...

    async def newest(self, endpoint: str) -> Sequence[Reading] | None:
        """List the newest tasks of an endpoint; None where not all that may be new can be seen."""
        ...


class History(Protocol):
    """Tasks of ours."""

    async def task(self, ref: str) -> Task | None:
        """Find a task by our id, Kling's or the external one."""
        ...

    async def tasks(
        self, *, states: Sequence[TaskState] = (), endpoint: str | None = None, limit: int = 50
    ) -> Page[Task]:
        """List tasks, newest first."""
        ...


class _CannotAsk(Exception):
    """Kling cannot be asked just now."""

    def __init__(self, error: KlingError) -> None:
        super().__init__(error.message)
        self.error = error


class _CannotTell(Exception):
    """Kling was asked, and its answer leaves it open."""


class Recovery:
    """Looks up what was being sent when an answer got lost, or a process."""

    def __init__(
        self,
        intake: Intake,
        kling: Questions,
        outcomes: Outcomes,
        history: History,
        *,
        settings: Settings,
        bells: Bells,
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._kling = kling
        self._outcomes = outcomes
        self._history = history
        self._settings = settings
        self._bells = bells
        self._clock = clock
        self._lease = 4 * settings.kling.timeout + _MARGIN  # a look-up may take four calls
        self._patience = Patience(longest=_LONGEST_WAIT)
        self._seen_at: datetime | None = None
        self._noticed_at = clock.now()  # that this process runs, or that the clock was set back
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look tasks up as they fall due, until *stop*; first those that a former process was sending."""
        bell = self._bells.tasks.listen()
        try:
            while not stop.is_set():
                bell.clear()
                try:
                    await self._catch_up()
                    until = await self._round(bell)
                except StoreUnavailable as exc:  # a full disk, say; what is due stays due
                    log.warning("lookups.delayed", reason=exc.message)
                    until = self._clock.now() + _LOOK_AGAIN
                await self._clock.wait(bell, until=until)
        finally:
            self._bells.tasks.leave(bell)
        if self._looking:
            await asyncio.wait(self._looking.values())

    async def adopt(self, task: Task) -> bool:
        """Bind a task that Kling says it has already; False when it has not, after all.

        Where Kling cannot be asked just now the task is looked up later.
        """
        try:
            return await self._found(task)
        except _CannotAsk as exc:
            await self._outcomes.open(task, str(exc), wait=_MARGIN)
            return True
        except _CannotTell:
            return False

    async def _catch_up(self) -> None:
        """Let nothing wait for a process that is gone, nor for a moment planned by a clock that was set back since."""
        now = self._clock.now()
        if self._seen_at is None:
            self._noticed_at = now
            await self._hasten(now)
        elif now < self._seen_at - _MARGIN:
            self._noticed_at = now
            await self._intake.hasten_tasks(_SUBMITTING, now=now, before=FAR, apart=timedelta())
        self._seen_at = now

    async def _hasten(self, started: datetime) -> None:
        """At start: have what a former process was sending looked up now, not when its lease is over.

        What was begun ahead of the clock was begun before that was set back.
        """
        horizon = started + 2 * self._lease
        await self._intake.hasten_tasks(_SUBMITTING, now=horizon, before=FAR, apart=timedelta())
        left: list[Task] = []
        while tasks := await self._intake.claim_tasks(_SUBMITTING, now=horizon, until=horizon + _MARGIN, limit=_BATCH):
            left += tasks
        for task in left:
            if task.started_at is None or task.started_at <= started or task.started_at > self._clock.now():
                await self._outcomes.open(task, task.message, wait=timedelta())

    async def _round(self, bell: asyncio.Event) -> datetime | None:
        now = self._clock.now()
        if not self._patience.admits(now):
            return self._patience.opens_at
        free = (_AT_ONCE if self._patience.opens_at is None else 1) - len(self._looking)
        if free <= 0:
            return None
        due = await self._intake.next_task_due(_SUBMITTING)
        if due is None or due > now:
            return due
        tasks = await self._intake.claim_tasks(_SUBMITTING, now=now, until=now + self._lease, limit=free)
        for task in tasks:
            # Of what is under way the lease is over only because the clock was set.
            if task.id not in self._outcomes.awaited and task.id not in self._looking:
                self._patience.call(now, lasts=self._lease)
                self._own(task, bell)
        return now

    async def _look_up(self, task: Task) -> None:
        """Find out what became of one submit, and write it down."""
        begun = self._clock.now()
        try:
            if await self._found(task):
                self._patience.succeed()
                return
            denied = await self._is_believed(task)
        except _CannotAsk as exc:
            self._patience.fail(str(exc), begun=begun, now=self._clock.now())
            await self._later(task, exc.error)
            return
        except _CannotTell as exc:
            self._patience.succeed()
            await self._settle(task, denied=False, why=str(exc))
            return
        self._patience.succeed()
        await self._settle(task, denied=denied, why="It knows none by the id that was sent with it, nor any other.")

    async def _found(self, task: Task) -> bool:
        """Bind the task if Kling has it; False when Kling denies it, or has it as another task of ours."""
        if task.external_task_id:
            try:
                answer = await self._kling.find(task.endpoint or "", task.external_task_id)
            except KlingError as exc:
                if not task.kling_id or _is_passing(exc):
                    raise _sorted_out(exc) from exc
                answer = None
            if answer is not None and answer.reading is not None and await self._is_its_own(task, answer.reading):
                await self._bind(task, answer.reading)
                return True
        return await self._found_by_callback(task)

    async def _found_by_callback(self, task: Task) -> bool:
        """Bind the task if it was called back about, for only Kling was told where."""
        if not task.kling_id:
            return False
        try:
            answer = await self._kling.query(task.endpoint or "", task.kling_id)
        except KlingError as exc:
            raise _sorted_out(exc) from exc
        if answer.error is not None:
            if isinstance(answer.error, UnknownResource) and answer.error.kling_code is not None:
                return False
            raise _sorted_out(answer.error)
        if answer.reading is None or not await self._is_its_own(task, answer.reading):
            return False
        await self._bind(task, answer.reading)
        return True

    async def _is_its_own(self, task: Task, reading: Reading) -> bool:
        """Tell whether what was found is this task: a client may have given two the same external id."""
        if not reading.kling_id:
            raise _CannotTell("What was found has no id of Kling's.")
        if reading.external_task_id and task.external_task_id and reading.external_task_id != task.external_task_id:
            return False
        known = await self._history.task(reading.kling_id)
        return known is None or known.id == task.id or known.kling_id != reading.kling_id

    async def _bind(self, task: Task, reading: Reading) -> None:
        log.info("task.found", task=task.id)
        await self._outcomes.bound(task, reading, intent=await self._intake.intent(task.id), news=True)

    async def _is_believed(self, task: Task) -> bool:
        """Tell whether a denial counts: where another task of ours is found by such an id, ids are not dropped."""
        since = self._clock.now() - _WITNESS_AGE
        page = await self._history.tasks(states=_BOUND, endpoint=task.endpoint, limit=10)
        for witness in page.items:
            if witness.kling_id and witness.external_task_id and witness.created_at >= since and witness.id != task.id:
                try:
                    return await self._kling.find(witness.endpoint or "", witness.external_task_id) is not None
                except KlingError as exc:
                    if _is_passing(exc):
                        raise _CannotAsk(exc) from exc
                    return False
        endpoint = endpoints.resolve(task.endpoint or "")
        is_known = endpoint is not None and endpoint.is_listed  # else nobody knows that tasks can be looked up there
        if not is_known or _is_klings_own(self._settings.kling.base_url):
            return is_known
        return await self._is_nothing_else_there(task.endpoint or "")

    async def _is_nothing_else_there(self, endpoint: str) -> bool:
        """Tell whether all that is listed at an endpoint is ours and bound, so that nothing there can be the lost task.

        An empty list proves it on this machine alone, where a simulator answers: a gateway may have none for anybody.
        """
        try:
            listed = await self._kling.newest(endpoint)
        except KlingError as exc:
            if _is_passing(exc):
                raise _CannotAsk(exc) from exc
            return False
        if listed is None:
            return False
        for reading in listed:
            refs = [ref for ref in (reading.kling_id, reading.external_task_id) if ref]
            if not any([await self._history.task(ref) for ref in refs]):
                return False
        return bool(listed) or is_loopback(urlsplit(self._settings.kling.base_url).hostname or "")

    async def _settle(self, task: Task, *, denied: bool, why: str) -> None:
        """Draw the conclusion, once Kling has had its time: what is under way there may not be seen yet."""
        now = self._clock.now()
        begun = task.started_at or task.updated_at
        if begun > now:  # by a clock that was set back since, at the latest when that was noticed
            begun = self._noticed_at
        certain_at = begun + 2 * self._settings.kling.timeout
        if now < certain_at:
            await self._outcomes.open(task, task.message, wait=min(_grown(task), certain_at - now))
        elif not denied:
            await self._outcomes.unknown(task, why)
        elif task.origin is Origin.API:
            await self._outcomes.queued(task, _NOT_MADE, until=now)
            self._bells.tasks.ring()
        else:
            await self._outcomes.rejected(task, _LOST)

    async def _later(self, task: Task, error: KlingError) -> None:
        """Leave it for later, for as long as an end is waited for at all."""
        log.warning("task.lookup_failed", task=task.id, code=error.code, reason=error.message)
        started_at = task.started_at or task.created_at
        if self._clock.now() - started_at >= self._settings.poll.give_up_after:
            await self._outcomes.unknown(task, f"It could not be asked since: {error.message}")
        else:
            await self._outcomes.open(task, task.message, wait=_grown(task))

    def _own(self, task: Task, bell: asyncio.Event) -> None:
        looking = self._looking[task.id] = asyncio.create_task(self._look_up(task))
        looking.add_done_callback(lambda done: self._done(task.id, done, bell))

    def _done(self, task_id: str, looking: "asyncio.Task[None]", bell: asyncio.Event) -> None:
        del self._looking[task_id]
        bell.set()
        if not looking.cancelled() and looking.exception() is not None:
            log.error("lookup.failed", exc_info=looking.exception())


def _is_klings_own(base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    return any(host == domain or host.endswith(f".{domain}") for domain in _KLINGS_OWN)


def _is_passing(error: KlingError) -> bool:
    """Tell whether Kling cannot be asked just now, and so may answer later.

    An uncertain answer without a missing one behind it is about another task, and would be so again.
    """
    if isinstance(error, KlingUncertain):
        return isinstance(error.__cause__, NoAnswer)
    return error.retry is not Retry.NO


def _sorted_out(error: KlingError) -> _CannotAsk | _CannotTell:
    return _CannotAsk(error) if _is_passing(error) else _CannotTell(error.message)


def _grown(task: Task) -> timedelta:
    """Tell how long to wait for the next look-up: twice as long each time."""
    grown: timedelta = _FIRST_WAIT * 2 ** min(task.asks, 10)
    return min(grown, _LONGEST_WAIT)
