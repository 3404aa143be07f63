"""A fake Kling for tests of submission and tracking: creates tasks, reports them, and fails as a test sets."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.clock import START, FakeClock

from receiver.domain.errors import KlingError, KlingUncertain, NoResponse
from receiver.domain.model import Json, StatusReport
from receiver.kling import protocol
from receiver.kling.client import KlingResponse
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough

if TYPE_CHECKING:
    from datetime import datetime

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
        body: Json = {"task_id": self.id, "task_status": self.status, "task_status_msg": self.message}
        body["task_info"] = {"external_task_id": self.external_task_id} if self.external_task_id else {}
        return json.dumps(body | {"task_result": self.result} | self.cost | more).encode()

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
    ``on_open`` is called while the connection for a create is opened. ``create_gate`` blocks creates until it is set;
    ``blocked`` is the number of queries and lookups that a test's own subclass keeps waiting.
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
        self.on_open: Callable[[], None] = lambda: None
        self.blocked = 0
        self.in_flight = 0
        self.max_in_flight = 0

    def add_task(self, body: bytes) -> KlingTask:
        """Create a task."""
        printed = json.loads(body)
        printed = printed.get("options", printed)
        own_id = None if self.drops_external_ids else printed.get("external_task_id")
        task = KlingTask(
            id=f"k{len(self.tasks) + 1}", external_task_id=own_id, callback_url=printed.get("callback_url")
        )
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
        self,
        endpoint: str,
        content: bytes,
        *,
        pass_through: PassThrough = NO_PASS_THROUGH,
        before_send: Callable[[], Awaitable[None]] | None = None,
    ) -> KlingResponse:
        """Create a task."""
        del endpoint, pass_through
        self.on_open()
        if before_send is not None:
            await before_send()
        printed = json.loads(content)
        self.create_ids.append(printed.get("options", printed).get("external_task_id", ""))
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
