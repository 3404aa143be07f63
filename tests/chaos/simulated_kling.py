"""Kling at its worst: refuses, loses answers, makes tasks in silence, pushes twice, late, never, or rubbish."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import unquote, urlsplit

from chaos.simulated_network import outside

from receiver.net.http_client import Reply

FINAL = ("succeed", "failed")
_STUCK = 72 * 3600.0
_REFUSALS = ((0.2, 429, 1302), (0.3, 400, 1301), (0.4, 429, 1102), (0.6, 500, 5000))


@dataclass(slots=True)
class Made:
    """One task as Kling has it: the truth."""

    id: str
    external_id: str | None
    endpoint: str
    weight: int
    callback_url: str | None
    made_at: float
    state: str = "submitted"
    result: list[dict[str, Any]] = field(default_factory=list)
    ended_at: float | None = None
    hollow_until: float = 0.0

    def document(self, at: float) -> dict[str, Any]:
        """Give the task as Kling tells of it."""
        images = self.result if at >= self.hollow_until else []
        return {
            "task_id": self.id,
            "task_status": self.state,
            "task_status_msg": "it did not work out" if self.state == "failed" else "",
            "task_info": {"external_task_id": self.external_id} if self.external_id else {},
            "created_at": 1,
            "updated_at": 2,
            **({"task_result": {"images": images}} if self.state == "succeed" else {}),
        }


Push = Callable[[str, bytes], Awaitable[None]]


class Vendor:
    """Makes tasks, ends them after a while, tells of it by callbacks, answers questions."""

    def __init__(self, rng: Random, push: Push, tasks: dict[str, Made], *, slots: int) -> None:
        self._rng = rng
        self._push = push
        self._slots = slots
        self.tasks = tasks
        self.trouble = 0.1

    def serve(self, method: str, path: str, _headers: dict[str, str], body: bytes) -> Reply:
        """Answer a request."""
        if self._rng.random() < self.trouble / 2:
            return _refusal(503, 5001)
        where = urlsplit(path).path.removeprefix("/v1/")
        if method == "POST":
            return self._create(where, json.loads(body))
        endpoint, _, name = where.rpartition("/")
        return self._tell(endpoint, unquote(name))

    def _create(self, endpoint: str, body: dict[str, Any]) -> Reply:
        luck = self._rng.random() / self.trouble if self.trouble else 1.0
        for below, status, code in _REFUSALS:
            if luck < below:
                return _refusal(status, code)
        weight = int(body.get("n", 1))
        if sum(task.weight for task in self.tasks.values() if task.ended_at is None) + weight > self._slots:
            return _refusal(429, 1303)
        made = self.make(endpoint, body)
        if luck < 0.8:
            return _refusal(504, 5002)  # it says that it failed, and it did not
        return _answer({"task_id": made.id, "task_status": "submitted", "task_info": {}, "created_at": 1})

    def make(self, endpoint: str, body: dict[str, Any]) -> Made:
        """Make a task, whoever asked for it."""
        made = Made(
            id=f"{867_000_000_000 + len(self.tasks)}",
            external_id=body.get("external_task_id"),
            endpoint=endpoint,
            weight=int(body.get("n", 1)),
            callback_url=body.get("callback_url"),
            made_at=self._now(),
        )
        self.tasks[made.id] = made
        outside(self._work(made))
        return made

    def _tell(self, endpoint: str, name: str) -> Reply:
        found = [
            task for task in self.tasks.values() if task.endpoint == endpoint and name in (task.id, task.external_id)
        ]
        if not found:
            return _refusal(404, 1203, "task not found")
        return _answer(found[-1].document(self._now()))

    async def _work(self, task: Made) -> None:
        """Live through a task's life."""
        if self._rng.random() < 0.3:
            self._announce(task)
        await asyncio.sleep(self._rng.uniform(1, 60))
        task.state = "processing"
        self._announce(task)
        if self._rng.random() < 0.02:
            await asyncio.sleep(_STUCK)
        await asyncio.sleep(self._rng.expovariate(1 / 600))
        task.state = "failed" if self._rng.random() < 0.15 else "succeed"
        task.ended_at = self._now()
        task.result = [{"index": n, "url": f"https://cdn.kling.test/{task.id}/{n}.png"} for n in range(task.weight)]
        if self._rng.random() < 0.05:
            task.hollow_until = self._now() + self._rng.uniform(1, 60)
        self._announce(task)

    def _announce(self, task: Made) -> None:
        """Push a task's state as it is now, with all that can go wrong on the way."""
        if task.callback_url is None:
            return
        body = json.dumps(task.document(self._now())).encode()
        for _ in range(self._rng.choices([0, 1, 2, 5], [0.15, 0.65, 0.15, 0.05])[0]):
            cut_off = self._rng.random() < 0.02
            outside(self._send(task.callback_url, body[: len(body) // 2] if cut_off else body))

    async def _send(self, url: str, body: bytes) -> None:
        late = self._rng.choices([0.1, 30.0, 3600.0, 86400.0], [0.8, 0.1, 0.08, 0.02])[0]
        await asyncio.sleep(self._rng.expovariate(1 / late))
        await self._push(url, body)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _answer(data: dict[str, Any]) -> Reply:
    body = json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data}).encode()
    return Reply(status=200, headers={"content-type": "application/json"}, body=body)


def _refusal(status: int, code: int, words: str = "no") -> Reply:
    body = json.dumps({"code": code, "message": words, "request_id": "r"}).encode()
    return Reply(status=status, headers={"content-type": "application/json"}, body=body)
