"""Sends callbacks, with the configured faults. It never retries, because Kling documents no retries."""

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections import deque
from dataclasses import dataclass, replace
from random import Random
from time import perf_counter
from types import TracebackType
from typing import Self

import httpx2 as httpx

from receiver.domain.clock import EPOCH, Clock
from receiver.domain.model import Json
from receiver.domain.worker import TaskSet
from receiver.kling.simulator.faults import ActiveFaults
from receiver.kling.simulator.observer import Observer
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.scheduler import Scheduler
from receiver.kling.simulator.tasks import (
    FAILED,
    PROCESSING,
    SUCCEED,
    Task,
    TaskUpdate,
    encode,
    envelope,
    make_result,
    millis,
    render,
)

_MAX_CONCURRENT = 32
_CALLBACKS_PER_TASK = 4
_WHSEC = "whsec_"
_FORGED_URL = "https://forged.invalid/"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCallback:
    """A callback to send. ``kind`` is true, duplicate, truncated, forged, dropped or test."""

    task_id: str
    url: str
    status: str
    body: bytes
    kind: str = "true"


class CallbackSender:
    """Sends each task's updates to its callback URL in order, and records callbacks and answers."""

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock,
        rng: Random,
        scheduler: Scheduler,
        active_faults: ActiveFaults,
        observer: Observer,
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._scheduler = scheduler
        self._active_faults = active_faults
        self._observe = observer
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self._sending = TaskSet("callback.failed")
        self._clients: dict[bool, httpx.AsyncClient] = {}  # with and without TLS
        self.sent: deque[Json] = deque(maxlen=options.keep * _CALLBACKS_PER_TASK)
        self.count = 0
        self.answered = 0
        self.dropped = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sending.cancel()
        await self._sending.drain()
        for client in self._clients.values():
            await client.aclose()

    def send_update(self, task: Task, update: TaskUpdate) -> None:
        """Send a task's update to its callback URL, with the active faults."""
        if task.callback_url is None:
            self._mark_done(task, update)
            return
        if self._active_faults.triggers("drop", task.rng, update.status):
            self.dropped += 1
            self._record(
                OutgoingCallback(task_id=task.id, url=task.callback_url, status=update.status, body=b"", kind="dropped")
            )
            self._mark_done(task, update)
        elif self._active_faults.triggers("reorder", task.rng, update.status) and not task.is_finished:
            task.held_back.append((update.status, self._body(task, update)))
            return
        else:
            self._send_with_faults(task, update)
        for status, body in task.held_back:
            self._enqueue(task, OutgoingCallback(task_id=task.id, url=task.callback_url, status=status, body=body))
        task.held_back.clear()
        if update.status == PROCESSING and self._active_faults.triggers("forge", task.rng):
            self._forge(task)

    def send_test(self, url: str) -> Json:
        """Send the test callback of the vendor's console, and return its body."""
        now = millis(self._clock.now())
        body: Json = {
            "id": str(now << 20 | self._rng.getrandbits(20)),
            "status": "submitted",
            "outputs": [],
            "message": "",
            "create_time": now,
            "update_time": now,
        }
        self._sending.spawn(
            self._send(
                OutgoingCallback(task_id=body["id"], url=url, status="submitted", body=encode(body), kind="test")
            )
        )
        return body

    def _send_with_faults(self, task: Task, update: TaskUpdate) -> None:
        body = self._body(task, update)
        kinds = ["true"]
        if self._active_faults.triggers("truncate", task.rng, update.status):
            kinds, body = ["truncated"], body[: len(body) // 2]
        if self._active_faults.triggers("duplicate", task.rng, update.status):
            kinds.append("duplicate")
        callbacks = [
            OutgoingCallback(task_id=task.id, url=task.callback_url or "", status=update.status, body=body, kind=kind)
            for kind in kinds
        ]

        def post() -> None:
            for callback in callbacks:
                self._enqueue(task, callback)
            self._mark_done(task, update)

        if self._active_faults.triggers("delay", task.rng, update.status):
            self._scheduler.schedule(self._clock.now() + self._active_faults.current.delay_by, post)
        else:
            post()

    def _mark_done(self, task: Task, update: TaskUpdate) -> None:
        if update.status not in (SUCCEED, FAILED):
            return
        if task.last_send is None or task.last_send.done():
            task.callbacks_done.set()
        else:
            task.last_send.add_done_callback(lambda _: task.callbacks_done.set())

    def _forge(self, task: Task) -> None:
        forged = replace(
            task.update,
            status=SUCCEED,
            result=make_result(task.endpoint, task.body, task.id, lambda name: _FORGED_URL + name),
        )
        callback = OutgoingCallback(
            task_id=task.id, url=task.callback_url or "", status=SUCCEED, body=self._body(task, forged), kind="forged"
        )
        self._enqueue(task, callback)

    def _body(self, task: Task, update: TaskUpdate) -> bytes:
        content = render(task, update, shown_id=task.id)
        if self._active_faults.triggers("wrap", task.rng, update.status):
            content = envelope(f"{task.rng.getrandbits(128):032x}", content, code=self._active_faults.current.wrap_code)
        return encode(content)

    def _enqueue(self, task: Task, callback: OutgoingCallback) -> None:
        task.last_send = self._sending.spawn(self._send(callback, after=task.last_send))

    async def _send(self, callback: OutgoingCallback, *, after: asyncio.Task[None] | None = None) -> None:
        if after is not None:
            await asyncio.wait([after])
        async with self._slots:
            entry = self._record(callback)
            self.count += 1
            begun = perf_counter()
            try:
                async with asyncio.timeout(self._options.push_timeout.total_seconds()):
                    client = self._client_for(callback.url)
                    answer = await client.post(callback.url, content=callback.body, headers=self._headers(callback))
                    entry["answer"] = answer.status_code
                    self.answered += 1
            except TimeoutError:
                entry["error"] = "no answer in time"
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
                entry["error"] = type(exc).__name__
            entry["ms"] = round((perf_counter() - begun) * 1000, 1)
        fields = {name: entry[name] for name in ("task_id", "status", "kind", "answer", "error", "ms")}
        self._observe("callback.sent", **fields)

    def _client_for(self, url: str) -> httpx.AsyncClient:
        """Return the HTTP client for *url*; CA certificates are loaded with the first TLS connection."""
        secure = url.lower().startswith("https:")
        if secure not in self._clients:
            self._clients[secure] = httpx.AsyncClient(
                verify=True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=_MAX_CONCURRENT, max_keepalive_connections=_MAX_CONCURRENT),
                timeout=None,
            )
        return self._clients[secure]

    def _headers(self, callback: OutgoingCallback) -> dict[str, str]:
        headers = {"content-type": "application/json; charset=utf-8", "user-agent": "kling-simulator"}
        if not self._options.signing_secrets:
            return headers
        stamp = str(int((self._clock.now() - EPOCH).total_seconds()))
        name = f"msg_{self._rng.getrandbits(96):024x}"
        keys = [base64.b64decode(secret.removeprefix(_WHSEC)) for secret in self._options.signing_secrets]
        if callback.kind == "forged":
            keys = [b"a guess"]
        signed = f"{name}.{stamp}.".encode() + callback.body
        marks = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
        signature = " ".join(f"v1,{mark}" for mark in marks)
        return headers | {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}

    def _record(self, callback: OutgoingCallback) -> Json:
        entry: Json = {
            "task_id": callback.task_id,
            "url": callback.url,
            "status": callback.status,
            "kind": callback.kind,
            "body": callback.body.decode(errors="replace"),
            "sent_at": millis(self._clock.now()),
            "answer": None,
            "error": None,
            "ms": None,
        }
        self.sent.append(entry)
        return entry
