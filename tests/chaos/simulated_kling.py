"""A hostile Kling: refuses, loses answers, creates tasks silently, and pushes twice, late, never, or garbage."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

from chaos.simulated_network import spawn_detached

from receiver.net.http_client import HttpResponse

FINAL = ("succeed", "failed")
_STUCK_SECONDS = 72 * 3600.0
_ERRORS = ((0.2, 429, 1302), (0.3, 400, 1301), (0.4, 429, 1102), (0.6, 500, 5000))


@dataclass(slots=True)
class SimulatedTask:
    """One task at Kling: the truth."""

    id: str
    external_id: str | None
    endpoint: str
    weight: int
    callback_url: str | None
    created_at: float
    state: str = "submitted"
    result: list[dict[str, Any]] = field(default_factory=list)
    ended_at: float | None = None
    empty_until: float = 0.0

    def status_json(self, at: float) -> dict[str, Any]:
        """Return the task as Kling reports it."""
        images = self.result if at >= self.empty_until else []
        return {
            "task_id": self.id,
            "task_status": self.state,
            "task_status_msg": "it did not work out" if self.state == "failed" else "",
            "task_info": {"external_task_id": self.external_id} if self.external_id else {},
            "created_at": 1,
            "updated_at": 2,
            **({"task_result": {"images": images}} if self.state == "succeed" else {}),
        }


SendPush = Callable[[str, bytes], Awaitable[None]]


class SimulatedKling:
    """Creates tasks, finishes them after a while, sends callbacks, and answers queries."""

    def __init__(
        self,
        rng: Random,
        push: SendPush,
        tasks: dict[str, SimulatedTask],
        *,
        slots: int,
        pace: float = 1.0,
        stuck_seconds: float = _STUCK_SECONDS,
    ) -> None:
        """*pace* is how many times faster than usual tasks end and pushes arrive."""
        self._rng = rng
        self._push = push
        self._slots = slots
        self._pace = pace
        self._stuck_seconds = stuck_seconds
        self.tasks = tasks
        self.fault_rate = 0.1

    def serve(self, method: str, path: str, _headers: dict[str, str], body: bytes) -> HttpResponse:
        """Answer a request."""
        if self._rng.random() < self.fault_rate / 2:
            return _error(503, 5001)
        where = urlsplit(path).path.removeprefix("/v1/")
        if method == "POST":
            return self._create(where, json.loads(body))
        endpoint, _, name = where.rpartition("/")
        return self._status(endpoint, unquote(name))

    def _create(self, endpoint: str, body: dict[str, Any]) -> HttpResponse:
        luck = self._rng.random() / self.fault_rate if self.fault_rate else 1.0
        for below, status, code in _ERRORS:
            if luck < below:
                return _error(status, code)
        weight = int(body.get("n", 1))
        if sum(task.weight for task in self.tasks.values() if task.ended_at is None) + weight > self._slots:
            return _error(429, 1303)
        made = self.create_task(endpoint, body)
        if luck < 0.8:
            return _error(504, 5002)  # the create succeeded although the answer is an error
        return _response({"task_id": made.id, "task_status": "submitted", "task_info": {}, "created_at": 1})

    def create_task(self, endpoint: str, body: dict[str, Any]) -> SimulatedTask:
        """Create a task for any client."""
        made = SimulatedTask(
            id=f"{867_000_000_000 + len(self.tasks)}",
            external_id=body.get("external_task_id"),
            endpoint=endpoint,
            weight=int(body.get("n", 1)),
            callback_url=body.get("callback_url"),
            created_at=self._now(),
        )
        self.tasks[made.id] = made
        spawn_detached(self._run_task(made))
        return made

    def _status(self, endpoint: str, name: str) -> HttpResponse:
        found = [
            task for task in self.tasks.values() if task.endpoint == endpoint and name in (task.id, task.external_id)
        ]
        if not found:
            return _error(404, 1203, "task not found")
        return _response(found[-1].status_json(self._now()))

    async def _run_task(self, task: SimulatedTask) -> None:
        """Run a task from creation to its end."""
        if self._rng.random() < 0.3:
            self._push_status(task)
        await asyncio.sleep(self._rng.uniform(1, 60) / self._pace)
        task.state = "processing"
        self._push_status(task)
        if self._rng.random() < 0.02:
            await asyncio.sleep(self._stuck_seconds)
        await asyncio.sleep(self._rng.expovariate(1 / 600) / self._pace)
        task.state = "failed" if self._rng.random() < 0.15 else "succeed"
        task.ended_at = self._now()
        task.result = [{"index": n, "url": f"https://cdn.kling.test/{task.id}/{n}.png"} for n in range(task.weight)]
        if self._rng.random() < 0.05:
            task.empty_until = self._now() + self._rng.uniform(1, 60)
        self._push_status(task)

    def _push_status(self, task: SimulatedTask) -> None:
        """Push the task's current state, with random faults on the way."""
        if task.callback_url is None:
            return
        body = json.dumps(task.status_json(self._now())).encode()
        for _ in range(self._rng.choices([0, 1, 2, 5], [0.15, 0.65, 0.15, 0.05])[0]):
            cut_off = self._rng.random() < 0.02
            spawn_detached(self._send_push(task.callback_url, body[: len(body) // 2] if cut_off else body))

    async def _send_push(self, url: str, body: bytes) -> None:
        late = self._rng.choices([0.1, 30.0, 3600.0, 86400.0], [0.8, 0.1, 0.08, 0.02])[0]
        await asyncio.sleep(self._rng.expovariate(1 / late) / self._pace)
        await self._push(url, body)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _response(data: dict[str, Any]) -> HttpResponse:
    body = json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data}).encode()
    return HttpResponse(status=200, headers={"content-type": "application/json"}, body=body)


def _error(status: int, code: int, message: str = "no") -> HttpResponse:
    body = json.dumps({"code": code, "message": message, "request_id": "r"}).encode()
    return HttpResponse(status=status, headers={"content-type": "application/json"}, body=body)
