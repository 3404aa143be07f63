"""The listeners fit into the number of files that the process may open."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from harness.echo_app import GET

from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.file_limit import fit_backlog, fit_limits

FILES = 120
PROGRAM = f"""
import asyncio, resource, uvloop
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
from harness.echo_app import echo
from harness.logs import configure_plain_logs
from receiver.settings import Address
from receiver.web.server.listener import Listener
configure_plain_logs()
async def main():
    listener = Listener(echo, key="[public] listen", address=Address("127.0.0.1", 0))
    serving = asyncio.create_task(listener.serve(asyncio.Event()))
    await listener.started.wait()
    print(listener.addresses[0].port, flush=True)
    await serving
uvloop.run(main())
"""


@pytest.mark.parametrize(("files", "connections"), [(65_536, 400), (1024, 400), (256, 92), (100, 30), (10, 8)])
def test_connections_fit_into_the_limit_of_open_files(files: int, connections: int) -> None:
    limits = fit_limits(ConnectionLimits(), files=files)

    assert limits.connections == connections
    assert limits.per_peer == min(200, connections // 2)


@pytest.mark.parametrize(("files", "backlog"), [(65_536, 1024), (1024, 128), (64, 16)])
def test_the_backlog_fits_into_the_limit_of_open_files(files: int, backlog: int) -> None:
    assert fit_backlog(1024, files=files) == backlog


@contextlib.contextmanager
def a_listener_with_few_files() -> Iterator[tuple[int, str]]:
    """Run a listener that may open only a few files. Returns its port, and what it logged at the start."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, cwd="tests")
    assert process.stdout is not None
    logged = ""
    try:
        while not (line := process.stdout.readline()).strip().isdigit():
            assert line, "the process ended early"
            logged += line
        yield int(line), logged
    finally:
        process.kill()
        process.communicate()


async def test_a_flood_of_connections_leaves_descriptors_for_a_good_request() -> None:
    with a_listener_with_few_files() as (port, logged):
        flood = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.4.{n}", 0)) for n in range(1, 201)
        ]
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET + b"\r\n")
            answer = await reader.readuntil(b"heard ")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert "listener.limited" in logged
    assert "LimitNOFILE" in logged
    for _, each in [*flood, (reader, writer)]:
        each.transport.abort()
    await asyncio.sleep(0)
