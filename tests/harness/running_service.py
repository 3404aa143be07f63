"""The product as users run it: a real `serve` process, a webhook that checks signatures, and a simulated Kling."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from harness.http_client import plain_http
from harness.packed import add_unpack
from harness.ports import free_port
from harness.postgres_rows import read_rows
from harness.raw_http import http_request
from harness.waiting import wait_until
from harness.web_app import RecordingServer
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from receiver.kling.simulator import Options, Simulator, serve

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "the-key-of-a-test"
ENDPOINT = "images/multi-image2image"
_READY_SECONDS = 10
SLOW_INTERVAL = 0.02
"""Interval of checks that cost the process under test a request."""

JOB = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


class Receiver:
    """A `kling-receiver serve` process in its own folder. It can be killed and restarted on the same store.

    The store is SQLite's in the folder, or the PostgreSQL database at ``store_url``.
    """

    store_url: str | None = None

    def __init__(self, folder: Path, config: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.public = f"http://127.0.0.1:{free_port()}"
        self.admin = f"http://127.0.0.1:{free_port()}"
        self.log_path = folder / "receiver.log"
        self.config_path = folder / "config.toml"
        self.environ = {**_clean_environment(), "KLING_RECEIVER_LOG": "debug", **(environ or {})}
        if self.store_url is not None:
            self.environ = {"KLING_RECEIVER__STORE__URL": self.store_url, **self.environ}
        self.process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration for the next start."""
        text = config.replace("@PUBLIC@", self.public).replace("@PUBLIC_LISTEN@", self.public.removeprefix("http://"))
        self.config_path.write_text(text.replace("@ADMIN_LISTEN@", self.admin.removeprefix("http://")))

    async def start(self, *, seconds: float = 60) -> None:
        """Start the process and wait until it is ready."""
        self.spawn()
        await self.wait_until_ready(seconds=seconds)

    def spawn(self) -> None:
        """Start the process."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "receiver", "serve", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.folder,
            )

    async def wait_until_ready(self, *, seconds: float = 60) -> None:
        """Wait until it accepts callbacks."""
        await wait_until(self._is_ready, seconds=seconds, interval=SLOW_INTERVAL)

    async def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.log()[-4000:]}")
        try:
            async with asyncio.timeout(_READY_SECONDS):  # a held socket accepts also if the process has ended
                return (await http_request("GET", f"{self.admin}/readyz")).status == 200
        except (OSError, asyncio.IncompleteReadError):
            return False

    def kill(self) -> None:
        """Kill the process with kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    async def wait_for_exit(self, *, seconds: float = 40) -> int:
        """Wait for its end. Return its exit code."""
        assert self.process is not None
        await wait_until(self._has_ended, seconds=seconds)
        return self.process.returncode

    async def stop(self, *, seconds: float = 40) -> int:
        """Send SIGTERM. Return the exit code."""
        self.terminate()
        return await self.wait_for_exit(seconds=seconds)

    def _has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    async def restart(self, config: str | None = None) -> None:
        """Stop and start it, with another configuration if one is given."""
        assert await self.stop() == 0, self.log()[-4000:]
        if config is not None:
            self.configure(config)
        await self.start()

    @property
    def token(self) -> str:
        """The admin token that the service created."""
        return (self.folder / "var" / "admin-token").read_text().strip()

    def client(self) -> httpx2.AsyncClient:
        """Return an HTTP client of the admin listener."""
        headers = {"authorization": f"Bearer {self.token}"}
        return plain_http(base_url=self.admin, headers=headers, timeout=30)

    def run_cli(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a CLI command against it."""
        command = [sys.executable, "-m", "receiver", *arguments, "--config", str(self.config_path)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=self.environ,
            cwd=self.folder,
            check=False,
            timeout=60,
        )

    async def run_cli_async(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a CLI command without blocking the test's own servers."""
        return await asyncio.to_thread(self.run_cli, *arguments)

    def log(self) -> str:
        """Return its complete log."""
        return self.log_path.read_text()

    def log_entries(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of *event*. Lines that are not JSON are skipped."""
        lines = (line for line in self.log().splitlines() if f'"{event}"' in line)
        return [printed for line in lines if (printed := json.loads(line))["event"] == event]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read rows of its store, read-only."""
        if self.store_url is not None:
            return read_rows(self.store_url, query, *values)
        path = self.folder / "var" / "receiver.db"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            add_unpack(connection)
            return connection.execute(query, values).fetchall()


def _clean_environment() -> dict[str, str]:
    """Return our environment without the variables of a real installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KLING_")}


@dataclass(slots=True)
class Sink:
    """A webhook consumer. ``received`` maps an event's id to its bodies. A wrong signature fails the test.

    ``answer`` returns the status or the complete response, and may be asynchronous.
    """

    url: str = ""
    received: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[], "int | Response | Awaitable[int | Response]"] = lambda: 204
    check_signatures: bool = True
    rejected: list[str] = field(default_factory=list)

    async def receive(self, request: Request) -> Response:
        body, headers = await request.body(), dict(request.headers)
        if self.check_signatures:
            try:
                Webhook(SECRET).verify(body, headers)
            except Exception as exc:
                self.rejected.append(repr(exc))
                raise
        self.bodies.append(body)
        self.headers.append(headers)
        self.received.setdefault(headers.get("webhook-id", ""), []).append(json.loads(body))
        answer = self.answer()
        if isawaitable(answer):
            answer = await answer
        return answer if isinstance(answer, Response) else Response(status_code=answer)

    @property
    def types(self) -> list[str]:
        """The types of all received events, in order."""
        return [json.loads(body)["type"] for body in self.bodies]


@contextlib.asynccontextmanager
async def an_asgi_server(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an app in this process. Yield its URL."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # pytest handles the signals
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def a_sink(*, check_signatures: bool = True) -> AsyncIterator[Sink]:
    """Run a webhook consumer in this process."""
    sink = Sink(check_signatures=check_signatures)
    async with an_asgi_server(Starlette(routes=[Route("/{path:path}", sink.receive, methods=["POST"])])) as url:
        sink.url = f"{url}/hook"
        yield sink
    assert sink.rejected == []


@contextlib.asynccontextmanager
async def a_recording_server() -> AsyncIterator[tuple[RecordingServer, str]]:
    """Run a stand-in for Kling whose answers are set byte by byte."""
    server = RecordingServer()
    async with an_asgi_server(server) as url:
        yield server, url


@contextlib.asynccontextmanager
async def a_receiver(folder: Path, config: str, **more: Any) -> AsyncIterator[Receiver]:
    """Run a receiver in its own folder."""
    async with run_receiver(Receiver(folder, config, **more)) as receiver:
        yield receiver


@contextlib.asynccontextmanager
async def run_receiver(receiver: Receiver) -> AsyncIterator[Receiver]:
    """Run a receiver. Its process is killed at the end if it still runs."""
    try:
        await receiver.start()
        yield receiver
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()


@contextlib.asynccontextmanager
async def a_kling(**options: Any) -> AsyncIterator[Simulator]:
    """Run a fast simulated Kling in this process."""
    given = {"api_key": KEY, "submitted_for": "50ms", "processing_for": "100ms", "check_images": False} | options
    async with serve(Options.parse(given)) as simulator:
        yield simulator


def a_config(kling: str, *, more: str = "", public_url: str = "@PUBLIC@", kling_more: str = "") -> str:
    """A configuration on free ports. *more* is appended (such as routes), *kling_more* goes to `[kling]`."""
    key = "" if "_key" in kling_more else f'api_key = "{KEY}"'
    return f"""
[public]
listen = "@PUBLIC_LISTEN@"
url = "{public_url}"
[admin]
listen = "@ADMIN_LISTEN@"
[kling]
base_url = "{kling}"
{key}
{kling_more}
{more}
"""


def a_webhook_route(sink: Sink, *, name: str = "hook", extra: str = "", webhook: str = "") -> str:
    """A signed route to *sink*. *extra* adds keys to the route, *webhook* to its destination."""
    return f"""
[[routes]]
name = "{name}"
webhook = {{ url = "{sink.url}", secret = "{SECRET}"{webhook and ", " + webhook} }}
{extra}
"""


def a_script_route(folder: Path, *, name: str = "script", extra: str = "") -> str:
    """A route to a script that appends each event as one line to ``published.jsonl``."""
    script = folder / "publish.sh"
    script.write_text('#!/bin/sh\ncat >> "$OUT"; echo >> "$OUT"; echo "published $KLING_TASK_ID"\n')
    script.chmod(0o755)
    return f"""
[[routes]]
name = "{name}"
script = {{ command = ["{script}"], env = {{ OUT = "{script_output(folder)}" }} }}
{extra}
"""


def script_output(folder: Path) -> Path:
    """Return the file that the script writes to. It exists before its first line: see ``script_lines``."""
    return folder / "published.jsonl"


def script_lines(folder: Path) -> list[str]:
    """Return the complete lines that the script has written so far."""
    file = script_output(folder)
    *lines, _incomplete = (file.read_text() if file.exists() else "").split("\n")
    return lines


async def submit_task(client: httpx2.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Submit a job through the API. Return its task."""
    created = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB} | fields)
    assert created.status_code == 202, created.text
    task: dict[str, Any] = created.json()
    return task


