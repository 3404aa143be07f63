"""Restores a backup: the verified copy replaces the store, and the replaced store is kept beside it."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from receiver.domain.errors import InvalidRequest, StoreUnavailable
from receiver.store.disk import give_to_owner_of, make_folder, real_path, sync_file, sync_folder
from receiver.store.sqlite.database import locked, suspect_marker
from receiver.store.sqlite.maintenance import copy_verified, temporary_copy

_BESIDE = ("-wal", "-shm")  # they belong to the replaced file: SQLite would apply the log to the new one


def restore(path: Path, backup: Path, *, now: datetime) -> Path | None:
    """Replace the store at *path* by a copy of *backup*. Return where the replaced store is, if there was one.

    Raises StoreLocked while a service uses the store. Nothing is moved before the copy is complete, checked and on the
    disk. If a crash stops it afterwards, the replaced store is under its new name, and a second restore completes.
    """
    path = real_path(path)
    if not backup.is_file():
        raise InvalidRequest(f"There is no file {backup}.", remedy="Name a file that `kling-receiver db backup` wrote.")
    if path.exists() and backup.samefile(path):
        raise InvalidRequest(f"{backup} is the store itself.", remedy="Name a backup.")
    kept = path.with_name(f"{path.name}.before-{now:%Y%m%dT%H%M%SZ}")
    try:
        make_folder(path.parent, mode=0o700)
        with locked(path), temporary_copy(path) as copy:
            copy_verified(backup, copy)
            give_to_owner_of(path if path.exists() else path.parent, copy)
            sync_file(copy)
            was_there = path.exists()
            _set_aside(path, kept)
            copy.rename(path)
            sync_folder(path.parent)
    except OSError as exc:
        raise StoreUnavailable(
            f"The store {path} could not be replaced: {exc.strerror or exc}.",
            remedy=f"The account that runs this needs write access to {path.parent} and free disk space.",
        ) from exc
    return kept if was_there else None


def _set_aside(path: Path, kept: Path) -> None:
    """Rename the store and its companions. The new store has been checked, so no mark of damage remains."""
    if kept.exists():
        raise InvalidRequest(f"{kept} exists already.", remedy="Try again in a second.")
    for suffix in ("", *_BESIDE):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    suspect_marker(path).unlink(missing_ok=True)
