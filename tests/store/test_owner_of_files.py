"""What root writes into the folder of another account, that account can open."""

import os
from pathlib import Path

import pytest
from harness.full_store import fill_every_table

from receiver.cli import main
from receiver.store.disk import give_to_owner_of
from receiver.store.sqlite.store import SqliteStore

ACCOUNT = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """The configuration of a stopped service whose files belong to an account."""
    store = await SqliteStore.open(tmp_path / "mine" / "receiver.db")
    await fill_every_table(store)
    await store.aclose()
    for name in ("mine", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
        for path in (tmp_path / name, *(tmp_path / name).iterdir()):
            os.chown(path, ACCOUNT, ACCOUNT)
    (tmp_path / "config.toml").write_text('[store]\nurl = "sqlite:mine/receiver.db"\n')
    return tmp_path / "config.toml"


def owners(folder: Path) -> set[int]:
    return {path.stat().st_uid for path in folder.iterdir()}


@needs_root
def test_copies_and_backups_of_root_belong_to_the_owner_of_their_folder(config: Path) -> None:
    folder = config.parent
    copy, backup = folder / "other" / "copy.db", folder / "other" / "backup.db"
    (folder / "mine" / "receiver.db.lock").unlink()

    for command in (["copy", "--to", f"sqlite:{copy}"], ["backup", str(backup)], ["restore", str(backup)]):
        assert main(["db", *command, "--config", str(config)]) == 0

    assert {copy, backup} < set((folder / "other").iterdir())
    assert owners(folder / "other") == owners(folder / "mine") == {ACCOUNT}


@needs_root
def test_a_copy_in_the_folder_of_root_names_the_command_that_changes_its_owner(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = config.parent / "new" / "copy.db"

    assert main(["db", "copy", "--to", f"sqlite:{copy}", "--config", str(config)]) == 0

    assert f"chown ACCOUNT {copy.parent} {copy}*" in capsys.readouterr().err


@needs_root
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (target := tmp_path / "target").touch()
    (link := tmp_path / "link").symlink_to(target)
    (folder := tmp_path / "folder").mkdir()
    os.chown(folder, ACCOUNT, ACCOUNT)

    give_to_owner_of(folder, link)

    assert target.stat().st_uid == 0
    assert link.lstat().st_uid == ACCOUNT
