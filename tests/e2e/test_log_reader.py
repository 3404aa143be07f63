"""A log whose reader does not read costs lines, and never a callback."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.raw_http import http_request
from harness.running_service import Receiver, a_config

DEAD_URL = "http://127.0.0.1:9"


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes no more bytes: its read end and its write end."""
    read_end, write_end = os.pipe()
    capacity = fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)
    os.write(write_end, b"x" * (capacity - 1) + b"\n")
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


async def test_an_unread_log_stops_neither_callbacks_nor_the_stop(tmp_path: Path, full_pipe: tuple[int, int]) -> None:
    receiver = Receiver(tmp_path, a_config(DEAD_URL))
    spawn(receiver, full_pipe[1])
    await receiver.wait_until_ready()

    answers = [await http_request("POST", f"{receiver.public}/callbacks/wrong", b"{}") for _ in range(20)]

    assert {answer.status for answer in answers} == {404}
    assert await receiver.stop(seconds=15) == 0


async def test_the_log_continues_when_it_is_read_again(tmp_path: Path, full_pipe: tuple[int, int]) -> None:
    receiver = Receiver(tmp_path, a_config(DEAD_URL))
    spawn(receiver, full_pipe[1])
    await receiver.wait_until_ready()

    log: list[bytes] = []
    reading = asyncio.create_task(asyncio.to_thread(read_log, full_pipe[0], log))
    assert await receiver.stop(seconds=15) == 0

    os.write(full_pipe[1], b"end\n")
    await reading
    events = [json.loads(line)["event"] for line in log if line.startswith(b"{")]
    assert [event for event in events if event.startswith("service.")] == [
        "service.starting",
        "service.ready",
        "service.stopping",
    ]


def test_a_start_that_fails_ends_with_an_unread_log(tmp_path: Path, full_pipe: tuple[int, int]) -> None:
    receiver = Receiver(tmp_path, "[public]\nlisten = 'nowhere'\n")
    spawn(receiver, full_pipe[1])

    assert receiver.process is not None
    assert receiver.process.wait(15) == 78


def spawn(receiver: Receiver, log: int) -> None:
    receiver.process = subprocess.Popen(
        [sys.executable, "-m", "receiver", "serve", "--config", str(receiver.config_path)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=receiver.environ,
        cwd=receiver.folder,
    )


def read_log(descriptor: int, lines: list[bytes]) -> None:
    with os.fdopen(os.dup(descriptor), "rb") as log:
        for line in log:
            if line == b"end\n":
                return
            lines.append(line)
