"""The measured processes, each in its own folder, started and stopped in order."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from benchmarks.load import LoadResult, post_all, request
from harness.ports import free_port

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT = 30.0
MAX_RUN = 300.0
TOKEN = "an-admin-token-of-these-measurements"
SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGVzZSBtZWFzdXJlbWVudHM="
CONNECTIONS = 64

Post: TypeAlias = tuple[str, str] | tuple[str, str, Mapping[str, str]]
"""The path and the body of a request, perhaps with headers."""

CONFIG = """
[public]
listen = "127.0.0.1:{public}"
url = "http://127.0.0.1:{public}"
[admin]
listen = "127.0.0.1:{admin}"
token = "{token}"
[store]
{store}
[kling]
base_url = "http://127.0.0.1:{kling}"
api_key = "never used"
[callbacks]
verify = "never"
[poll]
after = "24h"
every = "24h"
"""
ROUTE = """
[[routes]]
name = "to-{sink}"
webhook = {{ url = "http://127.0.0.1:{sink}/hook", secret = "{secret}" }}
concurrency = 32
"""
HELD = "held"
HELD_ROUTE = f"""
[[routes]]
name = "{HELD}"
on = ["submitted", "processing", "succeed"]
webhook = {{ url = "http://127.0.0.1:9/never-called", secret = "{SECRET}" }}
"""
SCRIPT_ROUTE = """
[[routes]]
name = "script"
script = {{ command = ["{script}"] }}
concurrency = 8
"""


@contextmanager
def python_process(*argv: str, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module until the block ends. Then stop it, and kill it if it does not stop."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ | (env or {}),
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running comparison server."""

    port: int
    pid: int


@contextmanager
def server_process(module: str, *argv: str, folder: Path) -> Iterator[Server]:
    """Run one of our own servers on a free port."""
    port = free_port()
    log = folder / f"{module}-{port}.log"
    with python_process(f"benchmarks.{module}", str(port), *argv, log=log) as process:
        wait_for_port(process, port, log)
        yield Server(port=port, pid=process.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running ``kling-receiver serve``. ``startup_seconds`` is the time until READY."""

    public: int
    admin: int
    config: Path
    startup_seconds: float
    pid: int

    @property
    def resident_mib(self) -> float:
        """Return the resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def create_callback_urls(self, count: int) -> list[str]:
        """Create this many tasks. Return the paths of their callback URLs."""
        sent = request("/api/callback-urls", b"{}", {"authorization": f"Bearer {TOKEN}"})
        made = await post_all(self.admin, [sent] * count, connections=16)
        if made.statuses != {201: count}:
            raise RuntimeError(f"POST /api/callback-urls answered {dict(made.statuses)}")
        base = f"http://127.0.0.1:{self.public}"
        return [json.loads(body)["callback_url"].removeprefix(base) for body in made.bodies]

    async def change_route(self, name: str, what: str) -> None:
        """Hold or release a route."""
        sent = request(f"/api/routes/{name}/{what}", b'{"why":"a measurement"}', {"authorization": f"Bearer {TOKEN}"})
        answer = await post_all(self.admin, [sent], connections=1)
        if answer.statuses != {200: 1}:
            raise RuntimeError(f"{what} of {name} answered {dict(answer.statuses)}: {answer.bodies[0]!r}")


@contextmanager
def a_receiver(
    folder: Path,
    *sinks: int,
    script: str | None = None,
    routes: str = "",
    kling: int = 9,
    store: str = 'url = "sqlite:receiver.db"',
    env: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Receiver]:
    """Run the receiver with a store in *folder* and routes to *sinks* and *script*, or *routes*. Yield it after READY.

    Without *kling*, the port of a Kling, it calls one that is not there. *store* is the configuration of another store,
    and *env* are further variables.
    """
    public, admin, log, config = free_port(), free_port(), folder / "receiver.log", folder / "config.toml"
    routes += "".join(ROUTE.format(sink=sink, secret=SECRET) for sink in sinks)
    routes += SCRIPT_ROUTE.format(script=script) if script else ""
    config.write_text(CONFIG.format(public=public, admin=admin, token=TOKEN, kling=kling, store=store) + routes)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        address = folder / "notify"
        address.unlink(missing_ok=True)
        notified.bind(str(address))
        env = {**env, "NOTIFY_SOCKET": str(address), "KLING_RECEIVER_CONFIG": str(config)}
        began = time.perf_counter()
        with python_process("receiver", "serve", log=log, env=dict(env)) as process:
            _wait_for_ready(process, notified, log)
            ready_after = time.perf_counter() - began
            yield Receiver(public=public, admin=admin, config=config, startup_seconds=ready_after, pid=process.pid)


@contextmanager
def a_storing_receiver(folder: Path) -> Iterator[Receiver]:
    """Run the receiver with a route that is held, so that each callback makes a delivery that waits."""
    with a_receiver(folder, routes=HELD_ROUTE) as running:
        asyncio.run(running.change_route(HELD, "hold"))
        yield running


def run_load(port: int, posts: Sequence[Post], folder: Path, *, connections: int = CONNECTIONS) -> LoadResult:
    """Run the load generator as a separate process with these paths and bodies."""
    return _run_generator("benchmarks.load", port, connections, _write_posts(posts, folder))


def run_load_on_one_loop(port: int, posts: Sequence[Post], folder: Path, *, config: Path | None = None) -> LoadResult:
    """Post to a server on the generator's own event loop: the receiver with *config*, or the empty handler."""
    return _run_generator(
        "benchmarks.one_loop", port, CONNECTIONS, _write_posts(posts, folder), *([config] if config else [])
    )


def _write_posts(posts: Sequence[Post], folder: Path) -> Path:
    file = folder / "posts"
    file.write_text("".join(json.dumps(post) + "\n" for post in posts))
    return file


def run_plain_loop(what: str, port: int, count: int) -> dict[str, float]:
    """Run a plain loop, see ``plain_loop``. Return its rate and its CPU time for each."""
    found: dict[str, float] = _run_module("benchmarks.plain_loop", what, port, count)
    return found


def _run_module(module: str, *argv: object) -> Any:
    """Run a module and return the JSON that it prints."""
    ran = subprocess.run(
        [sys.executable, "-m", module, *map(str, argv)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=MAX_RUN,
    )
    if ran.returncode not in (0, -signal.SIGTERM):  # uvicorn ends by the signal
        raise RuntimeError(ran.stderr)
    return json.loads(ran.stdout)


def _run_generator(module: str, *argv: object) -> LoadResult:
    output = _run_module(module, *argv)
    statuses = {int(status): count for status, count in output["statuses"].items()}
    if any(status >= 300 for status in statuses):
        raise RuntimeError(f"not every request was accepted: {statuses}")
    return LoadResult(
        started_at=output["began"], ended_at=output["ended"], statuses=statuses, times=output["times"], bodies=()
    )


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.perf_counter() + STOP_TIMEOUT
    while time.perf_counter() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens: {log.read_text()[-2000:]}")


def _wait_for_ready(process: subprocess.Popen[bytes], notified: socket.socket, log: Path) -> None:
    end = time.perf_counter() + STOP_TIMEOUT
    notified.settimeout(0.25)
    while time.perf_counter() < end and process.poll() is None:
        try:
            if b"READY=1" in notified.recv(4096):
                return
        except TimeoutError:
            continue
    raise RuntimeError(f"the receiver did not become ready: {log.read_text()[-2000:]}")
