"""The demo as a new user runs it: real processes, success, nothing left behind."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import httpx2 as httpx
import pytest
from harness.run_cli import clean_environment, run_cli

from receiver.cli import main

NON_EPHEMERAL_PORT = range(20_000, 32_000, 4)
"""Ports that no connection gets by itself, so that the neighbours of a free one stay free."""

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


def test_the_demo_succeeds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = run_cli("demo", "--json", env={"TMPDIR": str(tmp_path)})

    steps = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(each["what"] for each in steps[:-1]) == sorted(STEPS)
    assert [each["status"] for each in steps if each["what"] == "callback"] == ["submitted", "processing", "succeed"]
    assert steps[-1]["what"] == "done"
    assert steps[-1]["ok"] is True
    assert list(tmp_path.iterdir()) == []


def test_the_demo_prints_no_token(tmp_path: Path) -> None:
    ended = run_cli("demo", env={"TMPDIR": str(tmp_path)})

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "/callbacks/***" in ended.stdout
    assert ended.stdout.count("/callbacks/") == 1
    assert ended.stderr == ""


def test_demo_keep_prints_commands_to_try_until_ctrl_c_and_keeps_its_files(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "demo", "--keep", "--json"],
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        kept = next(printed for line in process.stdout if (printed := json.loads(line))["what"] in ("kept", "failed"))
        listed = run_cli("tasks", "list", "--json", "--config", kept["config"])
        page = httpx.get(kept["console"], follow_redirects=True, trust_env=False)

        process.send_signal(signal.SIGINT)

        last = json.loads(process.stdout.readlines()[-1])
        assert process.wait(30) == 0
    tasks = json.loads(listed.stdout)["items"]
    assert tasks[-1]["state"] == "succeed"
    assert len(tasks) > 10
    assert "<title>Now · Kling Receiver</title>" in page.text
    (folder,) = tmp_path.iterdir()
    assert (last["what"], last["folder"]) == ("folder", str(folder))
    assert kept["folder"] == str(folder)
    assert json.loads((folder / "published.jsonl").read_text().splitlines()[0])["type"] == "task.succeed"
    assert run_cli("db", "check", "--config", folder / "config.toml").returncode == 0


@pytest.mark.parametrize("which", range(4))
def test_the_demo_names_a_port_in_use(which: int, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(first for first in Random().sample(NON_EPHEMERAL_PORT, 1000) if four_ports_are_free(first))
    with socket.create_server(("127.0.0.1", first + which)):
        code = main(["demo", "--port", str(first)])

    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert f"Cannot listen on port {first + which}: Address already in use. Choose another --port" in err


def four_ports_are_free(first: int) -> bool:
    with ExitStack() as held, suppress(OSError):
        for port in range(first, first + 4):
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        return True
    return False


@pytest.mark.parametrize("port", ["0", "-5", "65533", "65534", "70000"])
def test_the_demo_refuses_an_invalid_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--port={port}"]) == 2
    assert "from 1 to 65532" in capsys.readouterr().err
