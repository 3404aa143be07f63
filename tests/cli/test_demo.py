"""The demo as a new user runs it: real processes on this machine, a good end, nothing left behind."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from cli.commandline import environment, run

STEPS = [
    "ready",
    "submitted",
    "kling_asked",
    "callback",
    "callback",
    "callback",
    "confirmed",
    "event_stored",
    "webhook_delivered",
    "script_ran",
    "client_called",
]


def test_the_demo_comes_to_its_good_end_and_leaves_nothing(tmp_path: Path) -> None:
    ended = run("demo", "--json", env={"TMPDIR": str(tmp_path)})

    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(each["what"] for each in told[:-1]) == sorted(STEPS)
    assert [each["status"] for each in told if each["what"] == "callback"] == ["submitted", "processing", "succeed"]
    assert told[-1]["what"] == "done"
    assert told[-1]["ok"] is True
    assert list(tmp_path.iterdir()) == []


def test_no_token_is_told(tmp_path: Path) -> None:
    ended = run("demo", env={"TMPDIR": str(tmp_path)})

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "/callbacks/***" in ended.stdout
    assert ended.stdout.count("/callbacks/") == 1
    assert ended.stderr == ""


def test_kept_running_it_says_what_to_try_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "demo", "--keep", "--json"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        kept = next(told for line in process.stdout if (told := json.loads(line))["what"] in ("kept", "failed"))
        listed = run("tasks", "list", "--json", "--config", kept["config"])

        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 0
    assert [task["state"] for task in json.loads(listed.stdout)["items"]] == ["succeed"]
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_a_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1] - 3  # of the demo's four ports the last is the first to be bound

        ended = run("demo", "--port", str(first), env={"TMPDIR": str(tmp_path)})

    assert ended.returncode == 1
    assert f"Port {first + 3} cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr
