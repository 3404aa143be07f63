"""The backup that a program makes by itself before it migrates a store: the way back to the older version."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from receiver.domain.errors import StoreUnavailable
from receiver.store.disk import RESERVE, free_bytes
from receiver.store.sqlite import maintenance

KEPT = 2
"""How many of these backups are kept, the newest."""

_MIB = 1024 * 1024


def back_up_before_upgrade(
    path: Path, version: int, now: datetime, *, free: Callable[[Path], int] = free_bytes
) -> Path:
    """Copy and check the store at *path*, whose schema is *version*. Return the copy; older ones are removed.

    Raises StoreUnavailable if the disk has too little space for the copy and the migration.
    """
    _check_space(path, free(path.parent))
    target = path.with_name(f"{path.name}.schema-{version:04d}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
    if not target.exists():  # two starts within a second
        maintenance.backup(path, target)
    for old in upgrade_backups(path)[KEPT:]:
        old.unlink(missing_ok=True)
    return target


def upgrade_backups(path: Path) -> list[Path]:
    """Return these backups of the store at *path*, the newest first."""
    found = path.parent.glob(f"{path.name}.schema-[0-9]*Z")
    return sorted(found, key=lambda each: each.name.rpartition("-")[2], reverse=True)


def _check_space(path: Path, free: int) -> None:
    """Check that the disk has space for the copy and for a migration that rewrites every row."""
    size = sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}-wal")) if each.exists())
    needed = 2 * size + RESERVE
    if free < needed:
        raise StoreUnavailable(
            f"The store must be migrated, which needs {needed // _MIB} MiB. {path.parent} has {free // _MIB} MiB free.",
            remedy="Free some space. Or copy the store to another disk by `kling-receiver db backup FILE`, then run "
            "`kling-receiver db migrate --no-backup`.",
        )
