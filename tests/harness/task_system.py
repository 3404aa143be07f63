"""The parts that submit to Kling, hear from it and ask it, on a real store, with a Kling that does as a test says.

Time is a test's own: :meth:`Workshop.passes` moves it in steps, and after each waits until nobody has anything to do.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from harness.support import START, FakeClock

from receiver.domain.clock import Ids
from receiver.domain.errors import KlingError, KlingUncertain, NoAnswer
from receiver.domain.model import Event, Json, Reading, Secret, Task
from receiver.domain.notifier import Bells
from receiver.events.factory import Announcer
from receiver.events.routing import compile_routes
from receiver.kling import protocol
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside
from receiver.kling.error_codes import Said, error_of
from receiver.settings import (
    CallbackSettings,
    KlingSettings,
    PollSettings,
    PublicSettings,
    RouteSettings,
    Settings,
    WebhookSettings,
)
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.executor import Creates
from receiver.submission.recorder import Outcomes
from receiver.submission.recovery import Recovery
from receiver.submission.request import SubmitRequest
from receiver.submission.submitter import Submitter
from receiver.tasks.alerts import Alarm
from receiver.tasks.batches import Gatherer
from receiver.tracking.inbox import Inbox
from receiver.tracking.poller import Reconciler

ENDPOINT = "images/multi-image2image"
JOB: Json = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}
IMAGES = {"images": [{"index": 0, "url": "https://cdn.example.com/0.png"}]}


def no_answer() -> KlingUncertain:
    """What the client raises when a call went out and nothing came back."""
    error = KlingUncertain("Kling did not answer: it took too long.")
    error.__cause__ = NoAnswer("It took too long.")
    return error


def refusal(status: int, code: int | None, message: str = "no", *, creates: bool = False) -> KlingError:
    """The error that the client makes of such an answer."""
    document: Json = {"message": message} | ({} if code is None else {"code": code})
    error = error_of(Said(status=status, headers={}, document=document), creates=creates, now=START)
    assert error is not None
    return error


@dataclass(slots=True)
class Made:
    """A task at Kling."""

    id: str
    external_task_id: str | None
    callback_url: str | None
    status: str = "submitted"
    message: str = ""
    result: Json = field(default_factory=dict)
    cost: Json = field(default_factory=dict)

    def told(self, **more: object) -> bytes:
        """The task as callbacks and answers tell of it."""
        told: Json = {"task_id": self.id, "task_status": self.status, "task_status_msg": self.message}
        told["task_info"] = {"external_task_id": self.external_task_id} if self.external_task_id else {}
        return json.dumps(told | {"task_result": self.result} | self.cost | more).encode()

    @property
    def token(self) -> str:
        """The token in its callback URL."""
        assert self.callback_url is not None
        return self.callback_url.rpartition("/")[2]


class FakeKling:
    """Makes tasks, tells of them, and counts what it is asked; each call goes wrong as the test says.

    ``create_faults`` are used up one by one, an error each, or None for well; with ``makes_anyway`` the task is made
    although the create fails. ``query_fault`` and ``find_fault`` hold for every call while they are set.
    ``limit`` is how many slots there are (0: any number), of which a body takes ``n`` if it ``counts_images``.
    ``questions`` are the ids that each question named, ``queries`` each id with its moment. ``drops_ids`` is a gateway
    that forgets clients' own ids. ``holds`` keeps creates unanswered until it is set; ``stuck`` is how many questions
    and look-ups a test's own kind of it keeps waiting.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.made: dict[str, Made] = {}
        self.creates: list[str] = []
        self.created_at: list[datetime] = []
        self.queries: list[tuple[str, datetime]] = []
        self.questions: list[list[str]] = []
        self.finds: list[str] = []
        self.create_faults: list[KlingError | None] = []
        self.create_fault: KlingError | None = None
        self.makes_anyway = False
        self.query_fault: KlingError | Callable[[str], KlingError | None] | None = None
        self.find_fault: KlingError | None = None
        self.drops_ids = False
        self.hides: set[str] = set()
        self.limit = 0
        self.counts_images = False
        self.holds: asyncio.Event | None = None
        self.stuck = 0
        self.under_way = 0
        self.most_under_way = 0

    def make(self, body: bytes) -> Made:
        """Make a task."""
        asked = json.loads(body)
        asked = asked.get("options", asked)
        own_id = None if self.drops_ids else asked.get("external_task_id")
        task = Made(id=f"k{len(self.made) + 1}", external_task_id=own_id, callback_url=asked.get("callback_url"))
        self.made[task.id] = task
        return task

    async def newest(self, endpoint: str) -> Sequence[Reading] | None:
        """List all tasks."""
        del endpoint
        if self.find_fault is not None:
            raise self.find_fault
        return [protocol.read(made.told()) for made in self.made.values()]

    def of(self, external_task_id: str) -> list[Made]:
        """Find all tasks made under an id of the client's."""
        return [task for task in self.made.values() if task.external_task_id == external_task_id]

    def end(self, task: Made, status: str = "succeed", *, result: Json | None = None) -> bytes:
        """Let a task end; give the callback that tells of it."""
        task.status = status
        task.result = (IMAGES if result is None else result) if status == "succeed" else {}
        return task.told()

    async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
        """Create a task."""
        del endpoint, beside
        asked = json.loads(content)
        self.creates.append(asked.get("options", asked).get("external_task_id", ""))
        self.created_at.append(self.clock.now())
        fault = self.create_faults.pop(0) if self.create_faults else self.create_fault
        wanted = json.loads(content).get("n", 1) if self.counts_images else 1
        if fault is None and self.limit and self._running() + wanted > self.limit:
            fault = refusal(429, 1303)
        if fault is None and self.of(self.creates[-1]):
            fault = refusal(400, 1201, "external_task_id already exists")
        made = None
        if fault is None or self.makes_anyway:
            made = self.make(content)
        if self.holds is not None:
            await self.holds.wait()
        if isinstance(fault, KlingUncertain):
            raise fault
        if fault is not None or made is None:
            return Answer(status=400, headers={}, body=b'{"code":1,"message":"no"}', error=fault)
        return _answer(made.told())

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Tell of a task by Kling's id or the client's."""
        del endpoint
        fault = await self._asked([task_id])
        if fault is not None:
            return Answer(status=500, headers={}, body=b"{}", error=fault)
        found = self.made.get(task_id) or next(iter(self.of(task_id)), None)
        if found is None:
            return Answer(status=404, headers={}, body=b"{}", error=refusal(404, 1203, "task not found"))
        return _answer(found.told())

    async def query_together(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, Answer]:
        """Tell of several tasks by Kling's ids, leaving out those that are not known or that ``hides`` names."""
        del endpoint
        fault = await self._asked(task_ids)
        if fault is not None:
            raise fault
        known = [self.made[task_id] for task_id in task_ids if task_id in self.made and task_id not in self.hides]
        return {task.id: _answer(task.told()) for task in known}

    async def _asked(self, task_ids: Sequence[str]) -> KlingError | None:
        """Count a question, and give the first fault that is set for any of its tasks; raise it as the client does."""
        self.questions.append(list(task_ids))
        self.queries += [(task_id, self.clock.now()) for task_id in task_ids]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        set_for = self.query_fault
        faults = [set_for(task_id) if callable(set_for) else set_for for task_id in task_ids]
        fault = next((fault for fault in faults if fault is not None), None)
        if isinstance(fault, KlingUncertain) or (fault is not None and fault.code == "kling_unreachable"):
            raise fault
        return fault

    async def find(self, endpoint: str, external_task_id: str) -> Answer | None:
        """Look a task up by the client's id."""
        del endpoint
        self.finds.append(external_task_id)
        await asyncio.sleep(0)
        if self.find_fault is not None:
            raise self.find_fault
        found = next(iter(self.of(external_task_id)), None)
        return None if found is None else _answer(found.told())

    def _running(self) -> int:
        return sum(task.status not in ("succeed", "failed") for task in self.made.values())


def _answer(body: bytes) -> Answer:
    return Answer(status=200, headers={}, body=body, reading=protocol.read(body))


class IdleClock(FakeClock):
    """A clock that knows how many are waiting for it with nothing to do."""

    def __init__(self, at: datetime = START) -> None:
        super().__init__(at)
        self.idle = 0

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if event.is_set() or (until is not None and until <= self.now()):
            await asyncio.sleep(0)
            return event.is_set()
        self.idle += 1
        try:
            return await super().wait(event, until=until)
        finally:
            self.idle -= 1


class Workshop:
    """All the parts, put together as the service does."""

    def __init__(
        self, store: SqliteStore, kling: Any, settings: Settings, clock: IdleClock, *, newest: str = ""
    ) -> None:
        self.store = store
        self.kling = kling
        self.settings = settings
        self.clock = clock
        self.bells = Bells()
        self.ids = Ids(clock, above=newest)
        announcer = Announcer(compile_routes(settings.routes), self.ids)
        self.alarm = Alarm(store, store, announcer, public_url=settings.public.url, bells=self.bells, clock=clock)
        self.inbox = Inbox(
            store,
            announcer,
            callbacks=settings.callbacks,
            poll=settings.poll,
            bells=self.bells,
            clock=clock,
            ids=self.ids,
            attention=self.alarm if settings.public.url else None,
        )
        self.outcomes = Outcomes(store, announcer, poll=settings.poll, bells=self.bells, clock=clock)
        self.recovery = Recovery(store, kling, self.outcomes, store, settings=settings, bells=self.bells, clock=clock)
        self.creates = Creates(store, kling, self.outcomes, self.recovery, self.alarm, settings=settings, clock=clock)
        self.submitter = Submitter(
            store, self.creates, self.outcomes, settings=settings, bells=self.bells, clock=clock, ids=self.ids
        )
        self.reconciler = Reconciler(
            store,
            kling,
            self.inbox,
            self.alarm,
            timeout=settings.kling.timeout,
            tasks_bell=self.bells.tasks,
            clock=clock,
            latest=self.ids.latest,
        )
        self.gatherer = Gatherer(store.batches, announcer, bells=self.bells, clock=clock)
        self._works: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Let all parts work inside the block, as while the service runs."""
        stop = asyncio.Event()
        parts = (self.reconciler, self.recovery, self.submitter, self.gatherer)
        self._works = [asyncio.create_task(part.run(stop)) for part in parts]
        try:
            await self.settles()
            yield
        finally:
            stop.set()
            if isinstance(self.kling, FakeKling) and self.kling.holds is not None:
                self.kling.holds.set()
            self.bells.ring()
            await asyncio.gather(*self._works)
            self._works = []

    async def settles(self) -> None:
        """Wait until nobody has anything left to do at this moment."""
        quiet = 0
        async with asyncio.timeout(30):
            while quiet < 3:
                await asyncio.sleep(0.0005)
                for work in self._works:
                    assert not work.done(), work
                quiet = quiet + 1 if self._is_idle() else 0

    def _is_idle(self) -> bool:
        under_way = len(self.reconciler._asking) + len(self.recovery._looking)
        under_way -= self.kling.stuck if isinstance(self.kling, FakeKling) else 0
        if not (isinstance(self.kling, FakeKling) and self.kling.holds is not None):
            under_way += len(self.submitter._owned)
        return under_way == 0 and self.clock.idle == len(self._works)

    async def passes(self, seconds: float, *, step: float = 1.0) -> None:
        """Let time pass, in steps, each with all that falls due in it."""
        left = seconds
        while left > 0:
            self.clock.advance(timedelta(seconds=min(step, left)))
            left -= step
            await self.settles()

    async def submit(self, **fields: Any) -> Task:
        """Hand a job in."""
        request = {"endpoint": ENDPOINT, "body": JOB} | fields
        return (await self.submitter.submit(SubmitRequest(**request))).task

    async def task(self, ref: str) -> Task:
        """Give a task as it is stored."""
        task = await self.store.task(ref)
        assert task is not None
        return task

    async def push(self, token: str, body: bytes) -> bool:
        """Let a callback come."""
        return await self.inbox.receive(token, [("content-type", "application/json")], body)

    async def outcomes_of(self, task_id: str) -> list[str]:
        """Give what became of each push of a task."""
        return [push.outcome.value for push in await self.store.pushes(task_id)]

    async def types(self, task_id: str | None = None) -> list[str]:
        """Give the types of all events, oldest first."""
        found: list[Event] = []
        cursor = None
        while True:
            page = await self.store.events(task_id=task_id, limit=200, cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None:
                return [event.type for event in reversed(found)]

    async def alerts(self, what: str) -> list[Json]:
        """Give the data of all alerts of a kind, oldest first."""
        page = await self.store.events(types=[f"alert.{what}"], limit=200)
        return [json.loads(event.envelope)["data"] for event in reversed(page.items)]


def a_configuration(**changes: Any) -> Settings:
    """A configuration with a public address and one route that wants every end."""
    given: dict[str, Any] = {
        "public": PublicSettings(url="https://hooks.example.com"),
        "kling": KlingSettings(api_key=Secret("key")),
        "callbacks": CallbackSettings(),
        "poll": PollSettings(),
        "routes": (
            RouteSettings(name="publish", on=frozenset(["*"]), webhook=WebhookSettings(url="http://127.0.0.1/")),
        ),
    }
    return Settings(**given | changes)


@contextlib.asynccontextmanager
async def a_workshop(
    folder: Path,
    *,
    kling: Any = None,
    clock: IdleClock | None = None,
    kling_settings: KlingSettings | None = None,
    **changes: Any,
) -> AsyncIterator[Workshop]:
    """Open a workshop on the store in *folder*, as it was left there."""
    if kling_settings is not None:
        changes["kling"] = kling_settings
    clock = clock or IdleClock()
    store = await SqliteStore.open(folder / "receiver.db")
    async with contextlib.aclosing(store):
        newest = await store.newest_id()
        yield Workshop(store, kling or FakeKling(clock), a_configuration(**changes), clock, newest=newest)
