"""Submission and tracking on a real store, with a fake Kling.

Time is fake: :meth:`TaskSystem.advance` moves it in steps, and waits after each step until all work is done.
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
from receiver.domain.errors import KlingError, KlingUncertain, NoResponse
from receiver.domain.model import Event, Json, Secret, StatusReport, Task
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.kling import protocol
from receiver.kling.client import NO_PASS_THROUGH, KlingResponse, PassThrough
from receiver.kling.error_codes import ErrorResponse, to_error
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
from receiver.submission.executor import CreateExecutor
from receiver.submission.recorder import CreateRecorder
from receiver.submission.recovery import CreateRecovery
from receiver.submission.request import SubmitRequest
from receiver.submission.submitter import Submitter
from receiver.tasks.alerts import TaskAlerts
from receiver.tasks.batches import BatchService
from receiver.tracking.inbox import Inbox
from receiver.tracking.poller import Poller

ENDPOINT = "images/multi-image2image"
JOB: Json = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}
IMAGES = {"images": [{"index": 0, "url": "https://cdn.example.com/0.png"}]}


def no_response() -> KlingUncertain:
    """Return the client's error for a call without an answer."""
    error = KlingUncertain("Kling did not answer: it took too long.")
    error.__cause__ = NoResponse("It took too long.")
    return error


def refusal(status: int, code: int | None, message: str = "no", *, creates: bool = False) -> KlingError:
    """Return the client's error for such an answer."""
    document: Json = {"message": message} | ({} if code is None else {"code": code})
    error = to_error(ErrorResponse(status=status, headers={}, document=document), is_create=creates, now=START)
    assert error is not None
    return error


@dataclass(slots=True)
class KlingTask:
    """A task at Kling."""

    id: str
    external_task_id: str | None
    callback_url: str | None
    status: str = "submitted"
    message: str = ""
    result: Json = field(default_factory=dict)
    cost: Json = field(default_factory=dict)

    def status_body(self, **more: object) -> bytes:
        """The task's status as in callbacks and answers."""
        told: Json = {"task_id": self.id, "task_status": self.status, "task_status_msg": self.message}
        told["task_info"] = {"external_task_id": self.external_task_id} if self.external_task_id else {}
        return json.dumps(told | {"task_result": self.result} | self.cost | more).encode()

    @property
    def token(self) -> str:
        """The token in its callback URL."""
        assert self.callback_url is not None
        return self.callback_url.rpartition("/")[2]


