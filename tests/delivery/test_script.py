"""A script gets the event and ends in a verdict; whatever else it does, nothing of it stays behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.factories import an_event
from harness.support import START, wait_until

from receiver.delivery.senders.script import ScriptSender
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, Event, Failed, Outcome, Refused, Secret
from receiver.events import payload
from receiver.settings import ScriptSettings, Size

SHORT_TIMEOUT = timedelta(milliseconds=300)
ENVELOPE = {
    "type": "task.succeed",
    "timestamp": "2026-11-22T10:00:00.000Z",
    "data": {
        "event_id": "evt_1",
        "status": "succeed",
        "task": {
            "id": "tsk_1",
            "kling_id": "867283741759111202",
            "external_task_id": "$(reboot); order #7/a",
            "endpoint": "images/multi-image2image",
        },
        "assets": [{"path": "/var/lib/archive/evt_1/0.png"}],
    },
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what strays is found in /proc")


def a_full_event(**changes: Any) -> Event:
    return an_event(envelope=json.dumps(ENVELOPE).encode(), **changes)


def a_delivery_request(**changes: Any) -> DeliveryRequest:
    return replace(DeliveryRequest(delivery_id="dlv_1", event=a_full_event(), attempt=1, at=START), **changes)


async def send_to_script(*command: str, request: DeliveryRequest | None = None, **settings: Any) -> Outcome:
    return await ScriptSender(ScriptSettings(command=command, **settings)).send(request or a_delivery_request())


async def run_shell(text: str, **settings: Any) -> Outcome:
    return await send_to_script("/bin/sh", "-c", text, **settings)


def expect_failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed)
    return outcome


def expect_refused(outcome: Outcome) -> Refused:
    assert isinstance(outcome, Refused)
    return outcome


def is_gone(pid_file: Path) -> Callable[[], bool]:
    """Whether the process that wrote its id there has ended (one that nobody has buried yet counts as ended)."""

    def check() -> bool:
        try:
            stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
        except OSError:
            return pid_file.exists()
        return stat.rpartition(") ")[2].startswith("Z")

    return check


def children() -> set[str]:
    """The processes, also unburied ones, whose parent this process is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(stat.parent.name)
    return found


# What a script is given.


async def test_the_event_is_on_standard_input() -> None:
    outcome = await send_to_script("/bin/cat")

    assert outcome == Accepted(code=0, excerpt=payload.serialize(a_full_event()))


async def test_standard_input_can_be_opened_by_its_name_and_read_twice() -> None:
    outcome = await run_shell("cat /dev/stdin >/dev/null && cat /dev/stdin")

    assert outcome == Accepted(code=0, excerpt=payload.serialize(a_full_event()))


async def test_both_outputs_can_be_opened_by_their_names() -> None:
    assert (await run_shell("echo one >/dev/stdout; echo two >/dev/stderr")).excerpt == b"one\ntwo\n"


async def test_arguments_arrive_exactly_as_configured() -> None:
    arguments = ["a b", "$HOME", "*", "'; exit 1", ""]

    outcome = await send_to_script(
        sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *arguments
    )

    assert json.loads(outcome.excerpt) == arguments


async def test_the_environment_is_clean() -> None:
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


async def test_what_is_not_known_is_empty() -> None:
    alert = an_event(
        type="alert.route_held", envelope=b'{"type":"alert.route_held","data":{"event_id":"evt_1"}}', body=b""
    )

    outcome = await run_shell(
        'echo "[$KLING_TASK_ID$KLING_ASSET_DIR$KLING_STATUS]"', request=a_delivery_request(event=alert)
    )

    assert outcome.excerpt == b"[]\n"


async def test_a_folder_whose_name_would_have_to_be_cut_is_not_given() -> None:
    data = {**ENVELOPE, "data": {"assets": [{"path": "/srv/my results/evt_1/0.png"}]}}
    event = an_event(envelope=json.dumps(data).encode())

    outcome = await run_shell('echo "[$KLING_ASSET_DIR]"', request=a_delivery_request(event=event))

    assert outcome.excerpt == b"[]\n"


async def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert (await send_to_script("/bin/pwd", cwd=tmp_path)).excerpt.decode().strip() == str(tmp_path)


