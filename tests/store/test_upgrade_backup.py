"""A store is copied before it is migrated; the last two copies are kept."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from harness.clock import START
from harness.older_store import OLD_VERSION, make_older_store, schema_version

from receiver.domain.errors import StoreUnavailable
from receiver.store.sqlite.migrate import known_migrations, migrate
from receiver.store.sqlite.upgrade_backup import back_up_before_upgrade, upgrade_backups


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "receiver.db"
    make_older_store(path, events=20)
    return path


def test_the_copy_has_the_schema_from_before(path: Path) -> None:
    migrate(path, back_up=partial(back_up_before_upgrade, path))

    (copy,) = upgrade_backups(path)
    assert (schema_version(copy), schema_version(path)) == (OLD_VERSION, known_migrations()[-1].version)
    assert copy.stat().st_mode & 0o077 == 0


def test_a_store_that_needs_no_migration_is_not_copied(path: Path) -> None:
    migrate(path)

    assert migrate(path, back_up=partial(back_up_before_upgrade, path)) == []
    assert upgrade_backups(path) == []


def test_a_new_store_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    assert migrate(path, back_up=partial(back_up_before_upgrade, path))
    assert upgrade_backups(path) == []


def test_the_last_two_copies_are_kept(path: Path) -> None:
    made = [back_up_before_upgrade(path, OLD_VERSION, START + timedelta(days=day)) for day in range(4)]

    assert upgrade_backups(path) == [made[3], made[2]]
    assert not made[0].exists()


def test_too_little_space_refuses_the_migration_and_changes_nothing(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="must be migrated, which needs 64 MiB") as refused:
        migrate(path, back_up=partial(back_up_before_upgrade, path, free=lambda _: 10 << 20))

    assert "has 10 MiB free" in refused.value.message
    assert "db migrate --no-backup" in refused.value.remedy
    assert schema_version(path) == OLD_VERSION
    assert upgrade_backups(path) == []
