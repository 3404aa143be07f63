"""The product as its users run it: a real `serve` process, a webhook that checks signatures, Kling simulated."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support import free_port, until

from receiver.kling.simulator import Options, Simulator, serve

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "the-key-of-a-test"


class Receiver:
    """A `kling-receiver serve` process in a folder of its own; it can be killed and started again on the same store."""

    def __init__(self, folder: Path, config: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.public = f"http://127.0.0.1:{free_port()}"
        self.admin = f"http://127.0.0.1:{free_port()}"
        self.log_path = folder / "receiver.log"
        self._config = folder / "config.toml"
        self._environ = {**os.environ, "KLING_RECEIVER_LOG": "debug", **(environ or {})}
        text = config.replace("@PUBLIC@", self.public).replace("@PUBLIC_LISTEN@", self.public.removeprefix("http://"))
        self._config.write_text(text.replace("@ADMIN_LISTEN@", self.admin.removeprefix("http://")))
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "receiver", "serve", "--config", str(self._config)],
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self.folder,
            )
        await until(self._is_ready, within=20)

    async def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"serve ended with {self.process.returncode}:\n{self.log_path.read_text()[-4000:]}")
        try:
            async with httpx2.AsyncClient(trust_env=False) as client:
                return (await client.get(f"{self.admin}/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self) -> None:
        """End it as a power cut or the kernel would: kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self, *, within: float = 40) -> int:
        """Ask it to stop and give its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within):
            return await asyncio.to_thread(self.process.wait)

    @property
    def token(self) -> str:
        """The admin token it made for itself."""
        return (self.folder / "var" / "admin-token").read_text().strip()

    def client(self) -> httpx2.AsyncClient:
        """A client of the admin listener."""
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(base_url=self.admin, headers=headers, trust_env=False, timeout=30)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the CLI against it."""
        command = [sys.executable, "-m", "receiver", *arguments, "--config", str(self._config)]
        return subprocess.run(
            command, capture_output=True, text=True, env=self._environ, cwd=self.folder, check=False, timeout=60
        )

    def log(self) -> str:
        """All it has said so far."""
        return self.log_path.read_text()


@dataclass(slots=True)
class Sink:
    """A webhook consumer. ``received`` maps an event's id to every body that came for it; a bad signature is fatal."""

    url: str = ""
    received: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[], int] = lambda: 204
    check: bool = True

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if self.check:
            Webhook(SECRET).verify(body, dict(request.headers))
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.received.setdefault(request.headers.get("webhook-id", ""), []).append(json.loads(body))
        return Response(status_code=self.answer())


@contextlib.asynccontextmanager
async def a_sink(*, check: bool = True) -> AsyncIterator[Sink]:
    """Run a webhook consumer in this process."""
    port = free_port()
    sink = Sink(url=f"http://127.0.0.1:{port}/hook", check=check)
    app = Starlette(routes=[Route("/{path:path}", sink.take, methods=["POST"])])
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield sink
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def a_receiver(folder: Path, config: str, **more: Any) -> AsyncIterator[Receiver]:
    """Run a receiver; whatever state the test leaves it in, its process is gone afterwards."""
    receiver = Receiver(folder, config, **more)
    await receiver.start()
    try:
        yield receiver
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()


@contextlib.asynccontextmanager
async def a_kling(**options: Any) -> AsyncIterator[Simulator]:
    """Run a simulated Kling in this process, quick unless told otherwise."""
    given = {"api_key": KEY, "submitted_for": "50ms", "processing_for": "100ms", "check_images": False} | options
    async with serve(Options.read(given)) as simulator:
        yield simulator


def a_config(kling: str, *, more: str = "", public_url: str = "@PUBLIC@") -> str:
    """A configuration on free ports; *more* is appended, such as routes."""
    return f"""
[public]
listen = "@PUBLIC_LISTEN@"
url = "{public_url}"
[admin]
listen = "@ADMIN_LISTEN@"
[kling]
base_url = "{kling}"
api_key = "{KEY}"
{more}
"""


def a_webhook_route(sink: Sink, *, name: str = "hook", extra: str = "") -> str:
    """A route to *sink*, signed."""
    return f"""
[[routes]]
name = "{name}"
webhook = {{ url = "{sink.url}", secret = "{SECRET}" }}
{extra}
"""
