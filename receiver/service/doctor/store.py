"""The store: its disk, its files, its version of SQLite and its damage."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.service.stores import server_address
from receiver.store.disk import RESERVE, file_system, free_bytes, real_path
from receiver.store.sqlite.examination import files_of, has_wal_reset_bug, quick_check, sqlite_version

_MIB = 1024 * 1024
_LOW_SPACE = 4 * RESERVE  # below it, downloads of results wait
_LARGE_LOG = 256 * _MIB  # four times the size to which it is cut back
_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
    | {"fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"}
)
_MEMORY = frozenset({"ramfs", "tmpfs"})


def _of_a_file(check: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
    """Make a check of a SQLite file, which has nothing to find if the store is on a server."""

    @wraps(check)
    def check_file(subject: Subject) -> Finding:
        on_server = subject.settings.store.url.is_postgres
        return ok("The store is on PostgreSQL, which has no file here.") if on_server else check(subject)

    return check_file


@_of_a_file
def disk(subject: Subject) -> Finding:
    """Check that the store's folder can be written and has free space."""
    folder = _folder(subject)
    free = free_bytes(folder)
    details = {"folder": str(folder), "free_bytes": free, "reserve_bytes": RESERVE}
    if not subject.service.is_running and not os.access(folder, os.W_OK | os.X_OK):
        return failed(
            f"The folder {folder} may not be written by this user, so the service cannot start as this user.",
            f"Run the service and this command as the owner of {folder}, or change [store] url.",
            **details,
        )
    if free < RESERVE:
        return failed(
            f"The store's disk is almost full: {free // _MIB} MiB are left in {folder}. Callbacks are answered 503 "
            f"below {RESERVE // _MIB} MiB.",
            "Make room on this disk, or move the store with [store] url. The service resumes by itself.",
            **details,
        )
    if free < _LOW_SPACE:
        return warning(
            f"The store's disk runs low: {free // _MIB} MiB are left in {folder}. Downloads of results wait below "
            f"{_LOW_SPACE // _MIB} MiB, and callbacks are refused below {RESERVE // _MIB} MiB.",
            "Make room on this disk, or shorten [retention].",
            **details,
        )
    return ok(f"{free // _MIB} MiB are free in {folder}.", **details)


@_of_a_file
def file_system_type(subject: Subject) -> Finding:
    """Check that the store is on a local disk."""
    folder = _folder(subject)
    kind = file_system(folder)
    if kind in _NETWORK:
        return failed(
            f"The store is on a network file system ({kind}). SQLite's write-ahead log needs memory that processes "
            "share, and locks that hold: acknowledged data may be lost.",
            "Set [store] url to a file on a local disk.",
            type=kind,
        )
    if kind in _MEMORY:
        return warning(
            f"The store is in memory ({kind}): a restart of the machine deletes it.",
            "Set [store] url to a file on a disk.",
            type=kind,
        )
    return ok(f"The store is on a local file system ({kind or 'of unknown type'}).", type=kind)


@_of_a_file
def size(subject: Subject) -> Finding:
    """Check the size of the store and of its write-ahead log."""
    path = subject.settings.store.path
    files = files_of(path)
    if files is None:
        return ok(f"There is no store at {path} yet; the first start creates it.")
    details = {"database_bytes": files.database, "log_bytes": files.log}
    if files.log > _LARGE_LOG:
        return warning(
            f"The write-ahead log has {files.log // _MIB} MiB. A program that keeps reading the store prevents its "
            "reuse, or the service was killed under load.",
            f"End other programs that have {path} open (`fuser {path}`), then restart the service.",
            **details,
        )
    return ok(f"The store has {files.database / _MIB:.1f} MiB, its log {files.log / _MIB:.1f} MiB.", **details)


@_of_a_file
def sqlite(subject: Subject) -> Finding:
    """Check whether SQLite has the WAL-reset bug."""
    version = subject.service.diagnostics.get("sqlite") or sqlite_version()
    if has_wal_reset_bug(version):
        return warning(
            f"SQLite {version} has the WAL-reset bug (3.7.0 to 3.51.2): two connections that write or checkpoint at "
            "once may damage the store. The service itself uses only one.",
            f"Do not open {subject.settings.store.path} with another program that can write (`sqlite3`, a browser for "
            "databases) while the service runs, and do not share it between containers. Copy it with "
            "`kling-receiver db backup`. A Python with SQLite 3.51.3 or newer ends this limit.",
            version=version,
            wal_reset_bug=True,
        )
    return ok(f"SQLite {version} does not have the WAL-reset bug.", version=version, wal_reset_bug=False)


def integrity(subject: Subject) -> Finding:
    """Check that the store did not break, and while the service is stopped, that its pages are sound."""
    if subject.settings.store.url.is_postgres:
        return _server(subject)
    path = subject.settings.store.path
    files = files_of(path)
    if files is None:
        return ok("There is no store yet.")
    if files.is_suspect:
        return failed(
            "The store broke when it was last open. The next start checks it, and continues only if it is sound.",
            "Check the disk (`dmesg`), then run `kling-receiver db check`. If it finds damage, restore a backup.",
        )
    if subject.service.is_running:
        return ok("The service has the store open and reports no damage. `kling-receiver db check` checks every page.")
    if found := quick_check(path, time_limit=CALL_LIMIT):
        return failed(
            f"The store cannot be used: {found[0]}",
            "`kling-receiver db check` lists all that is wrong. If it is damage, do not start the service: restore a "
            "backup.",
            found=len(found),
        )
    return ok("SQLite's quick check finds no damage.")


def _server(subject: Subject) -> Finding:
    """Check that the server can be used and keeps what it acknowledges, and that the schema is ours."""
    from receiver.store.postgres import examination  # noqa: PLC0415 -- its driver is an extra

    if found := examination.find_faults(server_address(subject.settings.store), time_limit=CALL_LIMIT):
        return failed(
            f"The store cannot be used: {found[0]}",
            "`kling-receiver db check` lists all that is wrong.",
            found=len(found),
        )
    return ok("The PostgreSQL server answers, and it keeps what it acknowledges.")


def _folder(subject: Subject) -> Path:
    """Return the store's folder, or its nearest existing parent before the first start."""
    folder = real_path(subject.settings.store.path).parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
