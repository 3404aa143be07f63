"""A script gets the event, and its exit code and output become the outcome."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from harness.factories import an_event
from harness.script_sender import (
    ENVELOPE,
    a_delivery_request,
    a_full_event,
    expect_failed,
    expect_refused,
    run_shell,
    send_to_script,
)

from receiver.delivery.senders import process
from receiver.delivery.senders.script import ScriptSender
from receiver.domain.model import Accepted
from receiver.domain.secret import Secret
from receiver.events import payload
from receiver.settings import ScriptSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphaned processes are found in Linux's /proc")

STANDARD_SIGNALS = (1 << 31) - 1  # of the others, glibc ignores two of its own


# What a script is given.


async def test_the_event_is_on_standard_input() -> None:
    outcome = await send_to_script("/bin/cat")

    assert outcome == Accepted(code=0, excerpt=payload.serialize(a_full_event()))


async def test_stdin_can_be_opened_by_name_and_read_twice() -> None:
    outcome = await run_shell("cat /dev/stdin >/dev/null && cat /dev/stdin")

    assert outcome == Accepted(code=0, excerpt=payload.serialize(a_full_event()))


async def test_stdout_and_stderr_can_be_opened_by_name() -> None:
    assert (await run_shell("echo one >/dev/stdout; echo two >/dev/stderr")).excerpt == b"one\ntwo\n"


async def test_arguments_arrive_exactly_as_configured() -> None:
    arguments = ["a b", "$HOME", "*", "'; exit 1", ""]

    outcome = await send_to_script(
        sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *arguments
    )

    assert json.loads(outcome.excerpt) == arguments


async def test_a_script_inherits_no_variables_of_the_service() -> None:
    environ = {"PATH": "/usr/bin:/bin", "LANG": "C", "HOME": "/home/x", "KLING_API_KEY": "hush", "LD_PRELOAD": "x"}
    settings = ScriptSettings(command=("/usr/bin/env", "-0"), env={"TOKEN": Secret("mine"), "MODE": "fast"})

    outcome = await ScriptSender(settings, environ=environ).send(a_delivery_request(attempt=2))

    variables = dict(entry.split("=", 1) for entry in outcome.excerpt.decode().split("\0") if entry)
    assert variables.pop("KLING_RUN")
    assert variables == {
        "PATH": "/usr/bin:/bin",
        "LANG": "C",
        "HOME": "/home/x",
        "TOKEN": "mine",
        "MODE": "fast",
        "KLING_EVENT_ID": "evt_1",
        "KLING_EVENT_TYPE": "task.succeed",
        "KLING_STATUS": "succeed",
        "KLING_TASK_ID": "867283741759111202",
        "KLING_EXTERNAL_TASK_ID": "rebootorder7/a",
        "KLING_RECEIVER_TASK": "tsk_1",
        "KLING_ENDPOINT": "images/multi-image2image",
        "KLING_ATTEMPT": "2",
        "KLING_ASSET_DIR": "/var/lib/archive/evt_1",
        "KLING_DELIVERY_ID": "dlv_1",
    }


async def test_variables_without_a_value_are_empty() -> None:
    alert = an_event(
        type="alert.route_held", envelope=b'{"type":"alert.route_held","data":{"event_id":"evt_1"}}', body=b""
    )

    outcome = await run_shell(
        'echo "[$KLING_TASK_ID$KLING_ASSET_DIR$KLING_STATUS]"', request=a_delivery_request(event=alert)
    )

    assert outcome.excerpt == b"[]\n"


async def test_without_a_folder_its_variable_is_absent() -> None:
    alert = an_event(
        type="alert.route_held", envelope=b'{"type":"alert.route_held","data":{"event_id":"evt_1"}}', body=b""
    )

    outcome = await run_shell(
        'set -u; rm -r "$KLING_ASSET_DIR"/nothing; echo not reached', request=a_delivery_request(event=alert)
    )

    assert "KLING_ASSET_DIR" in outcome.excerpt.decode()
    assert "not reached" not in outcome.excerpt.decode()


async def test_variables_are_read_from_an_event_with_half_a_character() -> None:
    event = an_event(envelope=b'{"data":{"status":"succeed","message":"\\ud83d"}}')

    outcome = await run_shell('echo "[$KLING_STATUS]"', request=a_delivery_request(event=event))

    assert outcome.excerpt == b"[succeed]\n"


async def test_a_folder_name_with_spaces_is_not_passed() -> None:
    data = {**ENVELOPE, "data": {"assets": [{"path": "/srv/my results/evt_1/0.png"}]}}
    event = an_event(envelope=json.dumps(data).encode())

    outcome = await run_shell('echo "[$KLING_ASSET_DIR]"', request=a_delivery_request(event=event))

    assert outcome.excerpt == b"[]\n"


async def test_a_script_runs_in_the_configured_folder(tmp_path: Path) -> None:
    assert (await send_to_script("/bin/pwd", cwd=tmp_path)).excerpt.decode().strip() == str(tmp_path)


async def test_a_script_has_its_own_session_and_no_other_open_file() -> None:
    outcome = await send_to_script(
        sys.executable,
        "-c",
        "import os; print(os.getpid() == os.getpgid(0) == os.getsid(0), sorted(os.listdir('/proc/self/fd')))",
    )

    assert outcome.excerpt == b"True ['0', '1', '2', '3']\n"  # 3 is the listing itself


@pytest.mark.parametrize("cwd", [None, Path("/")])
async def test_a_script_does_not_inherit_what_the_service_was_started_with(cwd: Path | None) -> None:
    code = f"""
