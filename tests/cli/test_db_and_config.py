"""The commands for the store and the configuration, which need no running service."""

import json
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
from cli.conftest import write_config
from harness.ports import free_port

from receiver.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, free_port())


def test_migrate_creates_a_store_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "migrate", "--config", str(config)]) == 0
    first = capsys.readouterr().out
    assert main(["db", "migrate", "--config", str(config)]) == 0
    second = capsys.readouterr().out

    assert "done" in first
    assert second == f"{config.parent / 'receiver.db'}: up to date\n"


def test_check_fails_for_a_damaged_store(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["db", "migrate", "--config", str(config)])
    capsys.readouterr()

    assert main(["db", "check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config.parent / 'receiver.db'}: good\n"

    (config.parent / "receiver.db").write_bytes(b"not a database, whatever its name says" * 100)
    assert main(["db", "check", "--json", "--config", str(config)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    assert len(printed["faults"]) == 1


def test_a_backup_is_a_store_and_never_overwrites_a_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = config.parent / "copy.db"
    main(["db", "migrate", "--config", str(config)])

    assert main(["db", "backup", str(target), "--config", str(config)]) == 0
    assert "written and checked" in capsys.readouterr().out
    assert target.exists()
    assert main(["db", "backup", str(target), "--config", str(config)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_restore_says_what_it_did_and_where_the_replaced_store_is(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, copy = config.parent / "receiver.db", config.parent / "copy.db"
    main(["db", "migrate", "--config", str(config)])
    main(["db", "backup", str(copy), "--config", str(config)])
    capsys.readouterr()

    assert main(["db", "restore", str(copy), "--config", str(config)]) == 0
    restored, replaced = capsys.readouterr().out.splitlines()

    assert restored.startswith(f"{store}: restored from {copy}, 0 tasks, ")
    assert restored.endswith(" KiB, checked")
    assert Path(replaced.removeprefix("replaced store: ")).exists()
    assert main(["db", "restore", "none.db", "--config", str(config)]) == 1
    assert "Name a file that `kling-receiver db backup` wrote." in capsys.readouterr().err


def test_stats_can_be_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["db", "migrate", "--config", str(config)])
    capsys.readouterr()

    assert main(["db", "stats", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["bytes.file"] > 0


def test_a_missing_store_is_reported_in_one_sentence(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "stats", "--config", str(config)]) == 1
    assert capsys.readouterr().err == f"kling-receiver: There is no store at {config.parent / 'receiver.db'}.\n"


@pytest.mark.parametrize("command", [["check"], ["backup", "COPY"], ["stats"]], ids=lambda command: command[0])
def test_a_file_that_is_not_a_store_is_reported_in_one_sentence(
    config: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "receiver.db").touch()
    copy = config.parent / "copy.db"

    assert main(["db", *(str(copy) if word == "COPY" else word for word in command), "--config", str(config)]) == 1

    captured = capsys.readouterr()
    assert (captured.out + captured.err).endswith(
        "contains no store. Restore a backup, or let `serve` create a new store.\n"
    )
    assert not copy.exists()


def test_stats_refuse_another_programs_database(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "receiver.db"
    with closing(connect(path)) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")

    assert main(["db", "stats", "--config", str(config)]) == 1

    error = f"kling-receiver: {path} is the database of another program. Check [store] url.\n"
    assert capsys.readouterr().err == error


def test_config_check_confirms_a_valid_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: good (no routes)\n"


def test_config_show_prints_values_and_sources_without_secrets(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLING_RECEIVER__ADMIN__TOKEN", "a-long-secret-admin-token")

    assert main(["config", "show", "--config", str(config), "--json"]) == 0

    out = capsys.readouterr().out
    shown = {each["key"]: each for each in json.loads(out)}
    assert shown["admin.token"] == {"key": "admin.token", "value": "***", "origin": "environment"}
    assert shown["admin.listen"]["origin"].endswith("config.toml:2")
    assert shown["callbacks.verify"]["origin"] == "default"
    assert "a-long-secret" not in out


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert "routes" in json.loads(capsys.readouterr().out)["properties"]
