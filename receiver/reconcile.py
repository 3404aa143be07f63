"""Asks Kling's API about tasks that have gone quiet, or whose news wants confirming. The guarantee behind callbacks."""

import asyncio
from datetime import timedelta
from typing import Protocol

import structlog

from receiver.bells import Bell
from receiver.clock import Clock
from receiver.errors import KlingError, UnknownResource
from receiver.kling.client import Answer
from receiver.model import Reading, Task, TaskState
from receiver.store import Intake

log = structlog.get_logger()

_ASKABLE = tuple(state for state in TaskState if state not in (TaskState.QUEUED, TaskState.SUBMITTING))
_AT_ONCE = 8
_MARGIN = timedelta(seconds=5)


class Questions(Protocol):
    """What is asked of Kling."""

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Ask about one task."""
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


class Reconciler:
    """Claims tasks as they fall due and asks about each; a task is asked about by one at a time."""

    def __init__(
        self,
        intake: Intake,
        kling: Questions,
        answers: Answers,
        *,
        timeout: timedelta,
        tasks_bell: Bell,
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._kling = kling
        self._answers = answers
        self._lease = timeout + _MARGIN
        self._bell = tasks_bell
        self._clock = clock
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Ask about tasks as they fall due, until *stop*; what is under way then is waited for."""
        bell = self._bell.listen()
        while not stop.is_set():
            bell.clear()
            free = _AT_ONCE - len(self._asking)
            now = self._clock.now()
            tasks = (
                await self._intake.claim_tasks(_ASKABLE, now=now, until=now + self._lease, limit=free) if free else ()
            )
            for task in tasks:
                asking = asyncio.create_task(self._ask(task))
                self._asking.add(asking)
                asking.add_done_callback(lambda done: self._done(done, bell))
            due = await self._intake.next_task_due(_ASKABLE) if len(self._asking) < _AT_ONCE else None
            await self._clock.wait(bell, until=due)
        self._bell.leave(bell)
        if self._asking:
            await asyncio.wait(self._asking)

    def _done(self, asking: "asyncio.Task[None]", bell: asyncio.Event) -> None:
        self._asking.discard(asking)
        bell.set()
        if not asking.cancelled() and asking.exception() is not None:
            log.error("query.failed", exc_info=asking.exception())

    async def _ask(self, task: Task) -> None:
        asked_for = await self._answers.question(task)
        if task.endpoint is None or asked_for is None:
            await self._answers.learn_nothing(task.id)
            return
        try:
            answer = await self._kling.query(task.endpoint, asked_for)
        except KlingError as exc:
            log.warning("query.failed", task=task.id, code=exc.code, reason=exc.message)
            await self._answers.learn_nothing(task.id)
            return
        if answer.error is not None or answer.reading is None:
            reason = "" if answer.error is None else str(answer.error)
            log.warning("query.refused", task=task.id, status=answer.status, reason=reason)
            await self._answers.learn_nothing(task.id, denied=asked_for if _is_unknown(answer) else None)
        else:
            await self._answers.learn(task.id, answer.reading, answer.body)


def _is_unknown(answer: Answer) -> bool:
    """Tell whether Kling itself denies the task: a bare 404 may be a gateway that cannot be asked about tasks."""
    return isinstance(answer.error, UnknownResource) and answer.error.kling_code is not None
