"""A store's file as the source or the target of a copy. It is offline: its lock is held."""

import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from receiver.domain.errors import InvalidRequest, StoreError
from receiver.store.copying import Row, Table
from receiver.store.disk import give_to_owner_of, make_folder, real_path, sync_file, sync_folder
from receiver.store.sqlite.database import connect_reader, connect_writer, exclusive, locked, translate_error
from receiver.store.sqlite.migrate import is_current, is_initialized, known_migrations, upgrade

_AUTOCHECKPOINT_PAGES = 10_000


class SqliteCopySource:
    """A store's file that is read."""

    def __init__(self, connection: sqlite3.Connection, label: str) -> None:
        self._connection = connection
        self.label = label

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Lock and read the store at *path*. Raises StoreError if it is in use or needs a migration."""
        path = real_path(path)
        if not path.is_file():
            raise StoreError(f"There is no store at {path}.", remedy="Check [store] url.")
        with exclusive(path, create=False), _translated(path), closing(connect_reader(path)) as connection:
            if not is_initialized(connection):
                raise StoreError(f"{path} contains no store.", remedy="Check [store] url.")
            if not is_current(connection, known_migrations()):
                raise StoreError(f"{path} has an older schema.", remedy="Run `kling-receiver db migrate` first.")
            connection.execute("BEGIN")
            yield cls(connection, f"sqlite:{path}")

    async def columns(self, table: Table) -> Sequence[str]:
        """Return the names of a table's columns, sorted."""
        return sorted(row["name"] for row in self._connection.execute(f"PRAGMA table_info({table.name})"))

    async def count(self, table: Table) -> int:
        """Return the number of rows."""
        count: int = self._connection.execute(table.count_sql).fetchone()[0]
        return count

    async def rows(
        self, table: Table, columns: Sequence[str], *, after: Row | None = None
    ) -> AsyncGenerator[Row, None]:
        """Yield the rows after a key, in the order of keys."""
        found = self._connection.execute(table.rows_sql(columns, "?" * len(after or ())), after or ())
        while rows := found.fetchmany(table.rows_at_once):
            for row in rows:
                yield tuple(row)

    async def last_number(self, table: Table) -> int:
        """Return the last number a numbered table has given to a row."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).fetchone()
        return 0 if row is None else int(row["seq"])


class SqliteCopyTarget(SqliteCopySource):
    """A new store's file that is written. It has another name until the copy is complete."""

    def __init__(self, connection: sqlite3.Connection, label: str, *, path: Path, unfinished: Path) -> None:
        super().__init__(connection, label)
        self._path = path
        self._unfinished = unfinished

    @classmethod
    @contextmanager
    def open_new(cls, path: Path, *, origin: str) -> Iterator[Self]:
        """Create the file of a copy of *origin*, or continue one. Raises InvalidRequest if *path* exists."""
        path = real_path(path)
        make_folder(path.parent, mode=0o700)
        unfinished = path.with_name(f"{path.name}.copying")
        with locked(path), exclusive(unfinished, create=True), _translated(unfinished):
            if path.exists():
                raise InvalidRequest(f"{path} exists already.", remedy="Name a file that does not exist yet.")
            with closing(connect_writer(unfinished)) as connection:
                connection.execute(f"PRAGMA wal_autocheckpoint = {_AUTOCHECKPOINT_PAGES}")
                _mark(connection, unfinished, origin)
                yield cls(connection, f"sqlite:{unfinished}", path=path, unfinished=unfinished)

    async def last_key(self, table: Table) -> Row | None:
        """Return the greatest key."""
        row = self._connection.execute(table.last_key_sql).fetchone()
        return None if row is None else tuple(row)

    async def add(self, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add rows in one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(table.insert_sql(columns), rows)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    async def clear(self, table: Table) -> None:
        """Delete all rows."""
        self._connection.execute(table.clear_sql)

    async def set_last_number(self, table: Table, number: int) -> None:
        """Let a numbered table continue after a number."""
        if await self.last_number(table) == 0:
            self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, 0)", (table.name,))
        self._connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, table.name))

    async def finish(self) -> None:
        """Rename the complete copy to its name, once it is on the disk as a single file."""
        self._connection.execute("DROP TABLE copying")
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()
        give_to_owner_of(self._path.parent, self._unfinished)
        sync_file(self._unfinished)
        self._unfinished.rename(self._path)
        self._unfinished.with_name(f"{self._unfinished.name}.lock").unlink(missing_ok=True)
        sync_folder(self._path.parent)


def _mark(connection: sqlite3.Connection, unfinished: Path, origin: str) -> None:
    """Create the schema and note whose copy the file is. Raises InvalidRequest if it is another one's."""
    if not is_initialized(connection):
        upgrade(connection, known_migrations())
    connection.execute("CREATE TABLE IF NOT EXISTS copying (origin TEXT NOT NULL) STRICT")
    connection.execute("INSERT INTO copying (origin) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM copying)", (origin,))
    begun = connection.execute("SELECT origin FROM copying").fetchone()["origin"]
    if begun != origin or not is_current(connection, known_migrations()):
        raise InvalidRequest(f"{unfinished} is an unfinished copy of {begun}.", remedy="Delete it to start again.")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise (translate_error(exc, path) or exc) from exc