import asyncio
from datetime import timedelta
from pathlib import Path
from receiver.delivery.senders.process import run
print(asyncio.run(run(["/bin/ls", "/proc/self/fd"], content=b"", env={{}}, cwd={cwd and str(cwd)!r},
    time_limit=timedelta(seconds=9), output_limit=99)).output.split())
"""
    inherited = os.open("/dev/null", os.O_RDONLY)
    try:
        service = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, pass_fds=[inherited], stdout=asyncio.subprocess.PIPE
        )
        output, _ = await service.communicate()
    finally:
        os.close(inherited)

    assert output == b"[b'0', b'1', b'2', b'3']\n"  # 3 is the listing itself


async def test_a_script_gets_the_event_from_a_service_without_standard_descriptors(tmp_path: Path) -> None:
    code = f"""
import asyncio
from datetime import timedelta
from pathlib import Path
from receiver.delivery.senders.process import run
result = asyncio.run(run(["/bin/cat"], content=b"event", env={{}}, cwd=None,
    time_limit=timedelta(seconds=9), output_limit=99))
Path({str(tmp_path / "output")!r}).write_bytes(result.output)
"""

    service = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code
    )

    assert await service.wait() == 0
    assert (tmp_path / "output").read_bytes() == b"event"


@pytest.mark.parametrize("cwd", [None, Path("/")])
async def test_a_script_blocks_no_signals_and_ignores_only_what_the_service_was_started_with(cwd: Path | None) -> None:
    outcome = await run_shell("grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2", cwd=cwd)

    blocked, ignored = (int(mask, 16) & STANDARD_SIGNALS for mask in outcome.excerpt.split())
    assert (blocked, ignored) == (0, ignored_here() & ~signal_mask(signal.SIGPIPE, signal.SIGXFSZ))  # Python's own two


def ignored_here() -> int:
    """The signals that this process ignores, such as SIGHUP under nohup."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("SigIgn:")[1].split()[0], 16) & STANDARD_SIGNALS


def signal_mask(*signals: signal.Signals) -> int:
    return sum(1 << number - 1 for number in signals)


# What its end means.


@pytest.mark.parametrize("code", [1, 2, 64, 66, 74, 75, 77, 79, 126, 127, 255])
async def test_other_exit_codes_are_retried(code: int) -> None:
    outcome = expect_failed(await run_shell(f"echo why; exit {code}"))

    assert (outcome.code, outcome.excerpt) == (code, b"why\n")
    assert str(code) in outcome.reason


@pytest.mark.parametrize("code", [65, 78])
async def test_two_exit_codes_are_final(code: int) -> None:
    outcome = expect_refused(await run_shell(f"echo never >&2; exit {code}"))

    assert (outcome.code, outcome.excerpt, outcome.hold) == (code, b"never\n", False)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM", "SIGABRT", "SIGSYS"])
async def test_a_death_by_signal_is_named(name: str) -> None:
    outcome = expect_failed(await run_shell(f"kill -{name.removeprefix('SIG')} $$"))

    assert outcome.code == -signal.Signals[name]
    assert f"killed by {name}" in outcome.reason


async def test_a_death_inside_a_shell_is_named() -> None:
    outcome = expect_failed(await run_shell("sh -c 'kill -SEGV $$'; exit $?"))

    assert "killed by SIGSEGV" in outcome.reason


# Its output.


async def test_only_the_end_of_a_long_output_is_kept() -> None:
    outcome = await run_shell("seq 1 200000; echo done >&2", output_limit=1000)

    assert len(outcome.excerpt) == 1000
    assert outcome.excerpt.endswith(b"200000\ndone\n")


async def test_endless_output_takes_no_memory() -> None:
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = memory()

    outcome = await run_shell("head -c 1000000000 /dev/zero", output_limit=65536)

    assert isinstance(outcome, Accepted)
    assert len(outcome.excerpt) == 65536
    assert memory() - before < 50_000_000


async def test_the_whole_output_of_a_brief_script_is_kept_without_reading_while_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_READ_AFTER", 60)

    outcome = await run_shell("head -c 65536 /dev/zero")  # as much as the pipe holds

    assert outcome == Accepted(code=0, excerpt=bytes(65536))


async def test_a_script_that_is_ended_can_still_write_more_than_the_pipe_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_READ_AFTER", 60)
    text = "trap 'head -c 300000 /dev/zero; echo bye; exit 0' TERM; echo begun; sleep 60 & wait"

    outcome = expect_failed(await run_shell(text, timeout=timedelta(seconds=1)))

    assert outcome.excerpt.endswith(b"\0bye\n")


async def test_brief_scripts_share_one_registered_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_READ_AFTER", 60)
    loop, registered = asyncio.get_running_loop(), []
    add_reader = loop.add_reader

    def count(descriptor: int, callback: Callable[..., object], *arguments: object) -> None:
        registered.append(descriptor)
        add_reader(descriptor, callback, *arguments)

    monkeypatch.setattr(loop, "add_reader", count)

    for _ in range(2):
        await asyncio.gather(*(run_shell("echo hello") for _ in range(4)))

    assert len(registered) == 1


async def test_an_output_limit_of_zero_keeps_nothing() -> None:
    assert (await run_shell("echo hello", output_limit=0)).excerpt == b""


async def test_the_timeout_of_a_script_sender_includes_the_time_to_end_it() -> None:
    sender = ScriptSender(ScriptSettings(command=("/bin/true",), timeout=timedelta(seconds=60)))

    assert sender.timeout == timedelta(seconds=68)


async def test_concurrent_scripts_have_their_own_outcomes() -> None:
    commands = [["/bin/sh", "-c", f"cat >/dev/null; exit {number % 4}"] for number in range(40)]

    outcomes = await asyncio.gather(*(send_to_script(*command) for command in commands))

    assert [outcome.code for outcome in outcomes] == [number % 4 for number in range(40)]
