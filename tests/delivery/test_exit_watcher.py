"""Waiting for the exits of processes, in the moments when two things come together."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from receiver.delivery.senders.exit_watcher import exit_watcher, open_pidfd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfd_open needs Linux")


@pytest.fixture
def pidfd() -> Iterator[int]:
    """The descriptor of a process that has exited and is not reaped yet."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        descriptor = open_pidfd(child.pid)
        yield descriptor
        os.close(descriptor)


async def test_an_exit_at_the_end_of_one_wait_is_seen_by_the_next(pidfd: int) -> None:
    watcher = exit_watcher()
    first = asyncio.ensure_future(watcher.wait(pidfd, 0))
    await asyncio.sleep(0)  # it registers; the event loop has not looked at the descriptor yet
    watcher._exits[pidfd].set_result(False)  # its time is over, and in the same turn the exit is read
    watcher._wake()

    assert not await first
    assert await watcher.wait(pidfd, 30)


async def test_a_cancelled_wait_leaves_the_descriptor_for_the_next(pidfd: int) -> None:
    watcher = exit_watcher()
    first = asyncio.ensure_future(watcher.wait(pidfd, 30))
    await asyncio.sleep(0)  # it registers; the event loop has not looked at the descriptor yet
    first.cancel()
    watcher._wake()
    await asyncio.gather(first, return_exceptions=True)

    assert await watcher.wait(pidfd, 30)
