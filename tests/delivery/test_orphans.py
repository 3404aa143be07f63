"""What a killed runner left running is found by its mark and its output, and ended; nothing else is."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.waiting import wait_until

from receiver.delivery.senders.process import kill_orphans

RUNNER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from receiver.delivery.senders.process import run

async def main():
    for text in sys.argv[1:]:
        await run(["/bin/sh", "-c", text], content=b"{}", env={"PATH": "/usr/bin:/bin"}, cwd=None,
                  time_limit=timedelta(minutes=5), output_limit=100)

asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphaned processes are found in Linux's /proc")


async def run_until_killed(*scripts: str, once: Path) -> None:
    """Run scripts one after the other in a process of its own, and kill it when the file is there."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, *scripts])
    await wait_until(lambda: once.exists() and bool(once.read_text()))
    runner.kill()
    runner.wait()


def is_running(pid_file: Path) -> Callable[[], bool]:
    def check() -> bool:
        try:
            stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
        except OSError:
            return False
        return not stat.rpartition(") ")[2].startswith("Z")

    return check


async def test_a_script_whose_runner_was_killed_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run_until_killed(f"echo $$ >{pid}; exec sleep 60", once=pid)

    await kill_orphans()

    await wait_until(lambda: not is_running(pid)())


async def test_the_processes_of_an_orphaned_script_end_with_it(tmp_path: Path) -> None:
    strayed, own = tmp_path / "strayed", tmp_path / "own"
    escape = f"setsid env -i /bin/sh -c 'echo $$ >{strayed}; exec sleep 60' >/dev/null 2>&1 &"
    text = f"{escape} while ! test -s {strayed}; do sleep 0.05; done; echo $$ >{own}; wait"
    await run_until_killed(text, once=own)

    await kill_orphans()

    await wait_until(lambda: not is_running(own)() and not is_running(strayed)())


async def test_a_script_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run_until_killed(f"trap '' TERM; echo $$ >{pid}; while :; do sleep 1; done", once=pid)

    await kill_orphans()

    await wait_until(lambda: not is_running(pid)())


async def test_a_background_process_of_a_finished_script_is_not_killed(tmp_path: Path) -> None:
    stays, running = tmp_path / "stays", tmp_path / "running"
    await run_until_killed(
        f"setsid sleep 60 >/dev/null 2>&1 & echo $! >{stays}", f"echo $$ >{running}; exec sleep 60", once=running
    )

    await kill_orphans()

    await wait_until(lambda: not is_running(running)())
    assert is_running(stays)()
    os.kill(int(stays.read_text()), signal.SIGKILL)


async def test_a_script_of_a_live_runner_is_not_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, f"echo $$ >{pid}; exec sleep 60"])
    await wait_until(lambda: pid.exists() and bool(pid.read_text()))

    await kill_orphans()

    assert is_running(pid)()
    runner.kill()
    runner.wait()
    await kill_orphans()
    await wait_until(lambda: not is_running(pid)())
