"""The simulated account: its tasks, their slots, and their progress."""

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
from receiver.kling.simulator.callback_sender import CallbackSender
from receiver.kling.simulator.endpoints import (
    ApiError,
    Endpoint,
    Endpoints,
    callback_fields,
    prompt_of,
    validate,
    with_series_amount,
)
from receiver.kling.simulator.faults import ActiveFaults, Faults, to_json
from receiver.kling.simulator.ledgers import Ledgers
from receiver.kling.simulator.observer import Observer, ignore
from receiver.kling.simulator.options import Options, parse_option
from receiver.kling.simulator.results import Results
from receiver.kling.simulator.scheduler import Scheduler
from receiver.kling.simulator.slots import Slots
from receiver.kling.simulator.tasks import (
    FAILED,
    PROCESSING,
    SUBMITTED,
    SUCCEED,
    Result,
    Task,
    TaskUpdate,
    make_result,
    millis,
    render,
)

_TIMING_OPTIONS = ("submitted_for", "processing_for", "slow_for")
_FAIL_MARK = re.compile(r"\[fail(?:\s*:\s*([^\]]*))?\]")
_SECOND = timedelta(seconds=1)
_MAX_TEXT = 4096
# Like Kling's ids: most are eighteen-digit numbers that grow with time, some are not numbers.
_ID_EPOCH_MS = 1_568_028_518_778
_ID_RANDOM_BITS = 22
_OPAQUE_SHARE = 0.2
_GATEWAY_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Simulator:
    """A simulated account. Inside its context it can send callbacks; :meth:`run` advances its tasks."""

    def __init__(
        self, options: Options, *, clock: Clock, rng: Random, base_url: str, observer: Observer = ignore
    ) -> None:
        self.options = options
        self.clock = clock
        self.url = base_url
        self.observe = observer
        self.endpoints = Endpoints(options.endpoints)
        self.active_faults = ActiveFaults(options.faults)
        self.stopping = asyncio.Event()
        self.creates: deque[Json] = deque(maxlen=options.keep)
        self.counts = dict.fromkeys(("creates", "created", "queries", "lists", "results"), 0)
        # One generator per purpose, so the number of queries does not change what happens to tasks.
        tasks, requests, ids, callbacks = (Random(rng.getrandbits(64)) for _ in range(4))  # noqa: S311 - to be repeatable
        self.request_rng = requests
        self._task_rng, self._id_rng = tasks, ids
        self._scheduler = Scheduler(clock)
        self._callback_sender = CallbackSender(
            options,
            clock=clock,
            rng=callbacks,
            scheduler=self._scheduler,
            active_faults=self.active_faults,
            observer=observer,
        )
        self.results = Results(
            base_url=options.public_url or base_url, key=rng.randbytes(32), lifetime=options.results_for
        )
        self.ledgers = Ledgers(options, opened_at=clock.now())
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._by_id: dict[str, Task] = {}  # by Kling's id and by the gateway's id
        self._by_external_id: dict[str, Task] = {}
        self.slots = Slots(options.slots)
        self._recent_creates: deque[datetime] = deque()
        self._last_id = 0

    async def __aenter__(self) -> Self:
        await self._callback_sender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self._callback_sender.__aexit__(kind, error, trace)

    async def run(self) -> None:
        """Advance the tasks until :meth:`stop`."""
        await self._scheduler.run(self.stopping)

    def stop(self) -> None:
        """End :meth:`run` and every delayed answer."""
        self.stopping.set()

    def check_rate(self) -> None:
        """Raise ApiError if creates exceed the rate limit."""
        if not self.options.rate:
            return
        now = self.clock.now()
        while self._recent_creates and self._recent_creates[0] <= now - _SECOND:
            self._recent_creates.popleft()
        if len(self._recent_creates) >= self.options.rate:
            raise ApiError(1302)
        self._recent_creates.append(now)

    def create(self, endpoint: Endpoint, body: Json) -> Task:
        """Create and start a task from a client's body, or raise ApiError."""
        strings_too = self.options.dialect == "gateway"
        validate(endpoint, body, allow_strings=strings_too, decode_images=self.options.check_images)
        if "[unsafe]" in prompt_of(body):
            raise ApiError(1301)
        fields = callback_fields(endpoint, body)
        external = str(fields.get("external_task_id") or "")
        if external and self.active_faults.triggers("drop_external", self.request_rng):
            external = ""
        if external in self._by_external_id:
            raise ApiError(1201, "external_task_id already exists")
        body = with_series_amount(body, self._task_rng)
        slot_key, weight = self.slots.plan.key(endpoint, body), endpoint.slot_weight(body)
        self.slots.acquire(slot_key, weight)
        task = self._new_task(endpoint, body, external=external, callback_url=fields.get("callback_url") or None)
        task.slot_key, task.weight, task.price = slot_key, weight, self.ledgers.price(weight)
        self._store(task)
        self._start(task)
        return task

    def find(self, reference: str, endpoint: Endpoint) -> Task | None:
        """Return a task of *endpoint* by Kling's id, a gateway's id, or the external id."""
        task = self.by_id(reference) or self.by_external_id(reference)
        return task if task is not None and task.endpoint == endpoint else None

    def by_id(self, task_id: str) -> Task | None:
        """Return a task by Kling's id or a gateway's id."""
        return self._by_id.get(task_id)

    def by_external_id(self, external_task_id: str) -> Task | None:
        """Return a task by its external id."""
        return self._by_external_id.get(external_task_id)

    def newest(self, endpoint: Endpoint | None = None) -> Iterator[Task]:
        """Yield the tasks of an endpoint, or of the new generation, newest first."""
        for task in reversed(self._tasks.values()):
            if task.endpoint == endpoint or (endpoint is None and task.endpoint.is_new):
                yield task

    def status(self, task: Task) -> Json:
        """Return a task's status, as in the answer to a query."""
        now, update = self.clock.now(), task.update
        if task.result_at is not None and now < task.result_at:
            update = replace(update, result={})
        elif update.result and self.active_faults.triggers("fresh_urls", self.request_rng):
            signed_at = max(now, update.at + _SECOND * (task.query_count + 1))  # never the same URL twice
            update = replace(update, result=self._result(task, at=signed_at))
        task.query_count += 1
        return render(task, update, shown_id=task.shown_id)

    def configure(self, changes: Mapping[str, object]) -> None:
        """Set faults or timing by name; an invalid one raises ValueError and changes nothing."""
        timing: dict[str, Any] = {
            name: parse_option(name, changes[name]) for name in _TIMING_OPTIONS if name in changes
        }
        faults = {name: value for name, value in changes.items() if name not in _TIMING_OPTIONS}
        self.active_faults.current = Faults.parse(faults, self.active_faults.current)
        self.options = replace(self.options, **timing)

    def send_test(self, url: str) -> Json:
        """Send the test callback of the vendor's console to a URL."""
        return self._callback_sender.send_test(url)

    def new_request_id(self) -> str:
        """Return a new request id for an answer."""
        return f"{self._id_rng.getrandbits(128):032x}"

    def current_settings(self) -> Json:
        """Return the current timing and faults."""
        return {name: to_json(getattr(self.options, name)) for name in _TIMING_OPTIONS} | self.active_faults.as_json()

    def state(self) -> Json:
        """Return all recorded tasks, creates and callbacks, oldest first."""
        sender = self._callback_sender
        counts = {
            "callbacks": sender.count,
            "callbacks_answered": sender.answered,
            "callbacks_dropped": sender.dropped,
        }
        return {
            "url": self.url,
            "faults": self.current_settings(),
            "counts": self.counts | counts,
            "slots": self.slots.as_json(),
            "tasks": [_task_json(task) for task in self._tasks.values()],
            "creates": list(self.creates),
            "pushes": list(sender.sent),
        }

    def _new_task(self, endpoint: Endpoint, body: Json, *, external: str, callback_url: str | None) -> Task:
        task_id, now = self._new_id(), self.clock.now()
        rng = Random(self._task_rng.getrandbits(64))  # noqa: S311 - one per task, so a seed repeats it
        gateway_id = "task_01" + "".join(rng.choices(_GATEWAY_ALPHABET, k=24))
        return Task(
            id=task_id,
            shown_id=gateway_id if self.active_faults.triggers("gateway_ids", rng) else task_id,
            endpoint=endpoint,
            body=truncate_texts(body),
            external_task_id=external,
            callback_url=callback_url,
            rng=rng,
            created_at=now,
            update=TaskUpdate(status=SUBMITTED, at=now),
        )

    def _new_id(self) -> str:
        if self._id_rng.random() < _OPAQUE_SHARE:
            return base64.urlsafe_b64encode(self._id_rng.randbytes(16)).rstrip(b"=").decode()
        grown = millis(self.clock.now()) - _ID_EPOCH_MS << _ID_RANDOM_BITS | self._id_rng.getrandbits(_ID_RANDOM_BITS)
        self._last_id = max(self._last_id + 1, grown)
        return str(self._last_id)

    def _store(self, task: Task) -> None:
        self.counts["created"] += 1
        self._tasks[task.id] = self._by_id[task.id] = self._by_id[task.shown_id] = task
        if task.external_task_id:
            self._by_external_id[task.external_task_id] = task
        while len(self._tasks) > self.options.keep:
            _, oldest = self._tasks.popitem(last=False)
            for index, name in ((self._by_id, oldest.id), (self._by_id, oldest.shown_id)):
                index.pop(name, None)
            self._by_external_id.pop(oldest.external_task_id, None)

    def _start(self, task: Task) -> None:
        if task.endpoint.is_synchronous:
            self._finish(task)
            return
        if self.options.push_submitted:
            self._callback_sender.send_update(task, task.update)
        self._scheduler.schedule(self.clock.now() + self.options.submitted_for, partial(self._process, task))

    def _process(self, task: Task) -> None:
        self._publish(task, TaskUpdate(status=PROCESSING, at=self.clock.now()))
        prompt = prompt_of(task.body)
        if self.active_faults.triggers("stall", task.rng) or "[stuck]" in prompt:
            return
        is_slow = self.active_faults.triggers("slow", task.rng) or "[slow]" in prompt
        lasts = self.options.slow_for if is_slow else self.options.processing_for
        self._scheduler.schedule(self.clock.now() + lasts, partial(self._finish, task))

    def _finish(self, task: Task) -> None:
        self.slots.release(task.slot_key, task.weight)
        now, fail_mark = self.clock.now(), _FAIL_MARK.search(prompt_of(task.body))
        if fail_mark or self.active_faults.triggers("fail", task.rng):
            reason = (fail_mark and fail_mark[1]) or self.active_faults.current.fail_reason
            self._publish(task, TaskUpdate(status=FAILED, at=now, message=reason))
            return
        self._charge(task)
        is_empty = "[empty]" in prompt_of(task.body) or self.active_faults.triggers("result_missing", task.rng)
        update = TaskUpdate(status=SUCCEED, at=now, result={} if is_empty else self._result(task, at=now))
        if self.active_faults.triggers("result_late", task.rng):
            task.result_at = now + self.active_faults.current.result_late_by
            self._publish(task, update, callback=replace(update, result={}))
        else:
            self._publish(task, update)

    def _charge(self, task: Task) -> None:
        if not self.active_faults.triggers("unbilled", task.rng):
            factor = 2 if self.active_faults.triggers("overbilled", task.rng) else 1
            self.ledgers.charge(task, at=self.clock.now(), factor=factor)

    def _publish(self, task: Task, update: TaskUpdate, *, callback: TaskUpdate | None = None) -> None:
        task.update = update
        self.observe(
            "task.changed", task_id=task.id, endpoint=task.endpoint.path, status=update.status, message=update.message
        )
        self._callback_sender.send_update(task, callback or update)

    def _result(self, task: Task, *, at: datetime) -> Result:
        return make_result(task.endpoint, task.body, task.id, lambda name: self.results.url(task.id, name, at=at))


def truncate_texts(value: Any) -> Any:  # noqa: ANN401 - any JSON there is
    """Truncate long texts, such as images in a body, so that thousands of bodies fit into memory."""
    match value:
        case str() if len(value) > _MAX_TEXT:
            return f"{value[:32]}... ({len(value)} characters)"
        case dict():
            return {name: truncate_texts(part) for name, part in value.items()}
        case list():
            return [truncate_texts(part) for part in value]
        case _:
            return value


def _task_json(task: Task) -> Json:
    return {
        "id": task.id,
        "shown_id": task.shown_id,
        "endpoint": task.endpoint.path,
        "external_task_id": task.external_task_id,
        "callback_url": task.callback_url,
        "status": task.update.status,
        "message": task.update.message,
        "created_at": millis(task.created_at),
        "updated_at": millis(task.update.at),
        "slots": task.weight if task.endpoint.pack else 0,
        "queries": task.query_count,
        "told": task.callbacks_done.is_set(),
        "body": task.body,
    }
