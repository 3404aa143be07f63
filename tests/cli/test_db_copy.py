"""`kling-receiver db copy`: to PostgreSQL and back, and what it refuses."""

import json
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.full_store import fill_every_table
from harness.ports import free_port
from harness.postgres import PASSWORD, PostgresServer
from harness.sqlite_template import open_store

from receiver.cli import main
from receiver.store import databases


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """The configuration of a stopped service whose store has rows in every table."""
    config = write_config(tmp_path, free_port())
    store = await open_store(tmp_path / "receiver.db")
    await fill_every_table(store)
    await store.aclose()
    return config


def test_a_store_moves_to_postgresql_and_back(
    config: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["db", "copy", "--to", postgres_url, "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    back = config.parent / "back.db"

    assert (
        main(["db", "copy", "--from", postgres_url, "--to", f"sqlite:{back}", "--json", "--config", str(config)]) == 0
    )
    copied = json.loads(capsys.readouterr().out)

    assert lines[1].startswith("tasks: 2 rows, the same in both, SHA-256 ")
    assert lines[-1].startswith(
        f"sqlite:{config.parent / 'receiver.db'} is unchanged. To use the copy, set [store] url"
    )
    assert (copied["source"], copied["target"]) == (postgres_url, f"sqlite:{back}")
    assert [(table["table"], table["rows"]) for table in copied["tables"]][:2] == [("batches", 1), ("tasks", 2)]
    assert copied["tables"][1]["sha256"].startswith(lines[1].rpartition(" ")[2])
    assert back.exists()


def test_the_url_of_a_copied_file_does_not_depend_on_the_folder(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert main(["db", "copy", "--to", "sqlite:copy.db", "--config", str(config)]) == 0

    target = f"sqlite:{tmp_path / 'elsewhere' / 'copy.db'}"
    assert f'set [store] url = "{target}"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "problem", "remedy"),
    [
        ("mysql://host/db", "'mysql://host/db' is not the URL of a store.", "postgresql://user@host/database"),
        ("postgresql://kling:geheim@host/db", "The URL has a password", "set PGPASSWORD"),
        ("sqlite:{folder}/receiver.db", "is in use by process", "stop the other one"),
        ("sqlite:{folder}/here.toml", "exists already", "Name a file that does not exist yet."),
    ],
)
def test_a_target_that_cannot_be_used_is_explained(
    config: Path, target: str, problem: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "here.toml").touch()
    target = target.format(folder=config.parent)

    assert main(["db", "copy", "--to", target, "--config", str(config)]) != 0

    error = capsys.readouterr().err
    assert problem in error
    assert remedy in error
    assert "geheim" not in error


def test_postgresql_without_its_extra_is_explained(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(databases, "find_spec", lambda _: None)

    assert main(["db", "copy", "--to", "postgresql://host/db", "--config", str(config)]) == 1
    assert "pip install 'kling-receiver[postgres]'" in capsys.readouterr().err


def test_the_configured_database_is_copied_to_with_its_configured_password(
    config: Path,
    postgres: PostgresServer,
    postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, source = postgres.tcp_url(postgres_database), f"sqlite:{config.parent / 'receiver.db'}"
    monkeypatch.setenv("KLING_RECEIVER__STORE__URL", url)
    monkeypatch.setenv("KLING_RECEIVER__STORE__PASSWORD", "env:DB_PASSWORD")
    arguments = ["db", "copy", "--from", source, "--to", url, "--config", str(config)]

    monkeypatch.setenv("DB_PASSWORD", "a wrong one")
    assert main(arguments) == 1
    refused = capsys.readouterr().err
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    assert main(arguments) == 0

    assert "password authentication failed" in refused
    assert PASSWORD not in "".join(capsys.readouterr())
