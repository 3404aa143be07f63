"""The commands for the store and the doctor, with a store on PostgreSQL."""

import asyncio
import json
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.ports import free_port
from harness.postgres import PASSWORD, PostgresServer

from receiver.cli import main


@pytest.fixture
def config(tmp_path: Path, postgres: PostgresServer, postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PASSWORD_OF_TESTS", PASSWORD)
    path = write_config(tmp_path, free_port())
    text = path.read_text()
    [line] = [line for line in text.splitlines() if "sqlite:" in line]
    url = postgres.tcp_url(postgres_database)
    path.write_text(text.replace(line, f'url = "{url}"\npassword = "env:PASSWORD_OF_TESTS"'))
    return path


def test_a_store_on_a_server_is_migrated_checked_and_measured(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {}
    for command in ("migrate", "check", "stats"):
        assert main(["db", command, "--config", str(config)]) == 0
        results[command] = capsys.readouterr().out

    assert results["migrate"].endswith(": up to date\n")
    assert results["check"].endswith(": good\n")
    assert "bytes.database" in results["stats"]
    assert PASSWORD not in "".join(results.values())


def test_a_server_setting_that_loses_data_is_a_fault(
    config: Path, postgres: PostgresServer, postgres_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(postgres.execute(f"ALTER DATABASE {postgres_database} SET synchronous_commit = off"))

    assert main(["db", "check", "--json", "--config", str(config)]) == 1

    assert "synchronous_commit" in json.loads(capsys.readouterr().out)["faults"][0]


@pytest.mark.parametrize(("command", "tool"), [("backup", "pg_dump"), ("restore", "pg_restore")])
def test_a_backup_is_left_to_the_tools_of_the_server(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, tool: str
) -> None:
    assert main(["db", command, str(config.parent / "copy.db"), "--config", str(config)]) != 0

    assert tool in capsys.readouterr().err


def test_a_missing_password_variable_is_named(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PASSWORD_OF_TESTS")

    assert main(["db", "check", "--config", str(config)]) == 78

    assert "store.password" in capsys.readouterr().err


def test_the_doctor_examines_the_server(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json", "--config", str(config)])

    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert found["store.integrity"]["message"] == "The PostgreSQL server answers, and it keeps what it acknowledges."
    for name in ("store.disk", "store.size", "routes.held", "deliveries.dead", "deliveries.backlog", "callbacks"):
        assert found[name]["status"] == "ok", found[name]
