"""A Kling whose tasks take as long as its models need, and what is measured of the polls for them. In virtual time."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chaos.simulated_host import HostDownError, SimulatedHost
from chaos.simulated_network import spawn_detached
from harness.clock import START

from receiver.net.http_client import BeforeSend, HttpResponse

HOST = "http://api.klingai.com"
LEAST_SECONDS, MOST_SECONDS = 10.0, 600.0
MAX_POLLS = 12
_LATENCY = (0.03, 0.12)  # seconds, each way


@dataclass(frozen=True, slots=True)
class Model:
    """Tasks of one kind: their endpoint and body, and the lognormal distribution of their durations."""

    endpoint: str
    median: float
    spread: float
    body: Mapping[str, Any] = field(default_factory=dict)

    def duration(self, rng: Random) -> float:
        """Draw a duration; one task of fifty takes twice as long."""
        drawn = self.median * math.exp(rng.gauss(0.0, self.spread)) * (2 if rng.random() < 0.02 else 1)
        return min(max(drawn, LEAST_SECONDS), MOST_SECONDS)


@dataclass(slots=True)
class TimedTask:
    """A task at Kling: when it began and ends, its polls, and when a poll saw its end."""

    id: str
    model: str
    duration: float
    began_at: float
    callback_url: str | None
    external_id: str | None
    polls: int = 0
    seen_at: float | None = None

    @property
    def lateness(self) -> float:
        """The seconds from its end until a poll saw it."""
        return math.inf if self.seen_at is None else self.seen_at - self.began_at - self.duration

    @property
    def is_in_time(self) -> bool:
        """Whether its end was seen within a tenth of its duration: at least 1 s, at most 15 s."""
        return self.lateness <= min(max(self.duration / 10, 1.0), 15.0)


@dataclass(slots=True)
class TimedKling:
    """Answers creates and queries. It calls back only if ``calls_back``, and says when if ``says_times``."""

    models: Sequence[Model]
    rng: Random = field(default_factory=lambda: Random(11))
    calls_back: bool = False
    says_times: bool = True
    tasks: dict[str, TimedTask] = field(default_factory=dict)
    queries: list[float] = field(default_factory=list)
    host: SimulatedHost | None = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,  # noqa: ARG002 -- any key is good
        content: bytes = b"",
        time_limit: timedelta,  # noqa: ARG002 -- it always answers
        max_body: int,  # noqa: ARG002 -- answers are small
        reuse: bool = True,  # noqa: ARG002 -- there are no connections
        before_send: BeforeSend | None = None,
    ) -> HttpResponse:
        """Answer a request after a while."""
        if before_send is not None:
            await before_send()
        await asyncio.sleep(self.rng.uniform(*_LATENCY))
        answer = self._answer(method, urlsplit(url), content)
        await asyncio.sleep(self.rng.uniform(*_LATENCY))
        body = json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r", "data": answer}).encode()
        return HttpResponse(status=200, headers={"content-type": "application/json"}, body=body)

    async def aclose(self) -> None:
        """Do nothing: no connection is ever open."""

    def _answer(self, method: str, url: Any, content: bytes) -> Any:
        path = url.path.removeprefix("/v1/").strip("/")
        if method == "POST":
            return self._create(path, json.loads(content))
        self.queries.append(self._now())
        if path == "tasks":
            return [self._new_status(self._poll(name)) for name in parse_qs(url.query)["task_ids"][0].split(",")]
        return self._status(self._poll(path.rpartition("/")[2]))

    def _create(self, path: str, body: Mapping[str, Any]) -> Any:
        model = next(
            each
            for each in self.models
            if each.endpoint == path and all(body.get(name) == value for name, value in each.body.items())
        )
        options = body.get("options", body)
        task = TimedTask(
            id=f"{900_000 + len(self.tasks)}",
            model=f"{path} {' '.join(map(str, model.body.values()))}".strip(),
            duration=model.duration(self.rng),
            began_at=self._now(),
            callback_url=options.get("callback_url"),
            external_id=options.get("external_task_id"),
        )
        self.tasks[task.id] = task
        if self.calls_back and task.callback_url:
            spawn_detached(self._call_back(task))
        return self._new_status(task) if "/kling" in path else self._status(task)

    def _poll(self, name: str) -> TimedTask:
        task = self.tasks[name]
        task.polls += 1
        if task.seen_at is None and self._has_ended(task):
            task.seen_at = self._now()
        return task

    def _has_ended(self, task: TimedTask) -> bool:
        return self._now() >= task.began_at + task.duration

    def _status(self, task: TimedTask) -> dict[str, Any]:
        ended = self._has_ended(task)
        told = {
            "task_id": task.id,
            "task_status": "succeed" if ended else "processing",
            "task_info": {"external_task_id": task.external_id},
            "task_result": {"images": [{"index": 0, "url": "https://cdn.example.com/0.png"}]} if ended else {},
        }
        return told | ({"updated_at": self._changed_ms(task)} if self.says_times else {})

    def _new_status(self, task: TimedTask) -> dict[str, Any]:
        ended = self._has_ended(task)
        told = {
            "id": task.id,
            "status": "succeeded" if ended else "processing",
            "external_id": task.external_id,
            "outputs": [{"type": "video", "url": "https://cdn.example.com/0.mp4"}] if ended else [],
        }
        return told | ({"update_time": self._changed_ms(task)} if self.says_times else {})

    def _changed_ms(self, task: TimedTask) -> int:
        seconds = task.began_at + task.duration if self._has_ended(task) else task.began_at
        return int((START.timestamp() + seconds) * 1000)

    async def _call_back(self, task: TimedTask) -> None:
        await asyncio.sleep(task.duration + 0.2)
        assert self.host is not None
        assert task.callback_url is not None
        headers = {"host": "hooks.test", "content-type": "application/json"}
        body = json.dumps(self._status(task)).encode()
        try:
            await self.host.call("public", "POST", urlsplit(task.callback_url).path, headers=headers, body=body)
        except HostDownError:
            return

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class PollFigures:
    """What was measured of some tasks."""

    tasks: Sequence[TimedTask]

    @property
    def in_time(self) -> float:
        """The ratio of tasks whose end was seen in time, with at most 12 polls."""
        return sum(task.is_in_time and task.polls <= MAX_POLLS for task in self.tasks) / len(self.tasks)

    @property
    def known(self) -> "PollFigures":
        """The tasks that began after the first of their model had ended: how long they take could be known."""
        first: dict[str, float] = {}
        for task in self.tasks:
            ended_at = task.began_at + task.duration
            first[task.model] = min(ended_at, first.get(task.model, ended_at))
        return PollFigures([task for task in self.tasks if task.began_at > first[task.model]])

    def report(self, title: str) -> str:
        """Return the figures in lines, by model and in total."""
        models = sorted({task.model for task in self.tasks})
        parts = [PollFigures([task for task in self.tasks if task.model == model])._line(model) for model in models]
        return "\n".join(
            [f"{title}: {len(self.tasks)} tasks", *parts, self._line("all"), self.known._line("all of a known kind")]
        )

    def _line(self, name: str) -> str:
        late = sorted(task.lateness / task.duration for task in self.tasks)
        polls = sorted(task.polls for task in self.tasks)
        median, p95 = len(late) // 2, int(len(late) * 0.95)
        return (
            f"  {name:45} in time {self.in_time:6.1%}  lateness p50 {late[median]:5.1%} p95 {late[p95]:5.1%}  "
            f"polls mean {sum(polls) / len(polls):4.1f} p95 {polls[p95]:2} max {polls[-1]:2}"
        )