class FakeKling:
    """Creates tasks, reports them, and counts calls. Faults are set by the test.

    ``create_faults`` holds one error per create, or None for success; with ``create_despite_fault`` the task is created
    although the call fails. ``query_fault`` and ``lookup_fault`` apply to every call while set. ``slot_limit`` is the
    number of slots (0: unlimited); a body takes ``n`` slots if ``counts_images``. ``query_batches`` holds the ids of
    each query, ``queries`` each id with its time. ``drops_external_ids`` simulates a gateway that loses external ids.
    ``create_gate`` blocks creates until it is set; ``blocked`` is the number of queries and lookups that a test's own
    subclass keeps waiting.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.tasks: dict[str, KlingTask] = {}
        self.create_ids: list[str] = []
        self.created_at: list[datetime] = []
        self.queries: list[tuple[str, datetime]] = []
        self.query_batches: list[list[str]] = []
        self.lookups: list[str] = []
        self.create_faults: list[KlingError | None] = []
        self.create_fault: KlingError | None = None
        self.create_despite_fault = False
        self.query_fault: KlingError | Callable[[str], KlingError | None] | None = None
        self.lookup_fault: KlingError | None = None
        self.drops_external_ids = False
        self.hidden_ids: set[str] = set()
        self.slot_limit = 0
        self.counts_images = False
        self.create_gate: asyncio.Event | None = None
        self.blocked = 0
        self.in_flight = 0
        self.max_in_flight = 0

    def add_task(self, body: bytes) -> KlingTask:
        """Create a task."""
        asked = json.loads(body)
        asked = asked.get("options", asked)
        own_id = None if self.drops_external_ids else asked.get("external_task_id")
        task = KlingTask(id=f"k{len(self.tasks) + 1}", external_task_id=own_id, callback_url=asked.get("callback_url"))
        self.tasks[task.id] = task
        return task

    async def list_newest(self, endpoint: str) -> Sequence[StatusReport] | None:
        """List all tasks."""
        del endpoint
        if self.lookup_fault is not None:
            raise self.lookup_fault
        return [protocol.parse_status(made.status_body()) for made in self.tasks.values()]

    def find_all(self, external_task_id: str) -> list[KlingTask]:
        """Return all tasks with an external id."""
        return [task for task in self.tasks.values() if task.external_task_id == external_task_id]

    def finish_task(self, task: KlingTask, status: str = "succeed", *, result: Json | None = None) -> bytes:
        """Finish a task. Return the callback's body."""
        task.status = status
        task.result = (IMAGES if result is None else result) if status == "succeed" else {}
        return task.status_body()

    async def create(
        self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH
    ) -> KlingResponse:
        """Create a task."""
        del endpoint, pass_through
        asked = json.loads(content)
        self.create_ids.append(asked.get("options", asked).get("external_task_id", ""))
        self.created_at.append(self.clock.now())
        fault = self.create_faults.pop(0) if self.create_faults else self.create_fault
        wanted = json.loads(content).get("n", 1) if self.counts_images else 1
        if fault is None and self.slot_limit and self._running_count() + wanted > self.slot_limit:
            fault = refusal(429, 1303)
        if fault is None and self.find_all(self.create_ids[-1]):
            fault = refusal(400, 1201, "external_task_id already exists")
        made = None
        if fault is None or self.create_despite_fault:
            made = self.add_task(content)
        if self.create_gate is not None:
            await self.create_gate.wait()
        if isinstance(fault, KlingUncertain):
            raise fault
        if fault is not None or made is None:
            return KlingResponse(status=400, headers={}, body=b'{"code":1,"message":"no"}', error=fault)
        return _response(made.status_body())

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Return a task by Kling's id or the external id."""
        del endpoint
        fault = await self._record_query([task_id])
        if fault is not None:
            return KlingResponse(status=500, headers={}, body=b"{}", error=fault)
        found = self.tasks.get(task_id) or next(iter(self.find_all(task_id)), None)
        if found is None:
            return KlingResponse(status=404, headers={}, body=b"{}", error=refusal(404, 1203, "task not found"))
        return _response(found.status_body())

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        """Return several tasks by Kling's ids, without unknown ids and ``hidden_ids``."""
        del endpoint
        fault = await self._record_query(task_ids)
        if fault is not None:
            raise fault
        known = [
            self.tasks[task_id] for task_id in task_ids if task_id in self.tasks and task_id not in self.hidden_ids
        ]
        return {task.id: _response(task.status_body()) for task in known}

    async def _record_query(self, task_ids: Sequence[str]) -> KlingError | None:
        """Count a query. Return the first fault set for any of its tasks, or raise it as the client does."""
        self.query_batches.append(list(task_ids))
        self.queries += [(task_id, self.clock.now()) for task_id in task_ids]
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
        finally:
            self.in_flight -= 1
        set_for = self.query_fault
        faults = [set_for(task_id) if callable(set_for) else set_for for task_id in task_ids]
        fault = next((fault for fault in faults if fault is not None), None)
        if isinstance(fault, KlingUncertain) or (fault is not None and fault.code == "kling_unreachable"):
            raise fault
        return fault

    async def find_by_external_id(self, endpoint: str, external_task_id: str) -> KlingResponse | None:
        """Look up a task by its external id."""
        del endpoint
        self.lookups.append(external_task_id)
        await asyncio.sleep(0)
        if self.lookup_fault is not None:
            raise self.lookup_fault
        found = next(iter(self.find_all(external_task_id)), None)
        return None if found is None else _response(found.status_body())

    def _running_count(self) -> int:
        return sum(task.status not in ("succeed", "failed") for task in self.tasks.values())


def _response(body: bytes) -> KlingResponse:
    return KlingResponse(status=200, headers={}, body=body, report=protocol.parse_status(body))


class IdleClock(FakeClock):
    """A fake clock that counts idle waits."""

    def __init__(self, at: datetime = START) -> None:
        super().__init__(at)
        self.idle_waiters = 0

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if event.is_set() or (until is not None and until <= self.now()):
            await asyncio.sleep(0)
            return event.is_set()
        self.idle_waiters += 1
        try:
            return await super().wait(event, until=until)
        finally:
            self.idle_waiters -= 1