async def test_it_is_alone_in_its_group_and_session_and_has_no_other_file_open() -> None:
    outcome = await send_to_script(
        sys.executable,
        "-c",
        "import os; print(os.getpid() == os.getpgid(0) == os.getsid(0), sorted(os.listdir('/proc/self/fd')))",
    )

    assert outcome.excerpt == b"True ['0', '1', '2', '3']\n"  # 3 is the listing itself


# What its end means.


@pytest.mark.parametrize("code", [1, 2, 64, 66, 74, 75, 77, 79, 126, 127, 255])
async def test_most_exits_are_tried_again(code: int) -> None:
    outcome = expect_failed(await run_shell(f"echo why; exit {code}"))

    assert (outcome.code, outcome.excerpt) == (code, b"why\n")
    assert str(code) in outcome.reason


@pytest.mark.parametrize("code", [65, 78])
async def test_two_exits_are_final(code: int) -> None:
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


# What keeps it from starting.


async def test_a_missing_program_is_named() -> None:
    outcome = expect_failed(await send_to_script("/nowhere/publish"))

    assert outcome.reason == "/nowhere/publish was not started: program not found. Correct the route's command."


async def test_a_missing_name_says_where_it_was_looked_for() -> None:
    settings = ScriptSettings(command=("no-such-program",))

    outcome = expect_failed(await ScriptSender(settings, environ={"PATH": "/bin:/usr/bin"}).send(a_delivery_request()))

    assert "program not found in /bin:/usr/bin" in outcome.reason


async def test_a_name_is_looked_for_in_the_path_of_the_script(tmp_path: Path) -> None:
    a_script(tmp_path / "publish", "#!/bin/sh\necho here\n")
    settings = ScriptSettings(command=("publish",), env={"PATH": str(tmp_path)})

    assert (await ScriptSender(settings).send(a_delivery_request())).excerpt == b"here\n"


def a_script(path: Path, text: str, *, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_a_missing_execute_bit_is_named_with_its_fix(tmp_path: Path) -> None:
    script = a_script(tmp_path / "publish", "#!/bin/sh\n", mode=0o644)

    outcome = expect_failed(await send_to_script(script))

    assert f"chmod +x {script}" in outcome.reason


async def test_a_bad_interpreter_is_named(tmp_path: Path) -> None:
    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", "#!/no/such/python\n")))

    assert "its interpreter /no/such/python does not exist" in outcome.reason


async def test_an_interpreter_without_its_execute_bit_is_named_instead_of_the_script(tmp_path: Path) -> None:
    interpreter = a_script(tmp_path / "interpreter", "#!/bin/sh\n", mode=0o644)

    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", f"#!{interpreter} -e\n")))

    assert outcome.reason == (
        f"{tmp_path}/publish was not started: its interpreter is not executable. "
        f"Run `chmod +x {interpreter}`, or correct its first line."
    )


AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from harness.factories import an_event
from harness.support import START
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.delivery.senders.script import ScriptSender
from receiver.settings import ScriptSettings

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
settings = ScriptSettings.model_construct(
    command=(sys.argv[1],), cwd=Path(sys.argv[2]) if sys.argv[2:] else None, env={}, timeout=START - START,
    output_limit=10,
)
sender = ScriptSender(settings, environ={"PATH": os.environ["PATH"]})
print(asyncio.run(sender.send(DeliveryRequest(delivery_id="dlv_1", event=an_event(), attempt=1, at=START))).reason)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def start_failure_as_nobody(*arguments: Path | str, path: str = "/usr/bin:/bin") -> str:
    """Why a script is not started by one who is not root, to whom no folder is shut."""
    environ = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.check_output(
        [sys.executable, "-c", AS_NOBODY, *map(str, arguments)], env=environ, text=True
    ).removesuffix("\n")


def test_a_folder_that_may_not_be_entered_is_named(open_folder: Path) -> None:
    shut = open_folder / "shut"
    (shut / "in").mkdir(parents=True)
    script = a_script(shut / "in" / "publish", "#!/bin/sh\n")
    below = a_script(open_folder / "publish", f"#!{script}\n")
    (open_folder / "link").symlink_to(script)
    shut.chmod(0)
    try:
        why = f"he folder {shut} may not be entered. Give the service's user access: `chmod a+x {shut}`."

        assert start_failure_as_nobody(script) == f"{script} was not started: t{why}"
        assert start_failure_as_nobody(open_folder / "link") == f"{open_folder}/link was not started: t{why}"
        assert start_failure_as_nobody("publish", path=f"{shut}/in:/bin") == f"publish was not started: t{why}"
        assert (
            start_failure_as_nobody(below)
            == f"{below} was not started: its interpreter {script} cannot be reached: t{why}"
        )
        assert (
            start_failure_as_nobody("/bin/true", shut / "in")
            == f"/bin/true was not started: its folder {shut}/in cannot be reached: t{why}"
        )
    finally:
        shut.chmod(0o755)


async def test_a_pipe_is_no_program_and_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "publish", 0o755)

    assert (
        "it is not a regular file. Correct the route's command."
        in expect_failed(await send_to_script(str(tmp_path / "publish"))).reason
    )


