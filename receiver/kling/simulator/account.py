"""The simulated account: which tasks there are, what slots they hold, how each goes on until its end."""

import asyncio
import base64
import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self

from receiver.domain.clock import Clock
from receiver.domain.model import Json
from receiver.kling.simulator.callback_sender import Courier
from receiver.kling.simulator.endpoints import Endpoint, Endpoints, Refusal, addressing, check, prompt_of
from receiver.kling.simulator.faults import FaultBoard, Faults, duration, plain
from receiver.kling.simulator.observer import Watch, unwatched
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.results import Results
from receiver.kling.simulator.scheduler import Agenda
from receiver.kling.simulator.tasks import (
    FAILED,
    PROCESSING,
    SUBMITTED,
    SUCCEED,
    News,
    Result,
    Task,
    millis,
    render,
    result_of,
)

_PACE = ("submitted_for", "processing_for", "slow_for")
_FAIL_MARK = re.compile(r"\[fail(?:\s*:\s*([^\]]*))?\]")
_SECOND = timedelta(seconds=1)
_LONG = 4096
# Ids as Kling's look: most are numbers of eighteen digits that grow with time, some are not numbers at all.
_ID_EPOCH_MS = 1_568_000_000_000
_ID_CHANCE_BITS = 22
_OPAQUE_SHARE = 0.2
_GATEWAY_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Simulator:
    """An account of Kling's behind its API. While entered it can send callbacks; :meth:`run` moves its tasks on."""

    def __init__(self, options: Options, *, clock: Clock, rng: Random, base_url: str, watch: Watch = unwatched) -> None:
        self.options = options
        self.clock = clock
        self.url = base_url
        self.watch = watch
        self.endpoints = Endpoints(options.endpoints)
        self.board = FaultBoard(options.faults)
        self.stopping = asyncio.Event()
        self.creates: deque[Json] = deque(maxlen=options.keep)
        self.counts = dict.fromkeys(("creates", "created", "queries", "lists", "results"), 0)
        # A generator for each purpose, so that how often somebody asks does not change what happens to the tasks.
        tasks, requests, names, courier = (Random(rng.getrandbits(64)) for _ in range(4))  # noqa: S311 - to be repeatable
        self.chance = requests
        self._task_chance, self._name_chance = tasks, names
        self._agenda = Agenda(clock)
        self._courier = Courier(options, clock=clock, rng=courier, agenda=self._agenda, board=self.board, watch=watch)
        self.results = Results(
            base_url=options.public_url or base_url, key=rng.randbytes(32), lifetime=options.results_for
        )
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._known: dict[str, Task] = {}  # by Kling's id and, behind a gateway, by the gateway's
        self._external: dict[str, Task] = {}
        self._used = dict.fromkeys(options.slots, 0)
        self._admitted: deque[datetime] = deque()
        self._last_id = 0

    async def __aenter__(self) -> Self:
        await self._courier.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._courier.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Move the tasks on until :meth:`stop`."""
        await self._agenda.run(self.stopping)

    def stop(self) -> None:
        """End :meth:`run`, and every answer that is being held back."""
        self.stopping.set()

    def admit(self) -> None:
        """Refuse a create that follows too soon on others."""
        if not self.options.rate:
            return
        now = self.clock.now()
        while self._admitted and self._admitted[0] <= now - _SECOND:
            self._admitted.popleft()
        if len(self._admitted) >= self.options.rate:
            raise Refusal(1302)
        self._admitted.append(now)

    def create(self, endpoint: Endpoint, body: Json) -> Task:
        """Make a task out of a client's body, or refuse it; from then on it goes its way by itself."""
        strings_too = self.options.dialect == "gateway"
        check(endpoint, body, strings_too=strings_too, images_too=self.options.check_images)
        if "[unsafe]" in prompt_of(body):
            raise Refusal(1301)
        where = addressing(endpoint, body)
        external = str(where.get("external_task_id") or "")
        if external and self.board.strikes("drop_external", self.chance):
            external = ""
        if external in self._external:
            raise Refusal(1201, "external_task_id already exists")
        weight = endpoint.weight(body)
        self._take_slots(endpoint, weight)
        task = self._make(
            endpoint, body, external=external, callback_url=where.get("callback_url") or None, weight=weight
        )
        self._remember(task)
        self._start(task)
        return task

    def find(self, reference: str, endpoint: Endpoint) -> Task | None:
        """Find a task of *endpoint* by Kling's id, a gateway's, or the client's own."""
        task = self.known(reference) or self.called(reference)
        return task if task is not None and task.endpoint == endpoint else None

    def known(self, task_id: str) -> Task | None:
        """Find a task by Kling's id, or a gateway's."""
        return self._known.get(task_id)

    def called(self, external_task_id: str) -> Task | None:
        """Find a task by the client's own id."""
        return self._external.get(external_task_id)

    def newest(self, endpoint: Endpoint | None = None) -> Iterator[Task]:
        """Go through the tasks of an endpoint, or those of the new generation, newest first."""
        for task in reversed(self._tasks.values()):
            if task.endpoint == endpoint or (endpoint is None and task.endpoint.is_new):
                yield task

    def tell(self, task: Task) -> Json:
        """Tell how a task stands, as the answer to a query does."""
        now, news = self.clock.now(), task.news
        if task.result_at is not None and now < task.result_at:
            news = replace(news, result={})
        elif news.result and self.board.strikes("fresh_urls", self.chance):
            signed_at = max(now, news.at + _SECOND * (task.queries + 1))  # never the same twice
            news = replace(news, result=self._result(task, at=signed_at))
        task.queries += 1
        return render(task, news, shown_id=task.shown_id)

    def change(self, given: Mapping[str, object]) -> None:
        """Set faults or the pace by name; what means nothing is a ValueError, and then nothing changes."""
        pace: dict[str, Any] = {name: duration(given[name]) for name in _PACE if name in given}
        faults = {name: value for name, value in given.items() if name not in _PACE}
        self.board.faults = Faults.read(faults, self.board.faults)
        self.options = replace(self.options, **pace)

    def send_test(self, url: str) -> Json:
        """Send a callback as the vendor's console does to try a URL."""
        return self._courier.send_test(url)

    def request_id(self) -> str:
        """Make the id that each answer carries."""
        return f"{self._name_chance.getrandbits(128):032x}"

    def shown_settings(self) -> Json:
        """Give the pace and the faults in force."""
        return {name: plain(getattr(self.options, name)) for name in _PACE} | self.board.shown()

    def state(self) -> Json:
        """Give all that was seen, made and sent, oldest first."""
        courier = self._courier
        counts = {
            "callbacks": courier.count,
            "callbacks_answered": courier.answered,
            "callbacks_dropped": courier.dropped,
        }
        return {
            "url": self.url,
            "faults": self.shown_settings(),
            "counts": self.counts | counts,
            "slots": {pack: {"used": self._used[pack], "limit": limit} for pack, limit in self.options.slots.items()},
            "tasks": [_shown(task) for task in self._tasks.values()],
            "creates": list(self.creates),
            "pushes": list(courier.sent),
        }

    def _take_slots(self, endpoint: Endpoint, weight: int) -> None:
        if endpoint.pack is None:
            return
        limit = self.options.slots[endpoint.pack]
        if limit and self._used[endpoint.pack] + weight > limit:
            raise Refusal(1303)
        self._used[endpoint.pack] += weight

    def _make(self, endpoint: Endpoint, body: Json, *, external: str, callback_url: str | None, weight: int) -> Task:
        task_id, now = self._new_id(), self.clock.now()
        rng = Random(self._task_chance.getrandbits(64))  # noqa: S311 - the task's own, to be repeatable whatever runs beside it
        gateway_id = "task_01" + "".join(rng.choices(_GATEWAY_ALPHABET, k=24))
        return Task(
            id=task_id,
            shown_id=gateway_id if self.board.strikes("gateway_ids", rng) else task_id,
            endpoint=endpoint,
            body=abridged(body),
            external_task_id=external,
            callback_url=callback_url,
            rng=rng,
            created_at=now,
            news=News(status=SUBMITTED, at=now),
            weight=weight,
        )

    def _new_id(self) -> str:
        if self._name_chance.random() < _OPAQUE_SHARE:
            return base64.urlsafe_b64encode(self._name_chance.randbytes(16)).rstrip(b"=").decode()
        grown = millis(self.clock.now()) - _ID_EPOCH_MS << _ID_CHANCE_BITS | self._name_chance.getrandbits(
            _ID_CHANCE_BITS
        )
        self._last_id = max(self._last_id + 1, grown)
        return str(self._last_id)

    def _remember(self, task: Task) -> None:
        self.counts["created"] += 1
        self._tasks[task.id] = self._known[task.id] = self._known[task.shown_id] = task
        if task.external_task_id:
            self._external[task.external_task_id] = task
        while len(self._tasks) > self.options.keep:
            _, oldest = self._tasks.popitem(last=False)
            for index, name in ((self._known, oldest.id), (self._known, oldest.shown_id)):
                index.pop(name, None)
            self._external.pop(oldest.external_task_id, None)

    def _start(self, task: Task) -> None:
        if task.endpoint.answers_at_once:
            self._end(task)
            return
        if self.options.push_submitted:
            self._courier.tell(task, task.news)
        self._agenda.at(self.clock.now() + self.options.submitted_for, partial(self._process, task))

    def _process(self, task: Task) -> None:
        self._publish(task, News(status=PROCESSING, at=self.clock.now()))
        prompt = prompt_of(task.body)
        if self.board.strikes("stall", task.rng) or "[stuck]" in prompt:
            return
        is_slow = self.board.strikes("slow", task.rng) or "[slow]" in prompt
        lasts = self.options.slow_for if is_slow else self.options.processing_for
        self._agenda.at(self.clock.now() + lasts, partial(self._end, task))

    def _end(self, task: Task) -> None:
        if task.endpoint.pack is not None:
            self._used[task.endpoint.pack] -= task.weight
        now, marked = self.clock.now(), _FAIL_MARK.search(prompt_of(task.body))
        if marked or self.board.strikes("fail", task.rng):
            reason = (marked and marked[1]) or self.board.faults.fail_reason
            self._publish(task, News(status=FAILED, at=now, message=reason))
            return
        is_empty = "[empty]" in prompt_of(task.body) or self.board.strikes("result_missing", task.rng)
        news = News(status=SUCCEED, at=now, result={} if is_empty else self._result(task, at=now))
        if self.board.strikes("result_late", task.rng):
            task.result_at = now + self.board.faults.result_late_by
            self._publish(task, news, told=replace(news, result={}))
        else:
            self._publish(task, news)

    def _publish(self, task: Task, news: News, *, told: News | None = None) -> None:
        task.news = news
        self.watch(
            "task.changed", task_id=task.id, endpoint=task.endpoint.path, status=news.status, message=news.message
        )
        self._courier.tell(task, told or news)

    def _result(self, task: Task, *, at: datetime) -> Result:
        return result_of(task.endpoint, task.body, task.id, lambda name: self.results.url(task.id, name, at=at))


def abridged(value: Any) -> Any:  # noqa: ANN401 - any JSON there is
    """Shorten what is too long to be remembered ten thousand times: the images in a body."""
    match value:
        case str() if len(value) > _LONG:
            return f"{value[:32]}... ({len(value)} characters)"
        case dict():
            return {name: abridged(part) for name, part in value.items()}
        case list():
            return [abridged(part) for part in value]
        case _:
            return value


def _shown(task: Task) -> Json:
    return {
        "id": task.id,
        "shown_id": task.shown_id,
        "endpoint": task.endpoint.path,
        "external_task_id": task.external_task_id,
        "callback_url": task.callback_url,
        "status": task.news.status,
        "message": task.news.message,
        "created_at": millis(task.created_at),
        "updated_at": millis(task.news.at),
        "slots": task.weight if task.endpoint.pack else 0,
        "queries": task.queries,
        "told": task.told.is_set(),
        "body": task.body,
    }
