"""Load generator: clients that post callbacks like Kling, through crashes; and the check of the results."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.raw_http import RawConnection, RawResponse
from harness.running_service import Receiver, Sink, a_config, a_push_body, a_webhook_route
from harness.waiting import wait_until, wait_until_none_left

STATUSES = ("submitted", "processing", "succeed")
CONCURRENCY = 8
START_NUMBER = "LIFE"
"""The variable that numbers the starts of a receiver. Its routes send it, so that the sink knows the start."""

LABEL = "marked"
_LABEL_EVERY = 10  # one of this many tasks has a label

_CONNECTION_ERRORS = (OSError, asyncio.IncompleteReadError)
_RETRY_SECONDS = 0.02  # delay before a client retries
_ANSWER_SECONDS = 100.0  # a request without an answer then counts as failed; a start with held sockets may take long


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRoute:
    """Which events a route gets: all or only final ones, of all tasks or only labelled ones."""

    name: str
    only_final: bool = False
    only_labelled: bool = False
    script: bool = False

    def matches(self, type_: str, task_id: str, labelled: set[str]) -> bool:
        """Return whether an event is for the route."""
        return (not self.only_final or type_ == "task.succeed") and (not self.only_labelled or task_id in labelled)

    def to_toml(self, sink: Sink, folder: Path | None) -> str:
        """Return the route's configuration."""
        extra = f'on = ["{"succeed" if self.only_final else "*"}"]\nconcurrency = {CONCURRENCY}\n'
        if self.only_labelled:
            extra += f"where = \"task.label == '{LABEL}'\"\n"
        if not self.script:
            headers = f'headers = {{ x-route = "{self.name}", x-life = "env:{START_NUMBER}" }}'
            return a_webhook_route(sink, name=self.name, extra=extra, webhook=headers)
        assert folder is not None, "a script needs an output folder"
        path = folder / f"{self.name}.sh"
        path.write_text(f'#!/bin/sh\necho "{self.name} $KLING_EVENT_ID ${START_NUMBER}" >> "$OUT"\n')
        path.chmod(0o755)
        env = f'OUT = "{_script_output(folder)}", {START_NUMBER} = "env:{START_NUMBER}"'
        return f'[[routes]]\nname = "{self.name}"\n{extra}script = {{ command = ["{path}"], env = {{ {env} }} }}\n'


ONE_WEBHOOK = (LoadRoute(name="all"),)
THREE_AND_TWO_SCRIPTS = (
    LoadRoute(name="all"),
    LoadRoute(name="ends", only_final=True),
    LoadRoute(name="marked", only_labelled=True),
    LoadRoute(name="script", only_final=True, only_labelled=True, script=True),
    LoadRoute(name="second-script", only_final=True, only_labelled=True, script=True),
)


def a_load_config(sink: Sink, load_routes: Sequence[LoadRoute] = ONE_WEBHOOK, folder: Path | None = None) -> str:
    """A configuration that trusts every callback and sends the routes' events to *sink*.

    A script route writes to a file in *folder*.
    """
    routes = "\n".join(route.to_toml(sink, folder) for route in load_routes)
    return a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n' + routes)


@dataclass(slots=True)
class LoadGenerator:
    """Posts callbacks and records the answers.

    ``acknowledged`` holds the bodies answered 200, ``labelled`` the tasks with a label. ``failed_requests`` counts
    requests without an answer. Clients keep their connections, or open one per callback. With a ``file_server`` each
    success has a result there, at the number of its task.
    """

    receiver: Receiver
    per_second: int = 250
    client_count: int = 8
    keep_alive: bool = True
    file_server: str = ""
    acknowledged: set[tuple[str, bytes]] = field(default_factory=set)
    labelled: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    failed_requests: int = 0
    refused_connections: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(867283741759111202))
    _failure: BaseException | None = None  # of a client, which ends all of them

    async def run(self, stop: asyncio.Event) -> None:
        """Mint callback URLs and post each task's statuses in order, until *stop*."""
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(self.client_count):
                    callers.create_task(self._run_client(stop))
        except BaseException as exc:
            self._failure = exc
            raise

    async def wait_for_acknowledged(self, count: int) -> None:
        """Wait until this many more callbacks are acknowledged. Raise AssertionError if the clients have failed."""
        enough = len(self.acknowledged) + count
        try:
            await wait_until(lambda: len(self.acknowledged) >= enough or self._failure is not None, seconds=60)
        except TimeoutError:
            counts = f"{len(self.acknowledged)} of {enough} acknowledged, {self.failed_requests} failed"
            seen = f"{counts}, {dict(self.statuses)}"
            raise AssertionError(f"{seen}; the log ends with:\n{self.receiver.log()[-3000:]}") from None
        if self._failure is not None:
            raise AssertionError("The clients have ended.") from self._failure

    async def _run_client(self, stop: asyncio.Event) -> None:
        token = {"authorization": f"Bearer {self.receiver.token}"}
        public, admin = _Client(self, self.receiver.public), _Client(self, self.receiver.admin, token)
        try:
            await self._post_tasks(public, admin, stop)
        finally:
            public.disconnect()
            admin.disconnect()

    async def _post_tasks(self, public: "_Client", admin: "_Client", stop: asyncio.Event) -> None:
        pace, loop = self.client_count / self.per_second, asyncio.get_running_loop()
        next_at = loop.time()
        while not stop.is_set():
            number = next(self._numbers)
            label = LABEL if number % _LABEL_EVERY == 0 else None
            made = await admin.post_until_accepted(
                "/api/callback-urls", json.dumps({"label": label}).encode(), stop, expected_status=201
            )
            if made is None:
                break
            task, path = made.json()["task"]["id"], urlsplit(made.json()["callback_url"]).path
            if label is not None:
                self.labelled.add(task)
            for word in STATUSES:
                body = self._body(word, number)
                if await public.post_until_accepted(path, body, stop, expected_status=200) is None:
                    break
                self.acknowledged.add((task, body))
                next_at = max(next_at + pace, loop.time() - 1)
                await asyncio.sleep(max(0.0, next_at - loop.time()))

    def _body(self, status: str, number: int) -> bytes:
        if not self.file_server or status != "succeed":
            return a_push_body(status, task_id=str(number))
        images = [{"index": 0, "url": f"{self.file_server}/{number}"}]
        return a_push_body(status, task_id=str(number), task_result={"images": images})


