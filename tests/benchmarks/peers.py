"""Other programs that people would use instead, installed for a run on request: ``make bench ARGS=--peers``.

hookspool stores each webhook before it answers and delivers it signed. Node-RED passes it on without storing or
signing it. procrastinate is a queue in PostgreSQL. All are installed into ``var/peers``, from the package registries
that pip and npm use.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.processes import ROOT, Post, Server, wait_for_port
from harness.ports import free_port

FOLDER = ROOT / "var" / "peers"
_PROCRASTINATE = ("procrastinate>=3,<4", "psycopg[binary]", "aiohttp")
_HOOKSPOOL, _NODE_RED = "hookspool==0.2.0", "node-red@4"  # version 5 needs a newer node than Debian has
_TOKEN = "a-token-of-these-measurements"
_HOOKSPOOL_CONFIG = """
[intake]
listen = "127.0.0.1:{port}"
threads = 64
[dispatch]
parallel = 32
poll_s = 0.05
[alerts]
dry = true
[bobbins.kling]
bobbin = "hookspool.webhook"
span = "immediate"
settings = {{ scheme = "url-token", key = ["task_id"], sender_retries = true }}
secrets.secret = {{ file = "{folder}/token" }}
outputs = {{ "*" = "http:sink" }}
[destinations."http:sink"]
type = "http"
url = "http://127.0.0.1:{sink}/hook"
allow_insecure = true
secret = {{ file = "{folder}/key" }}
max_inflight = 32
"""
_NODE_RED_FLOW: list[dict[str, object]] = [
    {"id": "tab", "type": "tab", "label": "callbacks"},
    {
        "id": "in",
        "type": "http in",
        "z": "tab",
        "url": "/callbacks/:token",
        "method": "post",
        "wires": [["out", "answer"]],
    },
    {"id": "answer", "type": "http response", "z": "tab", "statusCode": "200", "wires": []},
    {"id": "out", "type": "http request", "z": "tab", "method": "POST", "ret": "txt", "persist": True, "wires": [[]]},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A running peer, and the form of its URLs."""

    server: Server
    path: str | None = None

    def posts(self, posts: Sequence[Post]) -> list[Post]:
        """Return the same callbacks, sent to the peer's path."""
        return [(self.path or path, body) for path, body, *_ in posts]


Run: TypeAlias = Callable[[int, Path], AbstractContextManager[Peer]]


@contextmanager
def hookspool(sink: int, folder: Path) -> Iterator[Peer]:
    """Run hookspool's intake and its dispatcher in front of the sink."""
    python = FOLDER / "venv" / "bin"
    if not (python / "hookspool").exists():
        _install([sys.executable, "-m", "venv", str(FOLDER / "venv")])
        _install([str(python / "pip"), "install", "--quiet", _HOOKSPOOL])
    home, port = folder / "hookspool", free_port()
    home.mkdir()
    for name, secret in (("token", _TOKEN), ("key", "whsec_dGhlIHNlY3JldCBvZiB0aGVzZSBtZWFzdXJlbWVudHM=")):
        (home / name).write_text(secret)
        (home / name).chmod(0o600)
    (home / "config.toml").write_text(_HOOKSPOOL_CONFIG.format(port=port, sink=sink, folder=home))
    command = [str(python / "hookspool"), "--home", str(home)]
    subprocess.run([*command, "migrate"], check=True, capture_output=True, timeout=60)
    both = f"{shlex.join(command)} intake & {shlex.join(command)} dispatch & wait"
    with _running(["/bin/sh", "-c", both], port, home / "log") as server:
        yield Peer(server=server, path=f"/hooks/kling?token={_TOKEN}")


@contextmanager
def node_red(sink: int, folder: Path) -> Iterator[Peer]:
    """Run a Node-RED flow that answers and passes the callback on to the sink."""
    if shutil.which("npm") is None:
        raise RuntimeError("Node-RED needs node and npm. Install them, or leave out --peers.")
    script = FOLDER / "node-red" / "node_modules" / "node-red" / "red.js"
    if not script.exists():
        script.parents[2].mkdir(parents=True, exist_ok=True)
        _install(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(script.parents[2]), _NODE_RED]
        )
    home, port = folder / "node-red", free_port()
    home.mkdir()
    out = _NODE_RED_FLOW[-1] | {"url": f"http://127.0.0.1:{sink}/hook"}
    (home / "flows.json").write_text(json.dumps([*_NODE_RED_FLOW[:-1], out]))
    (home / "settings.js").write_text(
        "module.exports = {flowFile: 'flows.json', httpAdminRoot: false, telemetry: {enabled: false},"
        " logging: {console: {level: 'warn'}}, uiHost: '127.0.0.1'};"
    )
    command = [
        "node",
        str(script),
        "--userDir",
        str(home),
        "--port",
        str(port),
        "--settings",
        str(home / "settings.js"),
    ]
    with _running(command, port, home / "log") as server:
        yield Peer(server=server)


def procrastinate_python() -> Path:
    """Return a Python in which procrastinate is installed."""
    python = FOLDER / "procrastinate" / "bin" / "python"
    if not (python.parent / "procrastinate").exists():
        _install([sys.executable, "-m", "venv", str(python.parent.parent)])
        _install([str(python), "-m", "pip", "install", "--quiet", *_PROCRASTINATE])
    return python


PEERS: dict[str, Run] = {"hookspool": hookspool, "Node-RED": node_red}


def _install(command: Sequence[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True, timeout=600)


@contextmanager
def _running(command: Sequence[str], port: int, log: Path) -> Iterator[Server]:
    env = {"PATH": os.environ["PATH"], "HOME": str(log.parent)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )
    try:
        wait_for_port(process, port, log)
        time.sleep(1)  # Node-RED listens before its flow is loaded
        yield Server(port=port, pid=process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
