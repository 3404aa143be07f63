"""Rules for terminals without UTF-8, closed streams, and characters that steer a terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.fake_api import TASK_ID, FakeService, make_event, make_task
from harness.run_cli import clean_environment, run_cli, run_in_terminal

from receiver.cli import main

RED = "\x1b[31m"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_list_escapes_what_the_output_cannot_encode(service: FakeService, config: Path, encoding: str) -> None:
    service.answer("/api/tasks", {"items": [make_task(label="日本")], "next": None})

    ended = run_cli("tasks", "list", "--config", config, env={"PYTHONIOENCODING": encoding})

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split("\t")[3] == r"\u65e5\u672c"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_json_is_equal_in_every_encoding(service: FakeService, config: Path, encoding: str) -> None:
    answer = {"items": [make_task(label="é日本🐈\u202e")], "next": None}
    service.answer("/api/tasks", answer)

    ended = run_bytes(["tasks", "list", "--json", "--config", str(config)], PYTHONIOENCODING=encoding)

    assert json.loads(ended.stdout.decode(encoding)) == answer


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_not_an_error(service: FakeService, config: Path, closed: str) -> None:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "receiver", "tasks", "list"]

    ended = subprocess.run(
        [*command, "--config", config], env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize(
    "argv",
    [
        ["submit", "images/generations", "--set", "prompt=caf\udce9"],
        ["submit", "images/generations", "--label", "caf\udce9"],
        ["tasks", "list", "--label", "caf\udce9"],
        ["tasks", "show", "caf\udce9"],
        ["replay", "--status", "dead", "--why", "caf\udce9"],
    ],
)
def test_an_argument_that_is_not_utf8_is_a_usage_error(
    service: FakeService, config: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*argv, "--config", str(config)])

    assert code == 2
    assert capsys.readouterr().err == (
        f"kling-receiver: the argument {argv[-1]!r} is not UTF-8."
        " Use a terminal in UTF-8, or put the text into a file.\n"
    )
    assert service.requests == []


def test_a_path_need_not_be_utf8(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", make_task(state="queued"), status=202)
    body = config.parent / "caf\udce9.json"
    body.write_text('{"prompt": "a cat"}')

    ended = run_bytes(["submit", "images/generations", "--body", f"@{body}", "--config", str(config)])

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert service.requests[0][2]["body"] == {"prompt": "a cat"}


def test_a_table_shows_characters_that_reorder_text(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", {"items": [make_task(label="\u202egnp.exe\u2066\x1b\ufeff")], "next": None})

    assert main(["tasks", "list", "--config", str(config)]) == 0

    assert r"\u202egnp.exe\u2066\x1b\ufeff" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["events", "show", "evt_one"], ["events", "show", "evt_one", "--json"]])
def test_json_on_a_terminal_shows_characters_that_reorder_text(
    service: FakeService, config: Path, argv: list[str]
) -> None:
    message = "\u202egnp.exe\u2028\u200b\U000e0041 \x9b31m نص 猫 👩\u200d🔬"
    service.answer("/api/events/evt_one", make_event(message=message))

    shown = run_in_terminal([*argv, "--config", str(config)], NO_COLOR="1", COLUMNS="1000")

    assert r"\u202egnp.exe\u2028\u200b\udb40\udc41 \u009b31m نص 猫 👩‍🔬" in shown
    assert not set("\u202e\u2028\u200b\x9b") & set(shown)


def test_an_error_shows_control_characters_of_an_answer(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", {"code": "refused", "detail": f"{RED}No\u202e."}, status=409)

    assert main(["tasks", "show", TASK_ID, "--config", str(config)]) == 1

    assert r"\x1b[31mNo\u202e." in capsys.readouterr().err


def test_progress_shows_a_message_as_it_is(service: FakeService, config: Path) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state="failed", message="no [/red] [link=x] {0}"))

    shown = run_in_terminal(["tasks", "wait", TASK_ID, "--config", str(config)], code=1)

    assert "failed: no [/red] [link=x] {0}." in shown
    assert "Traceback" not in shown


def run_bytes(argv: list[str], **env: str) -> "subprocess.CompletedProcess[bytes]":
    command = [os.fsencode(part) for part in (sys.executable, "-m", "receiver", *argv)]
    return subprocess.run(command, env=clean_environment(**env), capture_output=True, check=False, timeout=60)
