"""Simulated clients of the service: submitters by each way in, and forgers of pushes."""

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

from chaos.oracle import SECRET, Oracle
from chaos.simulated_host import AsgiResponse, HostDownError
from chaos.simulated_kling import SimulatedKling, SimulatedTask
from data.ssrf_urls import FORBIDDEN, NOT_PUBLIC
from standardwebhooks import Webhook

from receiver.domain.clock import Clock

TOKEN = "the-admin-token-of-a-simulation"
ENDPOINTS = ("images/multi-image2image", "images/generations", "videos/text2video")
_HOSTS = {"public": "hooks.test", "admin": "localhost"}
_ALLOWED_SERVER_ERRORS = (502, 503, 504)
_STORED = (202, 422)  # 422: Kling refused the task
_RECENT = 50

# Shares of the minted URLs: those without an endpoint, whose tasks cannot be polled, and those that a forger finds.
BLIND_SHARE = 0.3
FORGED_SHARE = 0.5

ONE_SHOT_SHARE = 0.4
"""The share of clients that take the first request to their callback URL as the end."""


class Service(Protocol):
    """What clients reach: one process, or a balancer of several. ``clock`` is the clients' own."""

    @property
    def clock(self) -> Clock:
        """The clock that clients sign with."""
        ...

    async def call(
        self, listener: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> AsgiResponse:
        """Send a request. Raises HostDownError if there is no answer."""
        ...


class Clients:
    """All clients, driven by one seed."""

    def __init__(self, rng: Random, host: Service, oracle: Oracle, *, signs: bool, one_shots: bool) -> None:
        """With *one_shots* some clients want only the end. Without, the seeds of the controls keep their runs."""
        self._rng = rng
        self._host = host
        self._oracle = oracle
        self._signs = signs
        self._one_shots = one_shots
        self._jobs = 0

    async def submit_by_api(self, batch: Mapping[str, Any] | None = None) -> None:
        """Submit a task until it is accepted, sometimes twice, as clients with an idempotency key do."""
        endpoint, body = self._job()
        wanted = {"endpoint": endpoint, "body": body, "batch": batch, "idempotency_key": f"key-{self._jobs}"}
        if self._wants_end():
            body["callback_url"] = f"http://client.test/{self._jobs}?signature=a%2Fb"
            wanted["reply"] = "final"
        told: set[str] = set()
        for _ in range(self._rng.choice([1, 1, 1, 2])):
            answer = await self.request("admin", "/api/tasks", wanted)
            while answer is None or answer.status not in _STORED:
                await asyncio.sleep(60)
                answer = await self.request("admin", "/api/tasks", wanted)
            told_task = json.loads(answer.body)
            told.add(told_task.get("task", told_task)["id"])
        if len(told) != 1:
            self._oracle.report(f"one idempotency key gave {told}")
        self._oracle.on_accepted(told.pop(), "api")

    async def submit_burst(self) -> None:
        """Submit more tasks at once than the account has slots, all in one batch."""
        size = self._rng.randrange(5, 20)
        batch = {"name": f"burst-{self._jobs}", "size": size}
        await asyncio.gather(*(self.submit_by_api(batch) for _ in range(size)))

    async def create_by_gateway(self) -> None:
        """Create a task through the gateway, as if it were Kling, without a retry."""
        endpoint, body = self._job()
        if self._rng.random() < 0.6:
            trap = self._rng.choice([*FORBIDDEN, *NOT_PUBLIC])
            host = "client.test" if self._rng.random() < 0.9 else f"[{trap}]" if ":" in trap else trap
            body["callback_url"] = f"http://{host}/{self._jobs}"
        if self._rng.random() < 0.5:
            body["external_task_id"] = f"mine-{self._jobs}"
        headers = {"kling-receiver-callbacks": "final"} if self._wants_end() else {}
        answer = await self.request("admin", f"/kling/v1/{endpoint}", body, **headers)
        if answer is not None and answer.status == 200:
            self._oracle.on_accepted(json.loads(answer.body)["data"]["task_id"], "gateway")

    async def create_callback_url(self, kling: SimulatedKling) -> None:
        """Mint a callback URL and create its task directly at Kling. Often an attacker pushes before Kling does."""
        endpoint, body = self._job()
        known = {"endpoint": endpoint} if self._rng.random() >= BLIND_SHARE else {}
        answer = await self.request("admin", "/api/callback-urls", {"label": f"job {self._jobs}", **known})
        if answer is None or answer.status != 201:
            return
        minted = json.loads(answer.body)
        self._oracle.on_accepted(minted["task"]["id"], "minted" if known else "minted blind")
        await asyncio.sleep(self._rng.expovariate(1 / 60))
        if self._rng.random() < 0.95:
            task = kling.create_task(endpoint, {**body, "callback_url": minted["callback_url"]})
            if self._rng.random() < FORGED_SHARE:
                await self._forge_push(task)

    def _wants_end(self) -> bool:
        return self._one_shots and self._rng.random() < ONE_SHOT_SHARE

    def _job(self) -> tuple[str, dict[str, Any]]:
        self._jobs += 1
        return self._rng.choice(ENDPOINTS), {"prompt": f"job {self._jobs}", "n": self._rng.choice([1, 1, 1, 2, 4])}

    async def push(self, url: str, body: bytes, *, forged: bool = False) -> None:
        """Push a task's status. An acknowledged push must be stored."""
        headers = {} if forged or not self._signs or self._rng.random() < 0.3 else self._signed(body)
        self._oracle.counts["forged pushes" if forged else "pushes"] += 1
        answer = await self.request("public", urlsplit(url).path, body, **headers)
        if answer is not None:
            self._oracle.counts[f"pushes answered {answer.status}"] += 1
            if answer.status == 200:
                self._oracle.on_acknowledged(url.rpartition("/")[2], body, forged=forged, signed=bool(headers))

    def _signed(self, body: bytes) -> dict[str, str]:
        name, at = f"w{self._oracle.counts['pushes']}", self._host.clock.now()
        signature = Webhook(SECRET).sign(name, at, body.decode())
        return {"webhook-id": name, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}

    async def forge_push(self, kling: SimulatedKling) -> None:
        """Push as an attacker who found or guesses a callback URL."""
        leaked = [task for task in kling.tasks.values() if task.callback_url]
        if not leaked or self._rng.random() < 0.2:
            answer = await self.request("public", f"/callbacks/{self._rng.randbytes(16).hex()}", {"task_id": "1"})
            if answer is not None and answer.status not in (404, 503):
                self._oracle.report(f"a guessed token was answered {answer.status}")
            return
        await self._forge_push(self._rng.choice(leaked[-_RECENT:]))

    async def _forge_push(self, task: SimulatedTask) -> None:
        document = task.status_json(0.0)
        document["task_status"] = self._rng.choice(["succeed", "failed", "processing", "nonsense"])
        document["task_result"] = {"images": [{"index": 0, "url": "https://evil.test/0.png"}]}
        document["task_id"] = self._rng.choice([task.id, task.id, "another", ""])
        for _ in range(self._rng.choice([1, 1, 3, 30])):
            await self.push(task.callback_url or "", json.dumps(document).encode(), forged=True)

    async def request(
        self, listener: str, path: str, body: Mapping[str, Any] | bytes, **headers: str
    ) -> AsgiResponse | None:
        """Send a request if the host is up, and check that the answer is allowed."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"host": _HOSTS[listener], "content-type": "application/json", "content-length": str(len(content))}
        if listener == "admin":
            sent["authorization"] = f"Bearer {TOKEN}"
        try:
            answer = await self._host.call(listener, "POST", path, headers={**sent, **headers}, body=content)
        except HostDownError:
            self._oracle.counts["requests without an answer"] += 1
            return None
        if answer.status >= 500 and answer.status not in _ALLOWED_SERVER_ERRORS and not path.startswith("/kling/"):
            self._oracle.report(f"{path} was answered {answer.status}: {answer.body!r}")
        if answer.status == 503 and "retry-after" not in answer.headers and b'"code": "store' in answer.body:
            self._oracle.report(f"a 503 without Retry-After: {answer.headers} {answer.body!r}")
        self._oracle.trace(path.split("/")[1], answer.status)
        return answer
