"""Sends callbacks, with all that can happen to one on the way. No retries: none are documented."""

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
from receiver.kling.simulator.faults import FaultBoard
from receiver.kling.simulator.observer import Watch
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.scheduler import Agenda
from receiver.kling.simulator.tasks import (
    FAILED,
    PROCESSING,
    SUCCEED,
    News,
    Task,
    encode,
    envelope,
    millis,
    render,
    result_of,
)

_PARALLEL = 32
_PER_TASK = 4
_WHSEC = "whsec_"
_LIE = "https://forged.invalid/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One callback to be sent. ``kind`` is true, duplicate, truncated, forged or test."""

    task_id: str
    url: str
    status: str
    body: bytes
    kind: str = "true"


class Courier:
    """Tells each task's news to its callback URL, one after the other; remembers what went and what came back."""

    def __init__(
        self, options: Options, *, clock: Clock, rng: Random, agenda: Agenda, board: FaultBoard, watch: Watch
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._agenda = agenda
        self._board = board
        self._watch = watch
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._sending: set[asyncio.Task[None]] = set()
        self._clients: dict[bool, httpx.AsyncClient] = {}  # with and without TLS
        self.sent: deque[Json] = deque(maxlen=options.keep * _PER_TASK)
        self.count = 0
        self.answered = 0
        self.dropped = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sending in self._sending:
            sending.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    def tell(self, task: Task, news: News) -> None:
        """Tell a task's news to whoever asked for it, with the faults that are on."""
        if task.callback_url is None:
            self._told(task, news)
            return
        if self._board.strikes("drop", task.rng, news.status):
            self.dropped += 1
            self._record(Letter(task_id=task.id, url=task.callback_url, status=news.status, body=b"", kind="dropped"))
            self._told(task, news)
        elif self._board.strikes("reorder", task.rng, news.status) and not task.is_over:
            task.held.append((news.status, self._body(task, news)))
            return
        else:
            self._hand_over(task, news)
        for status, body in task.held:
            self._post(task, Letter(task_id=task.id, url=task.callback_url, status=status, body=body))
        task.held.clear()
        if news.status == PROCESSING and self._board.strikes("forge", task.rng):
            self._forge(task)

    def send_test(self, url: str) -> Json:
        """Send what the vendor's console sends to try a URL; give the body."""
        now = millis(self._clock.now())
        body: Json = {
            "id": str(now << 20 | self._rng.getrandbits(20)),
            "status": "submitted",
            "outputs": [],
            "message": "",
            "create_time": now,
            "update_time": now,
        }
        self._own(self._send(Letter(task_id=body["id"], url=url, status="submitted", body=encode(body), kind="test")))
        return body

    def _hand_over(self, task: Task, news: News) -> None:
        body = self._body(task, news)
        kinds = ["true"]
        if self._board.strikes("truncate", task.rng, news.status):
            kinds, body = ["truncated"], body[: len(body) // 2]
        if self._board.strikes("duplicate", task.rng, news.status):
            kinds.append("duplicate")
        letters = [
            Letter(task_id=task.id, url=task.callback_url or "", status=news.status, body=body, kind=kind)
            for kind in kinds
        ]

        def post() -> None:
            for letter in letters:
                self._post(task, letter)
            self._told(task, news)

        if self._board.strikes("delay", task.rng, news.status):
            self._agenda.at(self._clock.now() + self._board.faults.delay_by, post)
        else:
            post()

    def _told(self, task: Task, news: News) -> None:
        if news.status not in (SUCCEED, FAILED):
            return
        if task.pending is None or task.pending.done():
            task.told.set()
        else:
            task.pending.add_done_callback(lambda _: task.told.set())

    def _forge(self, task: Task) -> None:
        lie = replace(
            task.news, status=SUCCEED, result=result_of(task.endpoint, task.body, task.id, lambda name: _LIE + name)
        )
        letter = Letter(
            task_id=task.id, url=task.callback_url or "", status=SUCCEED, body=self._body(task, lie), kind="forged"
        )
        self._post(task, letter)

    def _body(self, task: Task, news: News) -> bytes:
        told = render(task, news, shown_id=task.id)
        if self._board.strikes("wrap", task.rng, news.status):
            told = envelope(f"{task.rng.getrandbits(128):032x}", told, code=self._board.faults.wrap_code)
        return encode(told)

    def _post(self, task: Task, letter: Letter) -> None:
        task.pending = self._own(self._send(letter, after=task.pending))

    def _own(self, sending: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        owned = asyncio.create_task(sending)
        self._sending.add(owned)
        owned.add_done_callback(self._sending.discard)
        return owned

    async def _send(self, letter: Letter, *, after: asyncio.Task[None] | None = None) -> None:
        if after is not None:
            await asyncio.wait([after])
        async with self._slots:
            entry = self._record(letter)
            self.count += 1
            begun = perf_counter()
            try:
                async with asyncio.timeout(self._options.push_timeout.total_seconds()):
                    client = self._client_for(letter.url)
                    answer = await client.post(letter.url, content=letter.body, headers=self._headers(letter))
                    entry["answer"] = answer.status_code
                    self.answered += 1
            except TimeoutError:
                entry["error"] = "no answer in time"
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
                entry["error"] = type(exc).__name__
            entry["ms"] = round((perf_counter() - begun) * 1000, 1)
        told = {name: entry[name] for name in ("task_id", "status", "kind", "answer", "error", "ms")}
        self._watch("callback.sent", **told)

    def _client_for(self, url: str) -> httpx.AsyncClient:
        """Give the client to call *url* with; the machine's certificates are read when TLS is first spoken."""
        secure = url.lower().startswith("https:")
        if secure not in self._clients:
            self._clients[secure] = httpx.AsyncClient(
                verify=True if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=_PARALLEL, max_keepalive_connections=_PARALLEL),
                timeout=None,
            )
        return self._clients[secure]

    def _headers(self, letter: Letter) -> dict[str, str]:
        headers = {"content-type": "application/json; charset=utf-8", "user-agent": "kling-simulator"}
        if not self._options.signing_secrets:
            return headers
        stamp = str(int((self._clock.now() - EPOCH).total_seconds()))
        name = f"msg_{self._rng.getrandbits(96):024x}"
        keys = [base64.b64decode(secret.removeprefix(_WHSEC)) for secret in self._options.signing_secrets]
        if letter.kind == "forged":
            keys = [b"a guess"]
        signed = f"{name}.{stamp}.".encode() + letter.body
        marks = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
        signature = " ".join(f"v1,{mark}" for mark in marks)
        return headers | {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}

    def _record(self, letter: Letter) -> Json:
        entry: Json = {
            "task_id": letter.task_id,
            "url": letter.url,
            "status": letter.status,
            "kind": letter.kind,
            "body": letter.body.decode(errors="replace"),
            "sent_at": millis(self._clock.now()),
            "answer": None,
            "error": None,
            "ms": None,
        }
        self.sent.append(entry)
        return entry
