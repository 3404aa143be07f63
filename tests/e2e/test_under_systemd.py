"""The service under systemd's protocol: socket activation, readiness, watchdog, and the stop notice."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from harness.ports import free_port

# As systemd does between fork and exec: the socket becomes descriptor 3, named by environment variables.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="public")
os.execv(sys.executable, [sys.executable, "-m", "receiver", "serve"])
"""


def test_systemd_is_notified_from_start_to_stop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as public, a_notify_socket(tmp_path / "notify") as received:
        with a_launched_service(tmp_path, public) as service:
            assert message_of_start(received) == b"READY=1"
            with urllib.request.urlopen(f"http://127.0.0.1:{public.getsockname()[1]}/healthz", timeout=5) as answer:
                assert answer.status == 200
            assert received.recv(4096) == b"WATCHDOG=1"
            assert received.recv(4096) == b"WATCHDOG=1"

            service.send_signal(signal.SIGTERM)

            assert service.wait(20) == 0, (tmp_path / "log").read_text()
        assert b"STOPPING=1" in remaining_messages(received)


def test_systemd_is_notified_of_a_reload(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as public,
        a_notify_socket(tmp_path / "notify") as received,
        a_launched_service(tmp_path, public) as service,
    ):
        assert message_of_start(received) == b"READY=1"

        service.send_signal(signal.SIGHUP)

        sent = list(islice((message for message in messages(received) if message != b"WATCHDOG=1"), 3))
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0

    fields = dict(line.split(b"=") for line in sent[0].splitlines())
    assert fields[b"RELOADING"] == b"1"
    assert 0 < int(fields[b"MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert sent[1:] == [b"STATUS=Reloaded.", b"READY=1"]


@contextmanager
def a_notify_socket(address: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        received.bind(str(address))
        received.settimeout(20)
        yield received


@contextmanager
def a_launched_service(folder: Path, public: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "config.toml").write_text("")
    given = fcntl.fcntl(public.fileno(), fcntl.F_DUPFD, 100)  # clear of descriptor 3
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NOTIFY_SOCKET": str(folder / "notify"),
        "WATCHDOG_USEC": "200000",
        "KLING_RECEIVER_CONFIG": str(folder / "config.toml"),
        "KLING_RECEIVER__PUBLIC__LISTEN": "127.0.0.1:1",  # binding it would fail
        "KLING_RECEIVER__ADMIN__LISTEN": f"127.0.0.1:{free_port()}",
        "KLING_RECEIVER__STORE__URL": f"sqlite:{folder / 'receiver.db'}",
        "KLING_RECEIVER__KLING__API_KEY": "never used",
    }
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(given)], pass_fds=[given], env=environ, stdout=log, stderr=log
        )
    os.close(given)
    try:
        yield service
    finally:
        service.kill()
        service.wait()


def message_of_start(received: socket.socket) -> bytes:
    """Return the first message after the notices that the start takes time."""
    return next(message for message in messages(received) if not message.startswith(b"EXTEND_TIMEOUT_USEC="))


def messages(received: socket.socket) -> Iterator[bytes]:
    while True:
        yield received.recv(4096)


def remaining_messages(received: socket.socket) -> list[bytes]:
    """Return all messages of a process that has ended."""
    received.setblocking(False)
    sent = []
    while True:
        try:
            sent.append(received.recv(4096))
        except BlockingIOError:
            return sent