@asynccontextmanager
async def generate_load(receiver: Receiver, *, per_second: int = 250) -> AsyncIterator[LoadGenerator]:
    """Post callbacks during the block."""
    load, stop = LoadGenerator(receiver, per_second=per_second), asyncio.Event()
    task = asyncio.create_task(load.run(stop))
    try:
        yield load
    finally:
        stop.set()
        await task


async def wait_until_delivered(receiver: Receiver) -> None:
    """Wait until everything is delivered. Raise AssertionError with what is left if nothing is for half a minute."""

    def count() -> int:
        [(left,)] = receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'")
        return int(left)

    try:
        await wait_until_none_left(count)
    except TimeoutError as exc:
        left = "SELECT deliveries.*, outcome, reason FROM deliveries LEFT JOIN attempts ON delivery_id = deliveries.id"
        raise AssertionError(receiver.rows(f"{left} WHERE status <> 'delivered' LIMIT 10")) from exc


@dataclass(slots=True)
class _Client:
    """One client's connection, reopened after an error."""

    load: LoadGenerator
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    connection: RawConnection | None = None

    async def post_until_accepted(
        self, path: str, body: bytes, stop: asyncio.Event, *, expected_status: int
    ) -> RawResponse | None:
        """Post until the expected status is returned. Return None if stopped before that."""
        while not stop.is_set():
            try:
                if self.connection is None:
                    self.connection = await RawConnection.open(self.url, headers=self.headers)
            except OSError:
                self.load.refused_connections += 1
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    answer = await self.connection.request("POST", path, body)
            except _CONNECTION_ERRORS:  # TimeoutError is an OSError
                self.load.failed_requests += 1
                self.disconnect()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self.load.statuses[answer.status] += 1
            if not self.load.keep_alive:
                self.disconnect()
            if answer.status == expected_status:
                return answer
            await asyncio.sleep(_RETRY_SECONDS)
        return None

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.abort()
        self.connection = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What happened to the acknowledged callbacks.

    ``redeliveries`` counts deliveries repeated after a restart, by route and by the number of the first start.
    """

    acknowledged: int
    lost: int
    stored: int
    events: int
    deliveries: int
    undelivered: int
    unknown: int
    duplicates_within_run: int
    redeliveries: Counter[tuple[str, int]]

    @classmethod
    def from_run(
        cls, load: LoadGenerator, sink: Sink, load_routes: Sequence[LoadRoute] = ONE_WEBHOOK, folder: Path | None = None
    ) -> "LoadReport":
        """Compare the acknowledged callbacks with the store, and the store with what the sink received."""
        rows = load.receiver.rows
        kept = set(rows("SELECT task_id, UNPACK(body) FROM whole_pushes WHERE source = 'callback'"))
        events = {id_: (task, type_) for id_, task, type_ in rows("SELECT id, task_id, type FROM events")}
        acknowledged = {(task, f"task.{json.loads(body)['task_status']}") for task, body in load.acknowledged}
        wanted = {
            (route.name, id_)
            for id_, (task, type_) in events.items()
            for route in load_routes
            if route.matches(type_, task, load.labelled)
        }
        delivered = set(rows("SELECT route, event_id FROM deliveries WHERE status = 'delivered'"))
        assert len(set(events.values())) == len(events), "an event is stored twice"
        lives = _runs_by_delivery(sink, folder)
        return cls(
            acknowledged=len(load.acknowledged),
            lost=len(load.acknowledged - kept) + len(acknowledged - set(events.values())),
            stored=len(kept),
            events=len(events),
            deliveries=len(wanted),
            undelivered=len(wanted - (delivered & lives.keys())),
            unknown=len(lives.keys() - wanted) + sum(_mismatches(sink, events)),
            duplicates_within_run=sum(len(set(each)) < len(each) for each in lives.values()),
            redeliveries=Counter((route, life) for (route, _), each in lives.items() for life in each[:-1]),
        )


def _runs_by_delivery(sink: Sink, folder: Path | None) -> Mapping[tuple[str, str], Sequence[int]]:
    """Return for each route and event the numbers of the starts in which it was received."""
    sent = [(headers["x-route"], headers["webhook-id"], headers["x-life"]) for headers in sink.headers]
    if folder is not None and _script_output(folder).exists():
        lines = map(str.split, _script_output(folder).read_text().splitlines())
        sent += [(route, event, life) for route, event, life in lines]
    lives: dict[tuple[str, str], list[int]] = {}
    for route, event, life in sent:
        lives.setdefault((route, event), []).append(int(life))
    return lives


def _script_output(folder: Path) -> Path:
    """Return the file that the script writes to."""
    return folder / "script.out"


def _mismatches(sink: Sink, events: dict[str, tuple[Any, ...]]) -> Sequence[bool]:
    """Return for each body whether it belongs to another event than its webhook-id."""
    return [
        (body["data"].get("task", {}).get("id"), body["type"]) != events.get(id_)
        for id_, bodies in sink.received.items()
        for body in bodies
    ]
