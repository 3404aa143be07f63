"""The create itself: Kling is called for a task whose submit has begun, and what came of it is written down.

What an answer teaches stays here: when Kling may be called again, and how many tasks it takes at once.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from receiver.domain.circuit_breaker import Patience
from receiver.domain.clock import Clock
from receiver.domain.errors import (
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    Retry,
    StoreError,
    TooFast,
)
from receiver.domain.model import Origin, Reading, Task, TaskState
from receiver.kling import endpoints, protocol
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import Intake
from receiver.submission.recorder import Outcomes
from receiver.submission.request import resource
from receiver.submission.slots import Slots
from receiver.tasks.account import Bars, Call, Concern, Reach

log = structlog.get_logger()

FIRST_LOOK = timedelta(seconds=1)
"""How long after a create without a clear answer the task is looked up."""

_MARGIN = timedelta(seconds=5)
_FIRST_WAIT = timedelta(seconds=1)
_LONGEST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT_OF_A_LARGE_ONE = timedelta(hours=1)


class Calls(Protocol):
    """What a submit asks of Kling."""

    async def create(self, endpoint: str, content: bytes, *, beside: Beside) -> Answer:
        """Create a task; what is *beside* the body goes along, as far as it may."""
        ...


class Lookup(Protocol):
    """Finds out about tasks that Kling may have made."""

    async def adopt(self, task: Task) -> bool:
        """Bind a task that Kling says it has already; False when it has not, after all."""
        ...


class Listener(Protocol):
    """Hears how calls to Kling end."""

    async def called(self, error: KlingError | None, call: Call) -> None:
        """Take in how a call ended, None for well."""
        ...

    async def recall(self) -> Mapping[Concern, str]:
        """Give what was in trouble before a restart, and what was said of it."""
        ...


class Creates:
    """Calls Kling, and learns from how it goes. ``lasts`` is the longest that one call may take.

    Whoever chooses who goes next does it while ``serving`` is theirs, so that the line does not change meanwhile.
    """

    def __init__(
        self,
        intake: Intake,
        kling: Calls,
        outcomes: Outcomes,
        lookup: Lookup,
        listener: Listener,
        *,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._kling = kling
        self._outcomes = outcomes
        self._lookup = lookup
        self._listener = listener
        self._public_url = settings.public.url.rstrip("/")
        self._clock = clock
        self.serving = asyncio.Lock()
        slots = settings.kling.slots
        self.slots = Slots({"video": slots.video, "image": slots.image})
        self.patience = Patience(longest=_LONGEST_WAIT)
        self.bars = Bars()
        self.lasts = 2 * settings.kling.timeout + _MARGIN  # a call may be signed anew and made once more

    async def recall(self) -> None:
        """At start: begin with one trial where there was trouble before, not with all that wait.

        Where Kling teaches how many there may be, what runs is taken for as many until it is known better.
        """
        now = self._clock.now()
        self.slots.begin(await self._intake.occupancy(bound=True), now)
        for concern, why in (await self._listener.recall()).items():
            if concern.reach is Reach.ACCOUNT:
                self.patience.fail(why, begun=now, now=now)
            else:
                self.bars.refused(concern, why, begun=now, now=now)

    async def call_for(self, task: Task, endpoint: Endpoint) -> Call:
        """Tell what a task asks of the account; the model it names is looked up only where that matters."""
        is_right_missing = self.bars.knows_of(endpoint.path)
        intent = await self._intake.intent(task.id) if is_right_missing else b"{}"
        return Call(creates=True, pack=task.pack, resource=resource(endpoint, protocol.parse_object(intent)))

    async def send(
        self,
        task: Task,
        endpoint: Endpoint,
        intent: bytes,
        token: str,
        *,
        taken: Mapping[str, int],
        beside: Beside = NOTHING_BESIDE,
    ) -> Answer | KlingError:
        """Call Kling for a task whose submit has begun, and write down what came of it.

        *taken* counts by pack the slots that other tasks were known to take when it was sent, *beside* is what a
        client of the gateway sent with the body.
        """
        composed = self._composed(task, endpoint, intent, token)
        call = Call(creates=True, pack=task.pack, resource=resource(endpoint, composed.asked))
        begun = self._clock.now()
        answer: Answer | KlingError
        self._outcomes.awaited.add(task.id)
        try:
            answer = await self._kling.create(endpoint.path, composed.content, beside=beside)
        except (KlingUnreachable, KlingUncertain) as exc:
            answer = exc
        finally:
            self._outcomes.awaited.discard(task.id)
        error = answer if isinstance(answer, KlingError) else answer.error
        try:
            before, after = (held.get(task.pack or "", 0) for held in (taken, await self._intake.occupancy(bound=True)))
            self._heed(task, call, error, begun, before=before, after=after)
            await self._write_down(task, call, answer, error, intent, alone=not before and not after)
            if error is None:  # with those made at the same time, as far as they are written down
                held = (await self._intake.occupancy(bound=True)).get(task.pack or "", 0)
                self.slots.accepted(task, before, held, self._clock.now())
            await self._listener.called(error, call)
            if error is None and self.bars.served(call):
                await self._take_up_again()
        except StoreError as exc:
            # Whoever asked must hear what Kling said; the task is looked up and bound when its lease is over.
            log.error("task.unrecorded", task=task.id, reason=exc.message)  # noqa: TRY400 -- the reason is all there is
        return answer

    def _composed(self, task: Task, endpoint: Endpoint, intent: bytes, token: str) -> protocol.Composed:
        return protocol.compose(
            intent,
            generation=endpoint.generation,
            callback_url=self.callback_url(token) if self._public_url else None,
            external_task_id=task.external_task_id,
        )

    def callback_url(self, token: str) -> str:
        """Give the address that Kling calls a task's news in by."""
        return f"{self._public_url}/callbacks/{token}"

    def _heed(
        self, task: Task, call: Call, error: KlingError | None, begun: datetime, *, before: int, after: int
    ) -> None:
        """Learn from how a create ended when the next may be made: so many slots were taken *before* and *after* it."""
        now = self._clock.now()
        concern = None if error is None else call.concern(error)
        is_barred = concern is not None and concern.reach is not Reach.ACCOUNT
        if concern is not None and is_barred:
            self.bars.refused(concern, str(error), begun=begun, now=now)
        if error is None or is_barred or error.retry in (Retry.NO, Retry.WHEN_FREE):
            self.patience.succeed()
        else:
            asked = error.retry_after if isinstance(error, KlingRefusal) else None
            self.patience.fail(str(error), begun=begun, now=now, asked=asked)
        if error is not None and error.retry is Retry.WHEN_FREE:
            self.slots.refused(task, max(before, after), begun=begun, now=now)
        elif error is not None:
            self.slots.ended(task, now)

    async def _take_up_again(self) -> None:
        """Let those that were put aside for what is mended now go at once."""
        now = self._clock.now()
        before = now + self.lasts + _LONGEST_WAIT
        await self._intake.hasten_tasks((TaskState.QUEUED,), now=now, before=before, apart=timedelta())

    async def _write_down(
        self,
        task: Task,
        call: Call,
        answer: Answer | KlingError,
        error: KlingError | None,
        intent: bytes,
        *,
        alone: bool,
    ) -> None:
        if error is None and isinstance(answer, Answer):
            reading = answer.reading or Reading(state=None)
            if reading.kling_id:
                await self._outcomes.bound(task, reading, intent=intent)
                return
            error = KlingUncertain("Kling answered that it made the task, and did not name it.")
        if isinstance(answer, Answer) and answer.is_success and isinstance(error, KlingUncertain):
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is not None and not endpoint.is_listed:
                await self._outcomes.nameless(task, answer.body, intent=intent)
                return
        if error is not None:
            await self._failed(task, call, error, answer.body if isinstance(answer, Answer) else b"", alone=alone)

    async def _failed(self, task: Task, call: Call, error: KlingError, body: bytes, *, alone: bool) -> None:
        """Write down a create that did not succeed: queued again, to be looked up, or rejected."""
        log.warning("task.refused", task=task.id, code=error.code, retry=error.retry, reason=error.message)
        if error.retry is Retry.LOOK_UP_FIRST:
            await self._outcomes.open(task, error.message, wait=FIRST_LOOK)
        elif task.origin is Origin.API and (error.retry is not Retry.NO or call.concern(error) is not None):
            await self._queue_again(task, call, error, alone=alone)
        elif isinstance(error, InvalidParameters) and task.attempts > 1 and await self._lookup.adopt(task):
            log.info("task.adopted", task=task.id)  # its external id was taken by an attempt before this one
        else:
            await self._outcomes.rejected(task, error.message, body)

    async def _queue_again(self, task: Task, call: Call, error: KlingError, *, alone: bool) -> None:
        """Put a task back: to its place where others would fare no better, else aside for a while.

        A large one that Kling has no room for, though nothing else of ours runs, would keep all others from going.
        """
        asked = error.retry_after if isinstance(error, KlingRefusal) else None
        concern = call.concern(error)
        if error.retry is Retry.WHEN_FREE and alone and task.weight > 1:
            wait = _grown(task, longest=_LONGEST_WAIT_OF_A_LARGE_ONE)
            await self._outcomes.queued(task, str(error), until=self._clock.now() + wait)
        elif (
            error.retry is Retry.WHEN_FREE
            or isinstance(error, TooFast)
            or (concern is not None and concern.reach is Reach.PACK)
        ):
            async with self.serving:
                await self._outcomes.queued(task, str(error), until=task.created_at)
                self.slots.keep(task)
        else:
            wait = min(max(_grown(task, longest=_LONGEST_WAIT), asked or timedelta()), _LONGEST_WAIT)
            await self._outcomes.queued(task, str(error), until=self._clock.now() + wait)


def token_hash(token: str) -> bytes:
    """Give what of a callback's token is stored."""
    return hashlib.sha256(token.encode()).digest()


def _grown(task: Task, *, longest: timedelta) -> timedelta:
    """Tell how long a task is left alone: twice as long after each attempt."""
    grown: timedelta = _FIRST_WAIT * 2 ** min(max(task.attempts - 1, 0), 20)
    return min(grown, longest)
