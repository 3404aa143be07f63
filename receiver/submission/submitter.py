"""Intent → Kling → bound task. The intent and its token are stored before Kling is called.

Whatever happens after that, the task's external id tells whether Kling made it: a submit without a clear answer is
left to :mod:`receiver.submission.recovery`, which looks it up. Nothing here sends a task again that Kling may have.

All that is queued stands in one line, in the store; whoever hands a task in serves the line like everybody else.
"""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from receiver.domain.clock import FAR, Clock, Ids
from receiver.domain.errors import Conflict, InvalidRequest, KlingError, KlingUncertain, NotFound, StoreUnavailable
from receiver.domain.model import Origin, Push, Task, TaskState
from receiver.domain.notifier import Bells
from receiver.domain.replays import Action
from receiver.kling import endpoints
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside
from receiver.kling.endpoints import Endpoint
from receiver.settings import Settings
from receiver.store.interfaces import ById, Change, Intake
from receiver.submission.executor import Creates, token_hash
from receiver.submission.recorder import Outcomes
from receiver.submission.request import Marks, SubmitRequest, Taken, make_task
from receiver.tasks import lifecycle
from receiver.tasks.account import Reach

log = structlog.get_logger()
T = TypeVar("T")

AT_ONCE = 32
"""How many queued tasks are being sent at the same time at most."""

MOST_HELD = 128 * 1024 * 1024
"""How many bytes of them: one with pictures in it may have tens of megabytes."""

_QUEUED = (TaskState.QUEUED,)
_LOOK_AGAIN = timedelta(seconds=1)
_GRACE = timedelta(seconds=20)
_SET_BACK = timedelta(seconds=5)  # less is a clock being adjusted
_WAITS = "waits for a slot"
_TOO_LARGE = "waits for more slots than Kling was seen to have free"
_UNMARKED = Marks()


