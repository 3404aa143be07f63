"""What `kling-receiver doctor` reads from a store's file: its version of SQLite, its damage and its waiting work.

All connections only read, so the service may run meanwhile. Each function ends within its time limit.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from receiver.domain.clock import micros
from receiver.domain.errors import StoreError, StoreUnavailable
from receiver.domain.model import Event, Json, RouteState
from receiver.store import rows
from receiver.store.disk import real_path
from receiver.store.interfaces import RouteBacklog
from receiver.store.sqlite import catalog
from receiver.store.sqlite.database import (
    connect_reader,
    is_foreign,
    refuse_orphan_wal,
    suspect_marker,
    translate_error,
    wal_path,
)
from receiver.store.sqlite.migrate import is_initialized, known_migrations, schema_mismatches
from receiver.store.sqlite.queries import queries, sql

_WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
_STEPS_PER_CHECK = 10_000  # of SQLite's virtual machine, between two looks at the clock
CALLBACK_ALERTS = ("alert.callbacks_missed", "alert.callbacks_recovered")
"""The types of the alerts that say whether callbacks arrive."""


def sqlite_version() -> str:
    """Return the version of SQLite in use."""
    return sqlite3.sqlite_version


def has_wal_reset_bug(version: str) -> bool:
    """Return whether this version may damage a file if two connections write or checkpoint at once in WAL mode."""
    first, last = _WAL_RESET_BUG
    return first <= tuple(int(part) for part in version.split(".")[:3]) <= last


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a store: bytes of the database and of its log, and whether the store broke when last open."""

    database: int
    log: int
    is_suspect: bool


def files_of(path: Path) -> Files | None:
    """Return the files of the store at *path*; None if there is none. Raises StoreError for a log without a store."""
    path = real_path(path)
    refuse_orphan_wal(path)
    if not path.exists():
        return None
    log = wal_path(path)
    return Files(
        database=path.stat().st_size,
        log=log.stat().st_size if log.exists() else 0,
        is_suspect=suspect_marker(path).exists(),
    )


def quick_check(path: Path, *, time_limit: timedelta) -> Sequence[str]:
    """Return why the store cannot be used: damage that SQLite's quick check finds, or another schema.

    Raises StoreUnavailable if the check takes longer.
    """
    with _reading(path, time_limit) as connection:
        if is_foreign(connection):
            return ["The file is the database of another program."]
        found = [row[0] for row in connection.execute("PRAGMA quick_check") if row[0] != "ok"]
        return found or schema_mismatches(connection, known_migrations())


class WaitingWork(msgspec.Struct, frozen=True, kw_only=True):
    """Held routes, pending deliveries, recently dead ones by route, and the newest alert about callbacks."""

    held: Sequence[RouteState]
    backlog: Sequence[RouteBacklog]
    dead: Mapping[str, int]
    callback_alert: Event | None

    def callback_counts(self) -> Json:
        """Return the data of the newest alert about callbacks."""
        data: Json = json.loads(self.callback_alert.envelope)["data"] if self.callback_alert else {}
        return data


def waiting_work(path: Path, *, dead_since: datetime, time_limit: timedelta) -> WaitingWork | None:
    """Return what waits in the store at *path*; None if there is no store yet. Raises StoreError."""
    if not real_path(path).exists():
        return None
    with _reading(path, time_limit) as connection:
        if is_foreign(connection) or not is_initialized(connection):
            return None
        arguments = {"types": json.dumps(CALLBACK_ALERTS)}
        alerts = connection.execute(
            queries()["list_events"].with_optional(arguments), {**arguments, "limit": 1}
        ).fetchone()
        dead = connection.execute(sql("count_dead_deliveries"), {"since": micros(dead_since)})
        return WaitingWork(
            held=[state for state in catalog.route_states(connection).values() if state.is_held],
            backlog=catalog.backlog(connection),
            dead={row["route"]: row["dead"] for row in dead},
            callback_alert=rows.event(alerts) if alerts else None,
        )


@contextmanager
def _reading(path: Path, time_limit: timedelta) -> Iterator[sqlite3.Connection]:
    """Open the store for reading. Statements are interrupted after *time_limit*. Raises StoreError."""
    ends_at = time.monotonic() + time_limit.total_seconds()
    try:
        with closing(connect_reader(real_path(path))) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS_PER_CHECK)
            yield connection
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise StoreUnavailable(f"Reading the store takes longer than {time_limit.total_seconds():g} s.") from exc
        raise _store_error(exc, path) from exc
    except sqlite3.Error as exc:
        raise _store_error(exc, path) from exc


def _store_error(exc: sqlite3.Error, path: Path) -> StoreError:
    error = translate_error(exc, path)
    return error if isinstance(error, StoreError) else StoreError(f"The store cannot be read: {exc}.")