class TaskSystem:
    """All services, wired as in the real service."""

    def __init__(
        self, store: SqliteStore, kling: Any, settings: Settings, clock: IdleClock, *, newest_id: str = ""
    ) -> None:
        self.store = store
        self.kling = kling
        self.settings = settings
        self.clock = clock
        self.notifiers = Notifiers()
        self.ids = Ids(clock, after=newest_id)
        event_factory = EventFactory(compile_routes(settings.routes), self.ids)
        self.task_alerts = TaskAlerts(
            store, store, event_factory, public_url=settings.public.url, notifiers=self.notifiers, clock=clock
        )
        self.inbox = Inbox(
            store,
            event_factory,
            callbacks=settings.callbacks,
            poll=settings.poll,
            notifiers=self.notifiers,
            clock=clock,
            ids=self.ids,
            health_observer=self.task_alerts if settings.public.url else None,
        )
        self.recorder = CreateRecorder(store, event_factory, poll=settings.poll, notifiers=self.notifiers, clock=clock)
        self.recovery = CreateRecovery(
            store, kling, self.recorder, store, settings=settings, notifiers=self.notifiers, clock=clock
        )
        self.executor = CreateExecutor(
            store, kling, self.recorder, self.recovery, self.task_alerts, settings=settings, clock=clock
        )
        self.submitter = Submitter(
            store, self.executor, self.recorder, settings=settings, notifiers=self.notifiers, clock=clock, ids=self.ids
        )
        self.poller = Poller(
            store,
            kling,
            self.inbox,
            self.task_alerts,
            timeout=settings.kling.timeout,
            tasks_notifier=self.notifiers.tasks,
            clock=clock,
            latest=self.ids.latest,
        )
        self.batch_service = BatchService(store.batches, event_factory, notifiers=self.notifiers, clock=clock)
        self._workers: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all workers inside the block."""
        stop = asyncio.Event()
        parts = (self.poller, self.recovery, self.submitter, self.batch_service)
        self._workers = [asyncio.create_task(part.run(stop)) for part in parts]
        try:
            await self.settle()
            yield
        finally:
            stop.set()
            if isinstance(self.kling, FakeKling) and self.kling.create_gate is not None:
                self.kling.create_gate.set()
            self.notifiers.notify_all()
            await asyncio.gather(*self._workers)
            self._workers = []

    async def settle(self) -> None:
        """Wait until all work that is due now is done."""
        quiet = 0
        async with asyncio.timeout(30):
            while quiet < 3:
                await asyncio.sleep(0.0005)
                for work in self._workers:
                    assert not work.done(), work
                quiet = quiet + 1 if self._is_idle() else 0

    def _is_idle(self) -> bool:
        under_way = len(self.poller._in_flight) + len(self.recovery._in_flight)
        under_way -= self.kling.blocked if isinstance(self.kling, FakeKling) else 0
        if not (isinstance(self.kling, FakeKling) and self.kling.create_gate is not None):
            under_way += len(self.submitter._spawned)
        return under_way == 0 and self.clock.idle_waiters == len(self._workers)

    async def advance(self, seconds: float, *, step: float = 1.0) -> None:
        """Advance the clock in steps, and let each step's work finish."""
        left = seconds
        while left > 0:
            self.clock.advance(timedelta(seconds=min(step, left)))
            left -= step
            await self.settle()

    async def submit(self, **fields: Any) -> Task:
        """Submit a job."""
        request = {"endpoint": ENDPOINT, "body": JOB} | fields
        return (await self.submitter.submit(SubmitRequest(**request))).task

    async def task(self, ref: str) -> Task:
        """Return a stored task."""
        task = await self.store.task(ref)
        assert task is not None
        return task

    async def push(self, token: str, body: bytes) -> bool:
        """Push a callback."""
        return await self.inbox.accept_callback(token, [("content-type", "application/json")], body)

    async def push_outcomes(self, task_id: str) -> list[str]:
        """Return the outcome of each push of a task."""
        return [push.outcome.value for push in await self.store.pushes(task_id)]

    async def event_types(self, task_id: str | None = None) -> list[str]:
        """Return the types of all events, oldest first."""
        found: list[Event] = []
        cursor = None
        while True:
            page = await self.store.events(task_id=task_id, limit=200, cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None:
                return [event.type for event in reversed(found)]

    async def alerts(self, kind: str) -> list[Json]:
        """Return the data of all alerts of a kind, oldest first."""
        page = await self.store.events(types=[f"alert.{kind}"], limit=200)
        return [json.loads(event.envelope)["data"] for event in reversed(page.items)]


def a_configuration(**changes: Any) -> Settings:
    """Settings with a public URL and one route for all events."""
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
async def a_task_system(
    folder: Path,
    *,
    kling: Any = None,
    clock: IdleClock | None = None,
    kling_settings: KlingSettings | None = None,
    **changes: Any,
) -> AsyncIterator[TaskSystem]:
    """Open a task system on the store in *folder*, as it was left there."""
    if kling_settings is not None:
        changes["kling"] = kling_settings
    clock = clock or IdleClock()
    store = await SqliteStore.open(folder / "receiver.db")
    async with contextlib.aclosing(store):
        newest = await store.newest_id()
        yield TaskSystem(store, kling or FakeKling(clock), a_configuration(**changes), clock, newest_id=newest)
