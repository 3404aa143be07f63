"""Migrates a store's schema: numbered steps, each in one transaction, each recorded with its checksum."""

import hashlib
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

import msgspec

from receiver.domain.clock import Clock, SystemClock, micros
from receiver.domain.errors import StoreError
from receiver.store.disk import real_path
from receiver.store.sqlite.database import APPLICATION_ID, connect_writer, exclusive, translate_error

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")
_CLOCK = SystemClock()

_CREATE_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the SQL, to detect that an applied step was changed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """Split the step into statements; a trigger is one. The driver's ``executescript`` would commit in between."""
        statement = ""
        for line in self.sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                yield statement
                statement = ""
        if any(line and not line.startswith("--") for line in map(str.strip, statement.splitlines())):
            raise ValueError(f"migration {self.version} ends inside a statement")


@cache
def known_migrations() -> tuple[Migration, ...]:
    """Return the steps this program contains, in order."""
    found = []
    for file in Path(__file__).with_name("sql").joinpath("migrations").iterdir():
        named = _FILE.fullmatch(file.name)
        if named is not None:
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(version=int(named["version"]), name=named["name"], sql=sql))
    return tuple(sorted(found, key=lambda migration: migration.version))


BackUp = Callable[[int, datetime], Path]
"""Copies the store, whose schema version is given, at a time. Returns the copy."""

Report = Callable[[str, Mapping[str, object]], None]
"""Is called in the writer's thread with what begins or has ended: an event for the log, and its values."""


def _no_report(_event: str, _values: Mapping[str, object]) -> None: ...


def migrate(path: Path, *, clock: Clock = _CLOCK, back_up: BackUp | None = None) -> list[str]:
    """Migrate the store at *path* under its exclusive lock; return the names of the applied steps."""
    path = real_path(path)
    with exclusive(path, create=True):
        try:
            connection = connect_writer(path)
            try:
                return upgrade(connection, known_migrations(), clock=clock, back_up=back_up)
            finally:
                connection.close()
        except sqlite3.Error as exc:
            raise (translate_error(exc, path) or exc) from exc


def upgrade(
    connection: sqlite3.Connection,
    steps: Sequence[Migration],
    *,
    clock: Clock = _CLOCK,
    back_up: BackUp | None = None,
    report: Report = _no_report,
) -> list[str]:
    """Apply the missing steps, each completely or not at all; return their names.

    *back_up* copies a store that exists first.
    """
    faults = schema_mismatches(connection, steps)
    if faults:
        raise StoreError(" ".join(faults))
    done = set(_applied(connection))
    missing = [step for step in steps if step.version not in done]
    if missing and done and back_up is not None:
        report("store.backing_up", {"reason": "A new version migrates the store."})
        report("store.backed_up", {"file": str(back_up(max(done), clock.now()))})
    with _schema_text_changes(connection):
        for step in missing:
            if done:
                report("store.migrating", {"step": f"{step.version:04d}_{step.name}", "of": len(missing)})
            _apply_step(connection, step, at=micros(clock.now()))
    return [f"{step.version:04d}_{step.name}" for step in missing]


def schema_mismatches(connection: sqlite3.Connection, steps: Sequence[Migration]) -> list[str]:
    """Return the reasons why this program cannot use the schema of the file."""
    applied = _applied(connection)
    newest = max((step.version for step in steps), default=0)
    faults = []
    if applied and max(applied) > newest:
        faults.append(
            f"The store has schema version {max(applied)}, newer than this program's {newest}. "
            "Install the version that created it, or restore an older backup."
        )
    faults += [
        f"Migration {step.version:04d}_{step.name} differs from the one the store was created with."
        for step in steps
        if step.version in applied and applied[step.version] != step.checksum
    ]
    return faults


def is_current(connection: sqlite3.Connection, steps: Sequence[Migration]) -> bool:
    """Return whether the file has exactly this program's schema."""
    return not schema_mismatches(connection, steps) and {step.version for step in steps} == set(_applied(connection))


def is_initialized(connection: sqlite3.Connection) -> bool:
    """Return whether the file contains a store: SQLite accepts an empty file as a valid database."""
    return bool(_applied(connection))


def _applied(connection: sqlite3.Connection) -> dict[int, str]:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone():
        return {}
    return dict(map(tuple, connection.execute("SELECT version, checksum FROM migrations")))


@contextmanager
def _schema_text_changes(connection: sqlite3.Connection) -> Iterator[None]:
    """Let steps change the text of a table, which some builds of SQLite forbid at first. Raises StoreError."""
    is_defensive = False
    if sys.version_info >= (3, 12):  # before that, Python cannot set it
        is_defensive = connection.getconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, False)  # noqa: FBT003  # it takes no keywords
    try:
        yield
    except sqlite3.OperationalError as exc:
        if "may not be modified" not in str(exc):
            raise
        raise StoreError(
            f"This build of SQLite ({sqlite3.sqlite_version}) forbids to change the schema of the store.",
            remedy="Run the service with Python 3.12 or later, which can allow it, or with another SQLite.",
        ) from exc
    finally:
        connection.execute("PRAGMA writable_schema = OFF")  # a step that failed may have left it on
        if sys.version_info >= (3, 12):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, is_defensive)


def _apply_step(connection: sqlite3.Connection, step: Migration, *, at: int) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_CREATE_MIGRATIONS_TABLE)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for statement in step.statements():
            connection.execute(statement)
        connection.execute(
            "INSERT INTO migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
            (step.version, step.name, step.checksum, at),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
