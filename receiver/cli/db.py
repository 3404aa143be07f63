"""`kling-receiver db`: maintains the store. `migrate` and `restore` on SQLite, and `copy`, need the service stopped."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.options import COMMON, OUTPUT, CommonOptions, OutputOptions
from receiver.cli.value_kinds import FILE, URL
from receiver.domain.clock import SystemClock
from receiver.domain.errors import InvalidRequest
from receiver.domain.quantity_text import counted
from receiver.settings import load_client
from receiver.settings.client import ClientSettings
from receiver.settings.secrets import is_stand_in
from receiver.settings.store_url import SQLITE
from receiver.store.databases import copy_between
from receiver.store.disk import real_path
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.migrate import migrate as apply_migrations
from receiver.store.sqlite.restore import restore as restore_backup
from receiver.store.sqlite.upgrade_backup import back_up_before_upgrade

db = App(name="db", help="Migrate, check, back up, restore, copy and measure the store.")

_SECONDS_BETWEEN_REPORTS = 1.0
_UNITS = ("B", "KiB", "MiB", "GiB")
_UNIT_SIZE = 1024


@db.command
def migrate(
    *,
    no_backup: Annotated[bool, Parameter(help="Migrate without a copy of the store before.")] = False,
    common: CommonOptions = COMMON,
) -> int:
    """Migrate the store while the service is stopped; `serve` also does this at start. Copies the store first."""
    client = load_client(common.config)
    if client.store.is_postgres:
        from receiver.cli import db_server

        steps = asyncio.run(db_server.migrate(client))
    else:
        path = client.store.path
        steps = apply_migrations(path, back_up=None if no_backup else partial(back_up_before_upgrade, real_path(path)))
    for step in steps:
        render.print_line(f"{step}: done")
    if not steps:
        render.print_line(f"{_name(client)}: up to date")
    return OK


@db.command
def check(*, output: OutputOptions = OUTPUT) -> int:
    """Check every page, index and reference of the store; exit 1 if any is damaged."""
    client = load_client(output.config)
    faults = _find_faults(client)
    if output.json:
        render.print_json({"ok": not faults, "path": _name(client), "faults": faults})
    elif faults:
        for fault in faults:
            render.print_line(fault)
    else:
        render.print_line(f"{_name(client)}: good")
    return FAILED if faults else OK


@db.command
def backup(
    target: Annotated[Path, FILE, Parameter(name="FILE", help="File to write.")], /, *, common: CommonOptions = COMMON
) -> int:
    """Copy the store to a new file, even while it is in use; the copy is checked before it gets its name."""
    client = load_client(common.config)
    _require_file(client, "Use `pg_dump`, or a base backup of the server.")
    maintenance.backup(client.store.path, target)
    render.print_line(f"{target}: written and checked, {_format_size(target.stat().st_size)}")
    return OK


@db.command
def restore(
    source: Annotated[Path, FILE, Parameter(name="FILE", help="Backup to restore.")],
    /,
    *,
    common: CommonOptions = COMMON,
) -> int:
    """Replace the store by a checked copy of a backup, while the service is stopped; the replaced store is kept."""
    client = load_client(common.config)
    _require_file(client, "Use `pg_restore`, or the server's own backup.")
    path = client.store.path
    kept = restore_backup(path, source, now=SystemClock().now())
    counts = maintenance.stats_at(path)
    tasks = sum(count for name, count in counts.items() if name.startswith("tasks."))
    size = _format_size(path.stat().st_size)
    render.print_line(f"{path}: restored from {source}, {counted(tasks, 'task')}, {size}, checked")
    render.print_line(f"replaced store: {kept}" if kept else "There was no store before.")
    _note_root(path)
    return OK


@db.command
def stats(*, output: OutputOptions = OUTPUT) -> int:
    """Show the number of rows in the store and its size."""
    client = load_client(output.config)
    counts = _count_rows(client)
    if output.json:
        render.print_json(dict(counts))
        return OK
    for_terminal = render.is_terminal()
    render.details(
        (name, _format_size(count) if for_terminal and name.startswith("bytes.") else str(count))
        for name, count in counts.items()
    )
    return OK


@db.command
def copy(
    *,
    to: Annotated[str, URL, Parameter(help="New database to copy to: postgresql://... or sqlite:FILE.")],
    from_: Annotated[
        str | None, URL, Parameter(name="--from", help="Store to copy (default: that of the configuration).")
    ] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Copy the store to another database while the service is stopped, and compare every row. Run again to resume."""
    client = load_client(output.config)
    source = from_ or str(client.store)
    tables = asyncio.run(copy_between(source, to, _CopyProgress().report, passwords=_known_passwords(client)))
    if output.json:
        copied = [{"table": table.name, "rows": table.rows, "sha256": table.digest} for table in tables]
        render.print_json({"source": source, "target": to, "tables": copied})
        return OK
    for table in tables:
        render.print_line(f"{table.name}: {counted(table.rows, 'row')}, the same in both, SHA-256 {table.digest[:16]}")
    url = _from_any_folder(to)
    render.print_line(f'{source} is unchanged. To use the copy, set [store] url = "{url}" and start the service.')
    if to.startswith(SQLITE):
        _note_root(Path(url.removeprefix(SQLITE)))
    return OK