class Submitter:
    """Sends tasks to Kling, each once and in its turn, no more at a time than there are slots."""

    def __init__(
        self,
        intake: Intake,
        creates: Creates,
        outcomes: Outcomes,
        *,
        settings: Settings,
        bells: Bells,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._intake = intake
        self._creates = creates
        self._outcomes = outcomes
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._bells = bells
        self._seen_at: datetime | None = None
        self._under_way: dict[str, asyncio.Task[Answer | KlingError]] = {}
        self._held: dict[str, int] = {}
        self._owned: set[asyncio.Task[object]] = set()

    async def submit(self, request: SubmitRequest, *, wait: bool = True) -> Taken:
        """Store a job and send it if it is its turn; give the task as it then stands, or without *wait* as stored.

        A request whose idempotency key was seen before gives the first one's task. Raises InvalidRequest, and
        Conflict where its batch is closed.
        """
        endpoint = endpoints.resolve(request.endpoint)
        if endpoint is None:
            raise InvalidRequest(
                f"Kling has no asynchronous endpoint {request.endpoint!r}.",
                remedy='Name it without "/v1/", such as "images/multi-image2image".',
            )
        intent = json.dumps(request.body, separators=(",", ":")).encode()
        task = self._intend(endpoint, intent, Origin.API, TaskState.QUEUED, request)
        task = replace(
            task,
            idempotency_key=request.idempotency_key,
            priority=request.priority,
            message=self._why_it_waits(task),
        )
        stored = await self._intake.add(task, intent, batch_size=request.batch_size)
        if stored.id != task.id:
            return Taken(task=stored, existing=True)
        log.info("task.queued", task=task.id, endpoint=task.endpoint)
        if stored.message or not wait:  # whoever serves the line hears of it; most of many at once have to wait
            self._bells.tasks.ring()
            return Taken(task=stored)
        return Taken(task=await asyncio.shield(self._own(self._see_off(stored))))

    async def relay(
        self, endpoint: Endpoint, body: bytes, marks: Marks = _UNMARKED, beside: Beside = NOTHING_BESIDE
    ) -> Answer:
        """Send a gateway client's create on, and give Kling's answer back. It is never queued.

        What the client sent *beside* the body goes along, and is not kept.
        Raises Unreadable and InvalidRequest for the body, Conflict where its batch is closed, KlingUnreachable,
        KlingUncertain.
        """
        token = self._ids.token()
        task = self._intend(endpoint, body, Origin.GATEWAY, TaskState.SUBMITTING, marks)
        task = lifecycle.begin(
            task, token_hash(token), now=task.created_at, until=task.created_at + self._creates.lasts
        )
        taken = await self._intake.occupancy(bound=True)
        await self._intake.add(task, body, batch_size=marks.batch_size)
        sending = self._own(self._creates.send(task, endpoint, body, token, taken=taken, beside=beside))
        answer = await asyncio.shield(sending)
        if isinstance(answer, KlingUncertain):
            raise KlingUncertain(
                answer.message, remedy=answer.remedy, external_task_id=task.external_task_id
            ) from answer
        if isinstance(answer, KlingError):
            raise answer
        return answer

    async def cancel(self, task_id: str, *, why: str, actor: str) -> Task:
        """Take a task that waits to be sent out of the line: it counts as rejected. Twice is as good as once.

        Raises NotFound, and Conflict where Kling may have it already, which takes nothing back.
        """
        action = Action(at=self._clock.now(), actor=actor, verb="task.cancelled", subject=task_id, note=why)
        task = await self._outcomes.cancelled(task_id, action)
        if task is None:
            raise _nobody(task_id)
        if task.state is not TaskState.REJECTED or not task.message.startswith(lifecycle.CANCELLED):
            raise Conflict(f"It does not wait to be sent any more: {task.state}.", remedy="Kling takes no task back.")
        self._creates.slots.left(task)
        return task

    async def mint(self, *, endpoint: str | None, marks: Marks = _UNMARKED) -> tuple[Task, str]:
        """Make a callback URL for a job submitted elsewhere. The URL is told here and never again.

        Nobody may ever submit that job: it belongs to no batch, which would wait for it.
        """
        if not self._settings.public.url:
            raise Conflict(
                "There is no public address that Kling could call.", remedy="Set [public] url in config.toml."
            )
        known = None if endpoint is None else endpoints.resolve(endpoint)
        if endpoint is not None and known is None:
            raise InvalidRequest(f"Kling has no asynchronous endpoint {endpoint!r}.")
        token, now = self._ids.token(), self._clock.now()
        task = Task(
            id=self._ids.new("tsk"),
            origin=Origin.MINTED,
            state=TaskState.AWAITING,
            endpoint=None if known is None else known.path,
            pack=None if known is None else known.pack,
            label=marks.label,
            tags=dict(marks.tags),
            token_hash=token_hash(token),
            created_at=now,
            updated_at=now,
            expires_at=now + self._settings.callbacks.expire_after,
        )
        await self._intake.add(task, b"")
        log.info("callback_url.minted", task=task.id, endpoint=task.endpoint)
        return task, self._creates.callback_url(token)

    async def revoke(self, task_id: str) -> Task:
        """Let a task's callback URL lead nowhere from now on; the task is followed by polling alone.

        Raises NotFound.
        """

        def judge(held: Task, _: Sequence[Push]) -> Change:
            return Change(task=replace(held, token_hash=None, updated_at=self._clock.now()))

        change = await self._intake.apply(ById(id=task_id), judge)
        if change is None or change.task is None:
            raise _nobody(task_id)
        log.info("callback_url.revoked", task=task_id)
        return change.task

    async def run(self, stop: asyncio.Event) -> None:
        """Send queued tasks as slots get free, until *stop*; calls under way then are waited for, within bounds."""
        bell = self._bells.tasks.listen()
        try:
            is_shared_out = False
            while not stop.is_set():
                bell.clear()
                try:
                    if not is_shared_out:  # by the tag that the configuration names now
                        await self._creates.recall()
                        await self._intake.share_out(self._settings.kling.fair_by)
                        is_shared_out = True
                    await self._catch_up()
                    until = await self._serve()
                except StoreUnavailable as exc:  # a full disk, say; what is due stays due
                    log.warning("submits.delayed", reason=exc.message)
                    until = self._clock.now() + _LOOK_AGAIN
                await self._clock.wait(bell, until=until)
        finally:
            self._bells.tasks.leave(bell)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE.total_seconds()):
                await self.drain()

    async def drain(self) -> None:
        """Wait for calls to Kling that are under way, so that their answers are bound."""
        while self._owned:
            await asyncio.wait(self._owned)

    async def _catch_up(self) -> None:
        """Let nothing wait for a moment that was planned by a clock which has been set back since."""
        now = self._clock.now()
        if self._seen_at is None or now < self._seen_at - _SET_BACK:
            await self._intake.hasten_tasks(_QUEUED, now=now, before=FAR, apart=timedelta())
        self._seen_at = now

    async def _serve(self) -> datetime | None:
        """Send all that may be sent now; tell when there may be more, None when a bell will."""
        async with self._creates.serving:
            while True:
                now = self._clock.now()
                if not self._creates.patience.admits(now):
                    return self._creates.patience.opens_at
                if len(self._under_way) >= AT_ONCE or sum(self._held.values()) >= MOST_HELD:
                    return None
                if not await self._send_next(now):
                    due = await self._intake.next_task_due(_QUEUED, after=now)
                    opening = (self._creates.slots.opens_at(now), self._creates.bars.packs_open_at(now))
                    moments = [moment for moment in (due, *opening) if moment is not None]
                    return min(moments, default=None)

    async def _send_next(self, now: datetime) -> bool:
        """Send the next task in the line that there is room for; False where there is none."""
        line = await self._intake.line(now=now, kept=self._creates.slots.kept)
        self._creates.slots.see(line)
        if not line:
            return False
        taken, bound = await self._intake.occupancy(), await self._intake.occupancy(bound=True)
        for task in line:
            endpoint = endpoints.resolve(task.endpoint or "")
            if endpoint is None:
                await self._outcomes.rejected(task, f"This version knows no endpoint {task.endpoint!r}.")
                return True
            call = await self._creates.call_for(task, endpoint)
            barred = self._creates.bars.bar(call, now)
            if barred is not None and barred.concern.reach is Reach.RESOURCE:
                await self._outcomes.queued(task, barred.why, until=barred.until)
                return True  # whoever comes after it may ask for something else
            if barred is not None:
                continue
            if not self._creates.slots.admits(task, taken, now):
                aside = self._creates.slots.stands_aside_until(task, now)
                if aside is None:
                    continue
                await self._outcomes.queued(task, _TOO_LARGE, until=aside)
                return True
            token = self._ids.token()
            begun = await self._begin(task, token, now)
            if begun is not None:
                self._creates.slots.went(task, taken, now, lasts=self._creates.lasts)
                self._creates.patience.call(now, lasts=self._creates.lasts)
                self._creates.bars.went(call, now, lasts=self._creates.lasts)
                loaded = asyncio.Event()
                self._under_way[task.id] = self._own(self._send(begun, endpoint, token, bound, loaded))
                await loaded.wait()  # so that what it holds is known before the next one goes
            return True
        return False

    async def _begin(self, task: Task, token: str, now: datetime) -> Task | None:
        """Write down that a task is being sent; None where it is not queued any more."""

        def judge(held: Task, _: Sequence[Push]) -> Change:
            if held.state is not TaskState.QUEUED:
                return Change()
            return Change(task=lifecycle.begin(held, token_hash(token), now=now, until=now + self._creates.lasts))

        begun = await self._intake.apply(ById(id=task.id), judge)
        return None if begun is None else begun.task

    async def _send(
        self, task: Task, endpoint: Endpoint, token: str, taken: Mapping[str, int], loaded: asyncio.Event
    ) -> Answer | KlingError:
        try:
            intent = await self._intake.intent(task.id)
            self._held[task.id] = len(intent)
            loaded.set()
            return await self._creates.send(task, endpoint, intent, token, taken=taken)
        finally:
            loaded.set()
            self._held.pop(task.id, None)
            del self._under_way[task.id]

    async def _see_off(self, task: Task) -> Task:
        """Serve the line on a new task's behalf; give the task when Kling has answered, or when it has to wait."""
        await self._serve()
        sending = self._under_way.get(task.id)
        if sending is not None:
            await asyncio.wait([sending])
        seen = task

        def look(held: Task, _: Sequence[Push]) -> Change:
            nonlocal seen
            is_untold = held.state is TaskState.QUEUED and not held.message
            why = self._creates.patience.why or self._creates.bars.why(task.pack) or _WAITS
            seen = replace(held, message=why) if is_untold else held
            return Change(task=seen) if is_untold else Change()

        await self._intake.apply(ById(id=task.id), look)
        return seen

    def _why_it_waits(self, task: Task) -> str:
        """Tell people why a new task is not sent at once, as far as that can be foreseen; "" where it may be."""
        if not self._creates.patience.admits(self._clock.now()):
            return self._creates.patience.why
        return self._creates.bars.why(task.pack) or (_WAITS if self._creates.slots.waits(task) else "")

    def _intend(self, endpoint: Endpoint, body: bytes, origin: Origin, state: TaskState, marks: Marks) -> Task:
        now = self._clock.now()
        task = make_task(
            endpoint,
            body,
            task_id=self._ids.new("tsk"),
            origin=origin,
            state=state,
            now=now,
            expires_at=now + self._settings.callbacks.expire_after,
        )
        share = marks.tags.get(self._settings.kling.fair_by, "")
        return replace(task, label=marks.label, tags=dict(marks.tags), batch=marks.batch, share=share)

    def _own(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        """Run *work* as a task of ours: it goes on when whoever asked for it goes away."""
        owned = asyncio.create_task(work)
        self._owned.add(owned)
        owned.add_done_callback(self._done)
        return owned

    def _done(self, owned: "asyncio.Task[object]") -> None:
        self._owned.discard(owned)
        self._bells.tasks.ring()
        if not owned.cancelled() and owned.exception() is not None:
            log.error("submit.failed", exc_info=owned.exception())


def _nobody(task_id: str) -> NotFound:
    return NotFound(f"No task goes by {task_id[:64]!r}.")
