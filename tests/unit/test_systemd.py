"""The protocol with systemd, on real sockets and a real child process."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from receiver.service.systemd import SystemdNotifier, listen_fds

# Puts the descriptors named on the command line where systemd would, and says what became of them.
CHILD = """
import json, os, sys
from receiver.domain.errors import ConfigurationError
from receiver.service.systemd import listen_fds

for place, given in enumerate(map(int, sys.argv[1:]), start=3):
    os.dup2(given, place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sys.argv) - 1))
try:
    taken = listen_fds()
except ConfigurationError as error:
    fault = str(error)
else:
    fault = ""
if fault:
    os.fstat(3)  # raises if it was closed
    sys.exit(fault)
print(json.dumps({
    "ports": {name: [s.getsockname()[1] for s in sockets] for name, sockets in taken.items()},
    "inherited": [s.get_inheritable() for sockets in taken.values() for s in sockets],
    "environment": [name for name in os.environ if name.startswith("LISTEN_")],
}))
"""


def test_each_state_is_one_datagram_of_systemds_protocol(tmp_path: Path) -> None:
    with notify_socket(str(tmp_path / "notify")) as received:
        notifier = SystemdNotifier(str(tmp_path / "notify"))

        notifier.ready()
        notifier.status("two routes\nREADY=0")
        notifier.watchdog()
        notifier.stopping()

        assert [received.recv(100) for _ in range(4)] == [
            b"READY=1",
            b"STATUS=two routes READY=0",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_an_address_that_starts_with_at_is_an_abstract_socket() -> None:
    with notify_socket(f"\0kling-receiver-test-{os.getpid()}") as received:
        SystemdNotifier(f"@kling-receiver-test-{os.getpid()}").ready()

        assert received.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nobody/listens", "vsock:2:1234", "@", "/nul\0inside", "/" + "x" * 300])
def test_a_missing_notify_socket_is_not_an_error(address: str) -> None:
    SystemdNotifier(address).ready()


def test_an_unresponsive_systemd_delays_nothing(tmp_path: Path) -> None:
    with notify_socket(str(tmp_path / "notify")):
        notifier = SystemdNotifier(str(tmp_path / "notify"))

        began = time.perf_counter()
        for _ in range(20):  # more than the socket's buffer takes
            notifier.status("x" * 60_000)

        assert time.perf_counter() - began < 20


def test_systemds_variables_are_removed_from_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}

    notifier = SystemdNotifier.from_environment(environ)

    assert notifier.watchdog_interval == timedelta(seconds=15)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
)
def test_without_a_watchdog_no_keepalive_is_sent(environ: dict[str, str]) -> None:
    assert SystemdNotifier.from_environment(environ).watchdog_interval is None


def test_sockets_are_found_by_name_and_not_inherited() -> None:
    with listening() as first, listening() as second, listening() as third:
        output = child([first, second, third], names="public:admin:public")

        ports = [s.getsockname()[1] for s in (first, second, third)]
        assert output.returncode == 0, output.stderr
        assert output.stdout == (
            f'{{"ports": {{"public": [{ports[0]}, {ports[2]}], "admin": [{ports[1]}]}}, '
            '"inherited": [false, false, false], "environment": []}\n'
        )


def test_sockets_without_names_are_called_unknown() -> None:
    with listening() as only:
        output = child([only], names="")

        assert f'"unknown": [{only.getsockname()[1]}]' in output.stdout


def test_an_unusable_socket_is_an_error_of_the_unit() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        output = child([datagrams], names="public")

        assert output.returncode == 1
        assert "'public'" in output.stderr
        assert "ListenStream=" in output.stderr
        assert "Traceback" not in output.stderr, "it was not ours to close"


def test_sockets_for_another_process_are_ignored() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}

    assert listen_fds(environ) == {}
    assert environ == {}


@contextmanager
def notify_socket(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        received.bind(address)
        received.settimeout(5)
        yield received


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def child(sockets: list[socket.socket], *, names: str) -> subprocess.CompletedProcess[str]:
    high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in sockets]  # out of the way of the places from 3 on
    try:
        return subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, high)],
            env={"PYTHONPATH": str(Path(__file__).parents[2])} | ({"LISTEN_FDNAMES": names} if names else {}),
            pass_fds=high,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    finally:
        for descriptor in high:
            os.close(descriptor)