def _note_root(path: Path) -> None:
    """Print a note if the store belongs to root: a service under another account could not open it."""
    if path.stat().st_uid == 0:
        render.notice(
            f"{path} belongs to root, as its folder does. If the service runs under another account, "
            f"give it both: chown ACCOUNT {path.parent} {path}*"
        )


def _from_any_folder(url: str) -> str:
    """Return the URL of a store with an absolute path: a relative one in a configuration counts from its folder."""
    path = url.removeprefix(SQLITE)
    return url if path == url else f"{SQLITE}{Path(path).absolute()}"


def _known_passwords(client: ClientSettings) -> Mapping[str, str]:
    """Return the configured password of the configured database, if this shell has it."""
    password = client.store_password
    return {} if password is None or is_stand_in(password) else {str(client.store): password.reveal()}


class _CopyProgress:
    """Prints how far a copy is, at most once a second."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._printed_at = self._clock.monotonic()

    def report(self, what: str, done: int, total: int) -> None:
        """Print a line to stderr, unless one was just printed."""
        now = self._clock.monotonic()
        if now - self._printed_at >= _SECONDS_BETWEEN_REPORTS:
            self._printed_at = now
            render.notice(f"{what}: {done} of {counted(total, 'row')}")


def _find_faults(client: ClientSettings) -> Sequence[str]:
    if not client.store.is_postgres:
        return maintenance.check(client.store.path)
    from receiver.cli import db_server  # its driver is an extra

    return asyncio.run(db_server.check(client))


def _count_rows(client: ClientSettings) -> Mapping[str, int]:
    if not client.store.is_postgres:
        return maintenance.stats_at(client.store.path)
    from receiver.cli import db_server

    return asyncio.run(db_server.stats(client))


def _name(client: ClientSettings) -> str:
    """Return the path of a SQLite store, or the URL of a database."""
    return str(client.store) if client.store.is_postgres else str(client.store.path)


def _require_file(client: ClientSettings, remedy: str) -> None:
    if client.store.is_postgres:
        raise InvalidRequest("The store is on PostgreSQL, which has tools of its own for this.", remedy=remedy)


def _format_size(count: float) -> str:
    """Format a number of bytes with a binary unit."""
    for unit in _UNITS:
        if count < _UNIT_SIZE or unit == _UNITS[-1]:
            break
        count /= _UNIT_SIZE
    return f"{count:.0f} {unit}" if unit == _UNITS[0] else f"{count:.1f} {unit}"
