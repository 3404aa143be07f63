"""Why a script could not be started, in words that say what to do."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.script_sender import (
    SHORT_TIMEOUT,
    a_delivery_request,
    expect_failed,
    send_to_script,
)

from receiver.delivery.senders.script import ScriptSender
from receiver.settings import ScriptSettings, Size

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphaned processes are found in Linux's /proc")


# What keeps it from starting.


async def test_a_missing_program_is_named() -> None:
    outcome = expect_failed(await send_to_script("/nowhere/publish"))

    assert outcome.reason == "/nowhere/publish was not started: program not found. Correct the route's command."


async def test_an_unknown_program_name_reports_the_searched_path() -> None:
    settings = ScriptSettings(command=("no-such-program",))

    outcome = expect_failed(await ScriptSender(settings, environ={"PATH": "/bin:/usr/bin"}).send(a_delivery_request()))

    assert "program not found in /bin:/usr/bin" in outcome.reason


async def test_a_program_name_is_searched_in_the_path_of_the_script(tmp_path: Path) -> None:
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


async def test_an_interpreter_that_is_not_executable_is_named(tmp_path: Path) -> None:
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
from harness.clock import START
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


async def test_a_named_pipe_is_refused_as_a_program_without_delay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "publish", 0o755)

    assert (
        "it is not a regular file. Correct the route's command."
        in expect_failed(await send_to_script(str(tmp_path / "publish"))).reason
    )


async def test_a_carriage_return_after_the_interpreter_is_reported(tmp_path: Path) -> None:
    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", "#!/bin/sh\r\nexit 0\r\n")))

    assert "carriage return" in outcome.reason


async def test_a_script_without_an_interpreter_line_fails_with_the_fix(tmp_path: Path) -> None:
    outcome = expect_failed(await send_to_script(a_script(tmp_path / "publish", "echo hello\n")))

    assert "#!/bin/sh" in outcome.reason


async def test_a_folder_is_not_a_program(tmp_path: Path) -> None:
    assert "it is a folder" in expect_failed(await send_to_script(str(tmp_path))).reason


async def test_a_missing_working_folder_is_named(tmp_path: Path) -> None:
    settings = ScriptSettings.model_construct(
        command=("/bin/true",), cwd=tmp_path / "gone", env={}, timeout=SHORT_TIMEOUT, output_limit=Size(10)
    )

    outcome = expect_failed(await ScriptSender(settings).send(a_delivery_request()))

    assert f"its folder {tmp_path / 'gone'} does not exist" in outcome.reason


async def test_arguments_that_cannot_be_passed_to_a_program_fail() -> None:
    settings = ScriptSettings.model_construct(
        command=("/bin/true", "a\0b"), cwd=None, env={}, timeout=SHORT_TIMEOUT, output_limit=Size(10)
    )

    assert (
        "cannot be passed to a program" in expect_failed(await ScriptSender(settings).send(a_delivery_request())).reason
    )


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_failed_start_leaks_no_descriptor() -> None:
    await send_to_script("/nowhere/publish")
    before = open_files()

    for _ in range(20):
        await send_to_script("/nowhere/publish")
    await asyncio.sleep(0)

    assert open_files() <= before
