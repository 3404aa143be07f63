"""The demo's sandbox: a temporary folder, free ports, a configuration, and the processes."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import IO, Self, cast

import receiver
from receiver.cli.demo.webhook_sink import HOOK_PATH
from receiver.cli.options import UsageError
from receiver.domain.errors import ReceiverError
from receiver.domain.secret import Secret

WEBHOOK_ROUTE = "webhook"
SCRIPT_ROUTE = "script"

_STOP_SECONDS = 8.0
_LOG_TAIL_LINES = 5
_LAST_PORT = 65535

_SCRIPT = """\
#!/bin/sh
# A route's script: the event is on stdin, its main fields are in the environment. Exit 0 means delivered.
cat >> "{output}"
echo >> "{output}"
echo "published task $KLING_TASK_ID: $KLING_STATUS"
"""

_CONFIG = """\
[public]
listen = "127.0.0.1:{public}"
url = "http://127.0.0.1:{public}"

[admin]
listen = "127.0.0.1:{admin}"

[store]
url = "sqlite:receiver.db"

[kling]
base_url = "http://127.0.0.1:{kling}"  # the simulator
api_key = "any-key-will-do"

[gateway]
secret = "file:{secret_file}"

[network]
allow = ["127.0.0.1/32"]  # the demo's client listens here; real clients have public addresses

{archive}[[routes]]
name = "{webhook_route}"
on = ["succeed"]
webhook = {{ url = "http://127.0.0.1:{sink}{hook_path}", secret = "file:{secret_file}" }}

[[routes]]
name = "{script_route}"
on = ["succeed"]
script = {{ command = ["/bin/sh", "{script_file}"], timeout = "10s" }}
"""


_ARCHIVE = """\
[archive]
dir = "results"

"""


class DemoFailed(ReceiverError):
    """The demo failed."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The loopback ports of the demo's listeners."""

    public: int
    admin: int
    kling: int
    sink: int

    @classmethod
    def choose(cls, first: int | None) -> "Ports":
        """Choose four consecutive ports from *first* on, or any four free ports.

        Raises UsageError if the ports are out of range, and DemoFailed if one is in use. The demo would otherwise talk
        to the program that already uses the port.
        """
        if first is not None and not 1 <= first <= _LAST_PORT - 3:
            raise UsageError(
                f"--port {first} is out of range: the demo needs four consecutive ports.",
                remedy=f"Give a number from 1 to {_LAST_PORT - 3}.",
            )
        wanted = [0] * 4 if first is None else [first + n for n in range(4)]
        with ExitStack() as held:
            probes = [held.enter_context(_probe(port)) for port in wanted]
            public, admin, kling, sink = (int(probe.getsockname()[1]) for probe in probes)
        return cls(public=public, admin=admin, kling=kling, sink=sink)


def _probe(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as exc:
        raise DemoFailed(
            f"Cannot listen on port {port}: {os.strerror(exc.errno or 0)}.",
            remedy="Choose another --port, or omit it to use any four free ports.",
        ) from exc


class Sandbox:
    """A temporary folder with the demo's files. It starts the demo's processes and stops them all at the end."""

    def __init__(self, ports: Ports, *, archive: bool = False) -> None:
        """With *archive*, results are downloaded, so that the console can show them."""
        self.ports = ports
        self._archive = archive
        self.folder = Path(tempfile.mkdtemp(prefix="kling-receiver-demo-")).resolve()
        self.config = self.folder / "config.toml"
        self.output_file = self.folder / "published.jsonl"
        self.secret = Secret("whsec_" + b64encode(secrets.token_bytes(24)).decode())
        self.keep_folder = False
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._write_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _stop([process for _, process in reversed(self._started)])
        if not self.keep_folder:
            rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, *argv: str) -> None:
        """Start a kling-receiver command as a process, with its output in a log file."""
        with self.log_file(name).open("wb") as log:
            self._start(name, argv, stdout=log, stderr=log)

    def start_with_output(self, name: str, *argv: str) -> IO[bytes]:
        """Start a kling-receiver command as a process, and return its stdout, which the reader closes at its end."""
        with self.log_file(name).open("wb") as log:
            process = self._start(name, argv, stdout=subprocess.PIPE, stderr=log)
        return cast("IO[bytes]", process.stdout)  # never None, because stdout is a pipe

    def _start(
        self, name: str, argv: Sequence[str], *, stdout: IO[bytes] | int, stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 -- our own interpreter and package
            [sys.executable, "-P", "-m", "receiver", *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=_process_environment(),
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the others in order
        )
        self._started.append((name, process))
        return process

    def log_file(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.folder / f"{name}.log"

    def check_running(self) -> None:
        """Raise DemoFailed if a process has ended."""
        for name, process in self._started:
            if process.poll() is not None:
                raise DemoFailed(f"The {name} ended with exit code {process.returncode}.{self.log_tail(name)}")

    def log_tail(self, name: str) -> str:
        """Return the last lines of a process's log."""
        lines = self.log_file(name).read_text("utf-8", "replace").strip().splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  {line}" for line in lines)

    def _write_files(self) -> None:
        secret_file = self.folder / "webhook-secret"
        secret_file.touch(0o600)
        secret_file.write_text(self.secret.reveal(), "utf-8")
        script_file = self.folder / "publish.sh"
        script_file.write_text(_SCRIPT.format(output=self.output_file), "utf-8")
        self.config.write_text(
            _CONFIG.format(
                public=self.ports.public,
                admin=self.ports.admin,
                kling=self.ports.kling,
                sink=self.ports.sink,
                hook_path=HOOK_PATH,
                secret_file=secret_file,
                script_file=script_file,
                archive=_ARCHIVE if self._archive else "",
                webhook_route=WEBHOOK_ROUTE,
                script_route=SCRIPT_ROUTE,
            ),
            "utf-8",
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop the processes in order. Kill them all if one takes too long, or at Ctrl-C."""
    try:
        for process in processes:
            process.terminate()
            process.wait(_STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            process.kill()
            process.wait()


def clean_environment() -> dict[str, str]:
    """Return this environment without the settings of a real installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KLING_")}


def _process_environment() -> dict[str, str]:
    """Return an environment in which a process imports this package, and nothing from the current folder."""
    package_root = str(Path(receiver.__file__).parent.parent)
    inherited = [path] if (path := os.environ.get("PYTHONPATH")) else []
    return clean_environment() | {"PYTHONPATH": os.pathsep.join([package_root, *inherited]), "PYTHONUNBUFFERED": "1"}
