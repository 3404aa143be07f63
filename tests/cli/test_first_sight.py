"""What a person sees first: the state of routes and tasks, the start of the service, the simulator's configuration."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.fake_api import FakeService, make_task
from harness.ports import free_port
from harness.run_cli import clean_environment, run_cli
from harness.running_service import a_config, a_kling, a_receiver

from receiver.cli import main

DOCS = Path(__file__).parents[2] / "receiver" / "docs"


def test_a_healthy_route_is_ok(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routes = [{"name": "a", "held_at": None}, {"name": "b", "held_at": "2026-11-22T10:00:00.000Z"}]
    service.answer("/api/routes", {"items": routes, "next": None})

    assert main(["routes", "list", "--config", str(config)]) == 0

    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ("ok" in rows[0], "held" in rows[1]) == (True, True)


def test_a_cancelled_task_is_not_listed_as_rejected(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [make_task(state="cancelled", message="cancelled by anna."), make_task(state="rejected", message="no")]
    service.answer("/api/tasks", {"items": tasks, "next": None})

    assert main(["tasks", "list", "--config", str(config)]) == 0

    states = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert states == ["cancelled", "rejected"]


def test_a_backup_makes_its_folder_or_names_the_path(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    run_cli("db", "migrate", "--config", config)
    (tmp_path / "file").touch()

    made = run_cli("db", "backup", tmp_path / "new" / "copy.db", "--config", config)
    refused = run_cli("db", "backup", tmp_path / "file" / "copy.db", "--config", config)

    assert made.returncode == 0
    assert (tmp_path / "new" / "copy.db").exists()
    assert refused.returncode == 1
    assert f"{tmp_path}/file/copy.db could not be written" in refused.stderr


async def test_the_first_line_of_the_log_names_what_a_reader_needs(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        first = json.loads(receiver.log().splitlines()[0])

        assert first["event"] == "service.starting"
        assert first["configuration"] == str(receiver.config_path)
        assert first["store"] == str(tmp_path / "var" / "receiver.db")
        assert first["admin_token"] == str(tmp_path / "var" / "admin-token")
        assert first["gateway"] == f"{receiver.admin}/kling"


def test_simulate_prints_the_configuration_of_its_manual() -> None:
    command = [sys.executable, "-m", "receiver", "simulate", "--listen", f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline().strip() for _ in range(10)]
        process.terminate()

    printed = "\n".join(lines[1:])
    assert tomllib.loads(printed)["kling"]["base_url"] == f"http://{command[-1]}"
    manual = (DOCS / "simulator.md").read_text()
    assert printed.replace(command[-1], "127.0.0.1:8790") in manual


def test_the_manual_of_the_simulator_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    options = set(re.findall(r"--[a-z][a-z-]+[a-z]", capsys.readouterr().out))

    manual = (DOCS / "simulator.md").read_text()

    elsewhere = {"--help", "--json", "--listen", "--version"}
    assert [
        name for name in sorted(options - elsewhere) if not name.startswith("--no-") and f"`{name}`" not in manual
    ] == []
