"""A real PgBouncer in transaction mode before the PostgreSQL server of the tests."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from harness.ports import free_port
from harness.postgres import PASSWORD, PostgresServer
from harness.postgres_watcher import account_options

# Everything else has the value of a new installation.
_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
"""
_START_SECONDS = 20


def find_pgbouncer() -> str:
    """Return the program, or skip the test."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    return program


@contextmanager
def a_pgbouncer(server: PostgresServer, *, more: str = "") -> Iterator[int]:
    """Run PgBouncer before *server*; yield its port. *more* are further settings."""
    program, port = find_pgbouncer(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="kling-pgbouncer-"))  # its account cannot reach pytest's folders
    try:
        settings = _SETTINGS.format(server_port=server.port, port=port, folder=folder)
        (folder / "pgbouncer.ini").write_text(f"{settings}{more}\n")
        (folder / "users").write_text(f'"postgres" "{PASSWORD}"\n')
        folder.chmod(0o755)
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stderr=output,
                cwd="/",
                **account_options(),
            )
        try:
            _wait_until_it_listens(process, log)
            yield port
        finally:
            process.kill()  # PgBouncer keeps nothing, and waits for its clients if it is asked to stop
            process.wait()
    finally:
        shutil.rmtree(folder)


def pooled_url(database: str, port: int) -> str:
    """Return the URL of a database through PgBouncer, with the password."""
    return f"postgresql://postgres:{quote(PASSWORD)}@127.0.0.1:{port}/{database}"


def _wait_until_it_listens(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while b"process up" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"PgBouncer did not start: {log.read_text()}")
        time.sleep(0.02)
