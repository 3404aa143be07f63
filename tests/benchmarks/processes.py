"""The real processes that are measured, each in a folder of its own, started and ended in order."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Load, post_all, request
from support import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
TOKEN = "an-admin-token-of-these-measurements"
SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGVzZSBtZWFzdXJlbWVudHM="
CONNECTIONS = 64

CONFIG = """
[public]
listen = "127.0.0.1:{public}"
url = "http://127.0.0.1:{public}"
[admin]
listen = "127.0.0.1:{admin}"
token = "{token}"
[store]
url = "sqlite:receiver.db"
[kling]
base_url = "http://127.0.0.1:9"
api_key = "never used"
[callbacks]
verify = "never"
[poll]
after = "24h"
every = "24h"
"""
ROUTE = """
[[routes]]
name = "measured"
webhook = {{ url = "http://127.0.0.1:{sink}/hook", secret = "{secret}" }}
concurrency = 32
"""


@contextmanager
def running(*argv: str, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module until the block ends; then it is asked to stop, and killed if it does not."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *argv], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environ | (env or {})
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(module: str, *argv: str, folder: Path) -> Iterator[int]:
    """Run one of our own servers on a free port."""
    port, log = free_port(), folder / f"{module}.log"
    with running(f"benchmarks.{module}", str(port), *argv, log=log) as process:
        _wait_for_port(process, port, log)
        yield port


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running ``kling-receiver serve``. ``ready_after`` is in seconds."""

    public: int
    admin: int
    folder: Path
    ready_after: float
    pid: int

    @property
    def resident(self) -> float:
        """How much memory it holds, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def mint(self, count: int) -> list[str]:
        """Make so many tasks, and give the paths of their callback URLs."""
        asked = request("/api/callback-urls", b"{}", {"authorization": f"Bearer {TOKEN}"})
        made = await post_all(self.admin, [asked] * count, connections=16)
        if made.statuses != {201: count}:
            raise RuntimeError(f"POST /api/callback-urls answered {dict(made.statuses)}")
        base = f"http://127.0.0.1:{self.public}"
        return [json.loads(body)["callback_url"].removeprefix(base) for body in made.bodies]


@contextmanager
def receiver(folder: Path, *, sink: int | None = None) -> Iterator[Receiver]:
    """Run the receiver with a store in *folder*, and a route to *sink* if there is one; go on when it says READY."""
    public, admin, log = free_port(), free_port(), folder / "receiver.log"
    config = CONFIG.format(public=public, admin=admin, token=TOKEN)
    route = "" if sink is None else ROUTE.format(sink=sink, secret=SECRET)
    (folder / "config.toml").write_text(config + route)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        address = folder / "notify"
        address.unlink(missing_ok=True)
        notified.bind(str(address))
        env = {"NOTIFY_SOCKET": str(address), "KLING_RECEIVER_CONFIG": str(folder / "config.toml")}
        began = time.perf_counter()
        with running("receiver", "serve", log=log, env=env) as process:
            _wait_for_ready(process, notified, log)
            ready_after = time.perf_counter() - began
            yield Receiver(public=public, admin=admin, folder=folder, ready_after=ready_after, pid=process.pid)


def load(port: int, posts: Sequence[tuple[str, str]], folder: Path) -> Load:
    """Let the load generator, as a process of its own, post these paths and bodies."""
    file = folder / "posts"
    file.write_text("".join(json.dumps(post) + "\n" for post in posts))
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", str(port), str(CONNECTIONS), file],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(ran.stderr)
    said = json.loads(ran.stdout)
    statuses = {int(status): count for status, count in said["statuses"].items()}
    if set(statuses) != {200}:
        raise RuntimeError(f"not every request was answered 200: {statuses}")
    return Load(began=said["began"], ended=said["ended"], statuses=statuses, bodies=())


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"nothing listens: {log.read_text()[-2000:]}")


def _wait_for_ready(process: subprocess.Popen[bytes], notified: socket.socket, log: Path) -> None:
    end = time.perf_counter() + PATIENCE
    notified.settimeout(0.25)
    while time.perf_counter() < end and process.poll() is None:
        try:
            if b"READY=1" in notified.recv(4096):
                return
        except TimeoutError:
            continue
    raise RuntimeError(f"the receiver did not become ready: {log.read_text()[-2000:]}")
