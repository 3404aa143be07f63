"""A script always ends, with everything it started, and no slot stays blocked."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from harness.script_sender import (
    SHORT_TIMEOUT,
    a_delivery_request,
    a_full_event,
    children,
    expect_failed,
    is_gone,
    run_shell,
)
from harness.waiting import wait_until

from receiver.delivery.senders import child_process, process
from receiver.delivery.senders.script import outcome_of
from receiver.domain.model import Accepted, Failed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphaned processes are found in Linux's /proc")


# What never reads, never ends, never lets go.


@pytest.mark.parametrize("text", ["exit 0", "exec <&-; exit 0", "head -c 1 >/dev/null"])
async def test_a_script_need_not_read_its_input(text: str) -> None:
    huge = a_full_event(body=json.dumps({"x": "y" * 5_000_000}).encode())

    for _ in range(3):
        assert isinstance(await run_shell(text, request=a_delivery_request(event=huge)), Accepted)


async def test_a_script_over_its_timeout_is_ended() -> None:
    started = time.perf_counter()

    outcome = expect_failed(await run_shell("echo begun; exec sleep 60", timeout=SHORT_TIMEOUT))

    assert time.perf_counter() - started < 4
    assert outcome.excerpt == b"begun\n"
    assert "ran longer than 0.3 s and was stopped" in outcome.reason


async def test_a_script_is_ended_on_systems_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_process_id: int) -> int:
        raise OSError("pidfd_open is not permitted")

    monkeypatch.setattr(process, "open_pidfd", refuse)

    assert isinstance(await run_shell("exit 0"), Accepted)
    late = expect_failed(await run_shell("exec sleep 60", timeout=SHORT_TIMEOUT))
    assert "ran longer than 0.3 s and was stopped" in late.reason


async def test_a_script_is_ended_by_sigterm_first() -> None:
    outcome = expect_failed(
        await run_shell("trap 'echo bye; exit 0' TERM; echo begun; sleep 60 & wait", timeout=SHORT_TIMEOUT)
    )

    assert outcome.excerpt == b"begun\nbye\n"
    assert outcome.code is None


async def test_a_script_that_ignores_sigterm_is_killed_after_five_seconds(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    started = time.perf_counter()

    expect_failed(await run_shell(f"trap '' TERM; echo $$ >{pid}; while :; do sleep 1; done", timeout=SHORT_TIMEOUT))

    assert 5 <= time.perf_counter() - started < 9
    assert is_gone(pid)()


async def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    await run_shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid}; sleep 60", timeout=SHORT_TIMEOUT)

    await wait_until(is_gone(pid))


@pytest.mark.parametrize(
    "escape",
    [
        "setsid sh -c 'echo $$ >{pid}; exec sleep 60' &",
        "setsid sh -c 'echo $$ >{pid}; exec sleep 60' >/dev/null 2>&1 </dev/null &",
        "setsid env -i /bin/sh -c 'echo $$ >{pid}; exec sleep 60' &",
        "(setsid sh -c 'setsid sh -c \"echo \\$\\$ >{pid}; exec sleep 60\" & exit' >/dev/null 2>&1 &) ;",
    ],
    ids=["new session", "detached", "without environment", "detached twice"],
)
async def test_a_timeout_ends_processes_that_left_the_group(tmp_path: Path, escape: str) -> None:
    pid = tmp_path / "pid"

    await run_shell(escape.format(pid=pid) + " sleep 60", timeout=timedelta(seconds=1))

    assert pid.exists()
    await wait_until(is_gone(pid))


@pytest.mark.parametrize("prefix", ["", "setsid ", "nohup "])
@pytest.mark.parametrize("code", [0, 1])
async def test_a_child_that_keeps_the_output_open_is_ended_without_delay(
    tmp_path: Path, prefix: str, code: int
) -> None:
    pid = tmp_path / "pid"
    started = time.perf_counter()

    outcome = await run_shell(f"{prefix}sh -c 'echo $$ >{pid}; exec sleep 60' & sleep 0.1; echo done; exit {code}")

    assert time.perf_counter() - started < 5
    assert isinstance(outcome, Failed if code else Accepted)
    assert b"done\n" in outcome.excerpt
    await wait_until(is_gone(pid))


async def test_after_a_success_a_child_that_closed_the_output_keeps_running(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    outcome = await run_shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid}")

    assert isinstance(outcome, Accepted)
    assert not is_gone(pid)()
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_failure_ends_every_process_of_the_group(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    await run_shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid}; exit 1")

    await wait_until(is_gone(pid))


@pytest.mark.parametrize(
    "end", ["exit 7", "exit 75", "exit 65", "kill -9 $$"], ids=["failed", "temporary failure", "refused", "killed"]
)
async def test_a_failure_ends_processes_that_left_the_group_and_the_output(tmp_path: Path, end: str) -> None:
    pid, loop = tmp_path / "pid", "while :; do sleep 0.2; done"

    await run_shell(
        f"setsid sh -c 'echo $$ >{pid}; {loop}' >/dev/null 2>&1 </dev/null & "
        f"while ! test -s {pid}; do sleep 0.01; done; {end}"
    )

    assert is_gone(pid)()


async def test_a_failure_does_not_end_processes_of_an_earlier_success(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run_shell(f"setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $! >{pid}")

    await run_shell("exit 7")

    assert not is_gone(pid)()
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_script_stopped_by_sigstop_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    expect_failed(await run_shell(f"echo $$ >{pid}; kill -STOP $$", timeout=SHORT_TIMEOUT))

    assert is_gone(pid)()


async def test_no_zombie_is_left() -> None:
    before = children()

    await asyncio.gather(*(run_shell(f"sleep 0.0{number}; exit {number}") for number in range(8)))
    await run_shell("exec sleep 60", timeout=SHORT_TIMEOUT)

    assert children() <= before


async def test_cancelling_ends_the_script_and_its_processes(tmp_path: Path) -> None:
    pids = [tmp_path / "own", tmp_path / "child", tmp_path / "strayed"]
    before = children()
    text = (
        f"sleep 60 & echo $! >{pids[1]}; setsid sh -c 'echo $$ >{pids[2]}; exec sleep 60' >/dev/null 2>&1 & "
        f"echo $$ >{pids[0]}; wait"
    )
    task = asyncio.ensure_future(run_shell(text))
    await wait_until(lambda: all(pid.exists() and pid.read_text() for pid in pids))

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for pid in pids:
        await wait_until(is_gone(pid))
    assert children() <= before


async def test_cancelling_twice_kills_at_once(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    task = asyncio.ensure_future(run_shell(f"trap '' TERM; echo $$ >{pid}; while :; do sleep 1; done"))
    await wait_until(lambda: pid.exists() and bool(pid.read_text()))
    started = time.perf_counter()

    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert time.perf_counter() - started < 3
    await wait_until(is_gone(pid))


async def test_cancelling_twice_also_kills_remaining_processes(tmp_path: Path) -> None:
    own, strayed = tmp_path / "own", tmp_path / "strayed"
    stubborn = f'trap "" TERM; echo $$ >{strayed}; while :; do sleep 0.2; done'
    text = (
        f"setsid sh -c '{stubborn}' >/dev/null 2>&1 </dev/null & "
        f"while ! test -s {strayed}; do sleep 0.01; done; echo $$ >{own}; exec sleep 60"
    )
    task = asyncio.ensure_future(run_shell(text))
    await wait_until(lambda: own.exists() and bool(own.read_text()))

    task.cancel()
    await wait_until(is_gone(own))
    assert not is_gone(strayed)()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await wait_until(is_gone(strayed))


# Who owns the exit code and the id of an ended script.


IGNORES_EXITS = """
import asyncio, sys
from harness.script_sender import send_to_script
outcome = asyncio.run(send_to_script("/bin/sh", "-c", "exit 1"))
print(type(outcome).__name__, outcome.code)
"""


def test_a_failing_script_fails_under_a_parent_that_ignores_the_exits_of_children() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        service = subprocess.Popen(
            [sys.executable, "-c", IGNORES_EXITS],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGCHLD, before)

    printed = service.communicate(timeout=30)[0]

    assert printed.startswith("Failed 1")


def test_a_script_that_something_else_reaped_counts_as_failed() -> None:
    with Path(os.devnull).open("r+b", buffering=0) as null:
        child = child_process.start(["/bin/true"], event=null.fileno(), output=null.fileno(), cwd=None, env={})
    os.waitpid(child.pid, 0)

    code = child.poll()
    assert code is not None
    ended = process.ProcessResult(code=code, timed_out=False, output=b"")
    outcome = expect_failed(outcome_of(ended, name="publish", timeout=timedelta(seconds=1)))

    assert outcome.code is None
    assert outcome.reason == "publish ended, and its exit code is unknown: it may have succeeded or failed."


async def test_the_id_of_a_script_is_kept_until_what_it_left_has_ended(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    stubborn = f"trap '' TERM; echo $$ > {second}; while true; do sleep 0.05; done"
    text = f"echo $$ > {first}; setsid sh -c {shlex.quote(stubborn)} & while [ ! -s {second} ]; do sleep 0.01; done"

    running = asyncio.create_task(run_shell(f"{text}; exit 4"))
    await wait_until(lambda: second.exists() and second.read_text().endswith("\n"))
    pid = int(first.read_text())
    await wait_until(lambda: state_of(pid) == "Z")
    was_running = not running.done()
    outcome = expect_failed(await running)

    assert was_running
    assert outcome.code == 4
    assert is_gone(first)()
    assert is_gone(second)()


def state_of(process_id: int) -> str:
    """The state of a process in /proc, such as Z for one that has ended and is not reaped."""
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2][0]
