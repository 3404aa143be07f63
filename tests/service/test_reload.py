"""A reload waits until the file is complete. Editors truncate it before they write, or move it away for a moment."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from harness.clock import FakeClock
from harness.waiting import let_loop_run

from receiver.service.reload import Reloader
from receiver.service.systemd import SystemdNotifier
from receiver.settings import load

CONFIG = '[poll]\nevery = "10m"\n'
CHANGED = '[poll]\nevery = "9m"\n'
STEP = timedelta(seconds=0.05)


def write(file: Path, text: str, clock: FakeClock) -> None:
    """Write a file now, by the fake clock."""
    file.write_text(text)
    now = clock.now().timestamp()
    os.utime(file, (now, now))


def truncate(file: Path, clock: FakeClock) -> None:
    write(file, "", clock)


def move_away(file: Path, _: FakeClock) -> None:
    file.unlink()


async def pass_steps(clock: FakeClock, number: int) -> None:
    """Let so many checks of the file happen, and what they start in a thread."""
    for _ in range(number):
        await let_loop_run()
        clock.advance(STEP)
    await let_loop_run()
    await asyncio.to_thread(let_threads_run)
    await let_loop_run()


def let_threads_run() -> None:
    """Do nothing, after all work that the only thread was given before."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A complete configuration file, written long ago."""
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    os.utime(path, (0, 0))
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def reloader(file: Path, clock: FakeClock) -> Reloader:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    return Reloader(load(file, {}), requested=asyncio.Event(), systemd=SystemdNotifier(), clock=clock)


@pytest.mark.parametrize("begin_to_write", [truncate, move_away])
async def test_a_reload_reads_a_file_only_when_it_is_complete(
    file: Path, clock: FakeClock, reloader: Reloader, begin_to_write: Callable[[Path, FakeClock], None]
) -> None:
    begin_to_write(file, clock)

    reloading = asyncio.create_task(reloader.preview())
    await pass_steps(clock, 4)
    write(file, "[poll]", clock)  # the first half
    await pass_steps(clock, 4)
    assert not reloading.done()
    write(file, CHANGED, clock)
    await pass_steps(clock, 5)
    assert not reloading.done()
    await pass_steps(clock, 5)

    told = await reloading
    assert [(each.key, each.after) for each in told.changed] == [("poll.every", "9m")]


async def test_a_file_that_was_written_long_ago_is_read_at_once(
    file: Path, clock: FakeClock, reloader: Reloader
) -> None:
    write(file, CHANGED, clock)
    clock.advance(timedelta(seconds=2))

    told = await reloader.preview()  # the clock stands still

    assert [each.key for each in told.changed] == ["poll.every"]


async def test_a_file_that_keeps_changing_is_read_after_five_seconds(
    file: Path, clock: FakeClock, reloader: Reloader
) -> None:
    reloading = asyncio.create_task(reloader.preview())
    for number in range(1, 99):
        write(file, CHANGED + "#" * number, clock)
        await pass_steps(clock, 1)
    assert not reloading.done()
    await pass_steps(clock, 3)

    assert (await reloading).changed
