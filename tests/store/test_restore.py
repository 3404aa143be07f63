"""A restore replaces the store by a checked copy of a backup, and loses nothing of what it replaces."""

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import connect

import pytest

from receiver.domain.errors import InvalidRequest, StoreError, StoreLocked, StoreUnavailable
from receiver.store.sqlite.database import locked, suspect_marker
from receiver.store.sqlite.maintenance import backup, check
from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.restore import restore

NOW = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)


def write(path: Path, name: str) -> None:
    """Leave a mark in a store."""
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS marks (name TEXT)")
        connection.execute("INSERT INTO marks VALUES (?)", (name,))
        connection.commit()


def marks(path: Path) -> list[str]:
    with closing(connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM marks")]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "var" / "receiver.db"
    path.parent.mkdir()
    migrate(path)
    write(path, "old")
    return path


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """Back the store up, and change it afterwards."""
    backup(store, tmp_path / "monday.db")
    write(store, "new")
    return tmp_path / "monday.db"


def test_the_backup_replaces_the_store_which_is_kept_with_its_log(store: Path, copy: Path) -> None:
    with closing(connect(store)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO marks VALUES ('in the log')")
        connection.commit()
        log = store.with_name("receiver.db-wal").read_bytes()
        kept = restore(store, copy, now=NOW)

    assert kept == store.with_name("receiver.db.before-20261130T010203Z")
    assert marks(store) == ["old"]
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == log
    assert check(store) == []
    assert not store.with_name("receiver.db-wal").exists()
    assert store.stat().st_mode & 0o777 == 0o600
    assert marks(copy) == ["old"]


def test_a_restore_revives_no_session_that_was_ended_and_no_link_that_was_used(store: Path, tmp_path: Path) -> None:
    with closing(connect(store)) as connection:
        connection.execute("INSERT INTO console_sessions VALUES (zeroblob(32), 'admin', 'anna', 9, '')")
        connection.execute("INSERT INTO console_links VALUES (zeroblob(32), 'admin', 'anna', 9)")
        connection.commit()
    backup(store, tmp_path / "tuesday.db")

    restore(store, tmp_path / "tuesday.db", now=NOW)

    for path in (store, tmp_path / "tuesday.db"):
        with closing(connect(path)) as connection:
            assert connection.execute("SELECT key FROM console_sessions").fetchall() == []
            assert connection.execute("SELECT key FROM console_links").fetchall() == []


def test_a_missing_store_is_restored_too(store: Path, copy: Path) -> None:
    store.unlink()
    store.with_name("receiver.db.lock").unlink()
    store.parent.rmdir()

    assert restore(store, copy, now=NOW) is None
    assert marks(store) == ["old"]


def test_a_restore_removes_the_mark_of_damage(store: Path, copy: Path) -> None:
    suspect_marker(store).write_text("1")

    restore(store, copy, now=NOW)

    assert not suspect_marker(store).exists()


def test_a_store_in_use_is_not_replaced(store: Path, copy: Path) -> None:
    with locked(store), pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
        restore(store, copy, now=NOW)

    assert marks(store) == ["old", "new"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_text(path: Path) -> None:
    path.write_text("not a database" * 1000)


def replace_by_another_database(path: Path) -> None:
    path.unlink()
    write(path, "another")


@pytest.mark.parametrize("spoil", [truncate, replace_by_text, replace_by_another_database, os.unlink])
def test_an_invalid_backup_changes_nothing(store: Path, copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    before = sorted(store.parent.iterdir())

    with pytest.raises((StoreError, InvalidRequest)):
        restore(store, copy, now=NOW)

    assert marks(store) == ["old", "new"]
    assert sorted(store.parent.iterdir()) == before


def test_a_store_is_refused_as_its_own_backup(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(store)

    for same in (store, link):
        with pytest.raises(InvalidRequest, match="is the store itself"):
            restore(store, same, now=NOW)


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(store: Path, copy: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    with pytest.raises(StoreUnavailable, match="needs write access"):
        restore(blocked / "receiver.db", copy, now=NOW)
    assert marks(store) == ["old", "new"]
