"""Runs a PostgreSQL server while any process holds the other end of the pipe; then stops it and removes its files.

Arguments: the folder of the pipe, the folder of the server's programs, and the password of the role postgres.
The server's data is in memory if there is room, so that its fsync stays on and costs nothing, or in the folder
``POSTGRES_TESTS_FOLDER`` for measurements.
"""

import asyncio
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOM = 2 << 30
ACCOUNT = "nobody"  # the server refuses to run as root
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
    "log_line_prefix": "%d %p ",
}


def main(folder: Path, programs: Path, password: str) -> None:
    users = Users(folder)
    if os.fork():
        return  # the tests do not wait for the process that stays
    try:
        serve(folder, programs, password, users)
    except BaseException:
        (folder / "postgres.failed").touch()
        raise


def serve(folder: Path, programs: Path, password: str, users: "Users") -> None:
    data = make_data_folder()
    server: subprocess.Popen[bytes] | None = None
    try:
        programs = usable_programs(programs, data)
        port = free_port()
        initialize(programs, data, password)
        server = start(programs, data, port)
        asyncio.run(make_template(folder, data, programs, port))
        while not users.are_gone():
            if server.poll() is not None:  # a test stopped it
                server = start(programs, data, port)
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)
            server.wait()
        shutil.rmtree(data, ignore_errors=True)
        (folder / "postgres.json").unlink(missing_ok=True)


def make_data_folder() -> Path:
    """Make the server's folder, which belongs to its account."""
    memory = Path("/dev/shm")  # noqa: S108 -- in memory, and private
    parent = memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None
    parent = Path(os.environ["POSTGRES_TESTS_FOLDER"]) if "POSTGRES_TESTS_FOLDER" in os.environ else parent
    data = Path(tempfile.mkdtemp(prefix="kling-postgres-", dir=parent))
    if os.geteuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        os.chown(data, account.pw_uid, account.pw_gid)
    return data


def account_options() -> dict[str, Any]:
    return {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid, "extra_groups": ()} if os.geteuid() == 0 else {}


def usable_programs(programs: Path, data: Path) -> Path:
    """Return the programs, or a copy of them if the server's account cannot reach them."""
    try:
        subprocess.run([programs / "postgres", "--version"], check=True, cwd=data, **account_options())
    except PermissionError:
        shutil.copytree(programs.parent, data / "programs", symlinks=True)
        return data / "programs/bin"
    return programs


def initialize(programs: Path, data: Path, password: str) -> None:
    password_file = data / "password"
    password_file.write_text(password)
    password_file.chmod(0o644)
    subprocess.run(
        [
            programs / "initdb",
            *("--pgdata", data / "data", "--username", "postgres", "--pwfile", password_file),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions", "--no-sync"),
        ],
        check=True,
        cwd=data,
        env={"PATH": "/usr/bin:/bin"},
        **account_options(),
    )


def start(programs: Path, data: Path, port: int) -> subprocess.Popen[bytes]:
    options = {**OPTIONS, "port": str(port), "unix_socket_directories": str(data)}
    server = subprocess.Popen(
        [programs / "postgres", "-D", data / "data", *(f"--{name}={value}" for name, value in options.items())],
        cwd=data,
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        **account_options(),
    )
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.02)
    raise SystemExit("the server ended")


async def make_template(folder: Path, data: Path, programs: Path, port: int) -> None:
    """Create the migrated template, then publish where the server is."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from harness.postgres import PostgresServer  # noqa: PLC0415 -- this is a program of its own

    server = PostgresServer(folder=data, port=port, programs=programs, log=folder / "postgres_watcher.log")
    for attempt in range(200):
        try:
            await server.execute("SELECT 1")
            break
        except Exception:
            if attempt == 199:
                raise
            await asyncio.sleep(0.05)  # the server is starting up
    await server.create_template()
    found = {"folder": str(data), "port": port, "programs": str(programs)}
    beside = folder / "postgres.json.new"
    beside.write_text(json.dumps(found))
    beside.rename(folder / "postgres.json")


class Users:
    """The processes that hold the other end of the pipe."""

    def __init__(self, folder: Path) -> None:
        self._lock = folder / "postgres.lock"
        self._pipe = os.open(folder / "postgres.pipe", os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def are_gone(self) -> bool:
        """Wait a moment for no process to hold the other end of the pipe; then refuse new ones and return True."""
        if not self._is_hung_up(100):
            return False
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_hung_up(0):  # a process joined meanwhile
                return False
            os.close(self._pipe)
            return True

    def _is_hung_up(self, milliseconds: int) -> bool:
        return any(event & select.POLLHUP for _, event in self._poll.poll(milliseconds))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