async def test_a_carriage_return_behind_the_interpreter_is_seen(tmp_path: Path) -> None:
    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", "#!/bin/sh\r\nexit 0\r\n")))

    assert "carriage return" in outcome.reason


async def test_a_file_without_an_interpreter_is_not_guessed_at(tmp_path: Path) -> None:
    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", "echo hello\n")))

    assert "#!/bin/sh" in outcome.reason


async def test_a_folder_is_no_program(tmp_path: Path) -> None:
    assert "it is a folder" in expect_failed(await send_to_script(str(tmp_path))).reason


async def test_a_missing_folder_to_run_in_is_named(tmp_path: Path) -> None:
    settings = ScriptSettings.model_construct(
        command=("/bin/true",), cwd=tmp_path / "gone", env={}, timeout=SHORT_TIMEOUT, output_limit=Size(10)
    )

    outcome = expect_failed(await ScriptSender(settings).send(a_delivery_request()))

    assert f"its folder {tmp_path / 'gone'} does not exist" in outcome.reason


async def test_what_cannot_be_passed_on_fails() -> None:
    settings = ScriptSettings.model_construct(
        command=("/bin/true", "a\0b"), cwd=None, env={}, timeout=SHORT_TIMEOUT, output_limit=Size(10)
    )

    assert (
        "cannot be passed to a program" in expect_failed(await ScriptSender(settings).send(a_delivery_request())).reason
    )


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_failed_start_leaves_no_file_open() -> None:
    await send_to_script("/nowhere/publish")
    before = open_files()

    for _ in range(20):
        await send_to_script("/nowhere/publish")
    await asyncio.sleep(0)

    assert open_files() <= before


# Its output.


async def test_the_end_of_a_long_output_is_kept() -> None:
    outcome = await run_shell("seq 1 200000; echo done >&2", output_limit=1000)

    assert len(outcome.excerpt) == 1000
    assert outcome.excerpt.endswith(b"200000\ndone\n")


async def test_a_flood_takes_no_memory() -> None:
    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = memory()

    outcome = await run_shell("head -c 1000000000 /dev/zero", output_limit=65536)

    assert isinstance(outcome, Accepted)
    assert len(outcome.excerpt) == 65536
    assert memory() - before < 50_000_000


async def test_no_output_need_be_kept() -> None:
    assert (await run_shell("echo hello", output_limit=0)).excerpt == b""


# What never reads, never ends, never lets go.


@pytest.mark.parametrize("text", ["exit 0", "exec <&-; exit 0", "head -c 1 >/dev/null"])
async def test_a_script_that_does_not_read_the_event_does_no_harm(text: str) -> None:
    huge = a_full_event(body=json.dumps({"x": "y" * 5_000_000}).encode())

    for _ in range(3):
        assert isinstance(await run_shell(text, request=a_delivery_request(event=huge)), Accepted)


async def test_a_script_that_runs_too_long_is_ended() -> None:
    started = time.perf_counter()

    outcome = expect_failed(await run_shell("echo begun; exec sleep 60", timeout=SHORT_TIMEOUT))

    assert time.perf_counter() - started < 4
    assert outcome.excerpt == b"begun\n"
    assert "ran longer than 0.3 s and was stopped" in outcome.reason