async def create_callback_url(client: httpx2.AsyncClient, **fields: Any) -> tuple[dict[str, Any], str]:
    """Mint a callback URL. Return its task and the URL."""
    made = await client.post("/api/callback-urls", json=fields)
    assert made.status_code == 201, made.text
    return made.json()["task"], made.json()["callback_url"]


async def wait_for_state(
    client: httpx2.AsyncClient, task_id: str, state: str, *, seconds: float = 60
) -> dict[str, Any]:
    """Wait until a task has a state. Return the task."""
    seen: dict[str, Any] = {}

    async def is_there() -> bool:
        seen.update((await client.get(f"/api/tasks/{task_id}")).json())
        return bool(seen["state"] == state)

    try:
        await wait_until(is_there, seconds=seconds, interval=SLOW_INTERVAL)
    except TimeoutError:
        raise AssertionError(f"not {state} but {seen}") from None
    return seen


def a_push_body(status: str, *, task_id: str = "867283741759111202", **more: Any) -> bytes:
    """Return a callback's body in the legacy format; a success has one image."""
    body: dict[str, Any] = {
        "task_id": task_id,
        "task_status": status,
        "task_status_msg": "",
        "created_at": 1785901861504,
        "updated_at": 1785901861504,
        "task_result": {"images": [{"index": 0, "url": f"https://cdn.example.com/{task_id}.png"}]}
        if status == "succeed"
        else {},
    }
    return json.dumps(body | more).encode()