async def test_ending_begins_with_a_request() -> None:
    outcome = expect_failed(
        await run_shell("trap 'echo bye; exit 0' TERM; echo begun; sleep 60 & wait", timeout=SHORT_TIMEOUT)
    )

    assert outcome.excerpt == b"begun\nbye\n"
    assert outcome.code is None


async def test_what_does_not_heed_the_request_is_killed_five_seconds_later(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    started = time.perf_counter()

    expect_failed(await run_shell(f"trap '' TERM; echo $$ >{pid}; while :; do sleep 1; done", timeout=SHORT_TIMEOUT))

    assert 5 <= time.perf_counter() - started < 9
    assert is_gone(pid)()


async def test_a_time_out_ends_the_whole_group(tmp_path: Path) -> None:
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
    ids=["new session", "detached", "without environment", "twice over"],
)
async def test_a_time_out_ends_also_what_left_the_group(tmp_path: Path, escape: str) -> None:
    pid = tmp_path / "pid"

    await run_shell(escape.format(pid=pid) + " sleep 60", timeout=timedelta(seconds=1))

    assert pid.exists()
    await wait_until(is_gone(pid))


@pytest.mark.parametrize("prefix", ["", "setsid ", "nohup "])
@pytest.mark.parametrize("code", [0, 1])
async def test_a_child_that_holds_the_output_is_ended_and_holds_nothing_up(
    tmp_path: Path, prefix: str, code: int
) -> None:
    pid = tmp_path / "pid"
    started = time.perf_counter()

    outcome = await run_shell(f"{prefix}sh -c 'echo $$ >{pid}; exec sleep 60' & sleep 0.1; echo done; exit {code}")

    assert time.perf_counter() - started < 5
    assert isinstance(outcome, Failed if code else Accepted)
    assert b"done\n" in outcome.excerpt
    await wait_until(is_gone(pid))


async def test_after_a_success_what_let_go_of_the_output_may_go_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    outcome = await run_shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid}")

    assert isinstance(outcome, Accepted)
    assert not is_gone(pid)()
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_after_a_failure_nothing_of_the_group_goes_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    await run_shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{pid}; exit 1")

    await wait_until(is_gone(pid))


@pytest.mark.parametrize(
    "end", ["exit 7", "exit 75", "exit 65", "kill -9 $$"], ids=["failed", "asked for another try", "refused", "killed"]
)
async def test_after_a_failure_nothing_goes_on_that_left_group_and_output(tmp_path: Path, end: str) -> None:
    pid, loop = tmp_path / "pid", "while :; do sleep 0.2; done"

    await run_shell(
        f"setsid sh -c 'echo $$ >{pid}; {loop}' >/dev/null 2>&1 </dev/null & "
        f"while ! test -s {pid}; do sleep 0.01; done; {end}"
    )

    assert is_gone(pid)()


async def test_a_failure_ends_nothing_of_an_earlier_success(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run_shell(f"setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $! >{pid}")

    await run_shell("exit 7")

    assert not is_gone(pid)()
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_stopped_script_is_ended_all_the_same(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    expect_failed(await run_shell(f"echo $$ >{pid}; kill -STOP $$", timeout=SHORT_TIMEOUT))

    assert is_gone(pid)()


async def test_no_child_is_left_unburied() -> None:
    before = children()

    await asyncio.gather(*(run_shell(f"sleep 0.0{number}; exit {number}") for number in range(8)))
    await run_shell("exec sleep 60", timeout=SHORT_TIMEOUT)

    assert children() <= before


async def test_cancelling_ends_the_script_and_all_of_its(tmp_path: Path) -> None:
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


async def test_cancelling_twice_kills_also_what_outlived_the_script(tmp_path: Path) -> None:
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


async def test_the_sender_states_its_time_with_that_of_ending() -> None:
    sender = ScriptSender(ScriptSettings(command=("/bin/true",), timeout=timedelta(seconds=60)))

    assert sender.timeout == timedelta(seconds=68)


async def test_many_at_once_end_each_for_itself() -> None:
    commands = [["/bin/sh", "-c", f"cat >/dev/null; exit {number % 4}"] for number in range(40)]

    outcomes = await asyncio.gather(*(send_to_script(*command) for command in commands))

    assert [outcome.code for outcome in outcomes] == [number % 4 for number in range(40)]
