"""Migrates the schema of a database: numbered steps, each in one transaction, each recorded with its checksum.

Nodes that start at the same time migrate in turn, under an advisory lock that ends with the transaction.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import asyncpg
import msgspec

from receiver.domain.clock import Clock, SystemClock, micros
from receiver.domain.errors import StoreError
from receiver.store.postgres.database import Address, Connection, connect
from receiver.store.postgres.errors import translate_error

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")
_CLOCK = SystemClock()
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('kling-receiver migrations'))"
_LONGEST_STEP_SECONDS = 3600.0
_MAX_REPEATS = 10

_CREATE_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at BIGINT NOT NULL
)
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def title(self) -> str:
        """The name of the step's file, without its ending."""
        return f"{self.version:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        """The SHA-256 of the SQL, to detect that an applied step was changed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


Report = Callable[[str, Mapping[str, object]], None]
"""Is called with what begins: an event for the log, and its values."""


def _no_report(_event: str, _values: Mapping[str, object]) -> None: ...


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


async def migrate(address: Address, *, clock: Clock = _CLOCK, report: Report = _no_report) -> list[str]:
    """Migrate the database at *address*; return the names of the applied steps. Raises StoreError."""
    connection = await connect(address, timeout=_LONGEST_STEP_SECONDS)
    try:
        return await upgrade(connection, known_migrations(), clock=clock, report=report)
    except (asyncpg.DuplicateObjectError, asyncpg.UndefinedColumnError, asyncpg.DuplicateTableError) as exc:
        raise StoreError(
            f"The database has tables of another program: {exc}.", remedy="Give the store a database of its own."
        ) from exc
    except Exception as exc:
        raise (translate_error(exc) or exc) from exc
    finally:
        connection.terminate()


async def upgrade(
    connection: Connection, steps: Sequence[Migration], *, clock: Clock = _CLOCK, report: Report = _no_report
) -> list[str]:
    """Apply the missing steps, each completely or not at all; return their names.

    Other nodes may use the tables of a step in another order. The server then ends one of the two transactions, which
    is repeated.
    """
    await refuse_mismatches(connection, steps)
    return [
        step.title for step in steps if await _apply_until_done(connection, step, at=micros(clock.now()), report=report)
    ]


async def _apply_until_done(connection: Connection, step: Migration, *, at: int, report: Report) -> bool:
    for _ in range(_MAX_REPEATS):
        with suppress(asyncpg.DeadlockDetectedError):
            return await _apply_if_missing(connection, step, at=at, report=report)
    return await _apply_if_missing(connection, step, at=at, report=report)


async def _apply_if_missing(connection: Connection, step: Migration, *, at: int, report: Report) -> bool:
    async with connection.transaction():
        await connection.execute(_LOCK)
        done = await applied(connection)
        if step.version in done:
            return False
        if done:
            report("store.migrating", {"step": step.title})
        await _apply_step(connection, step, at=at)
    return True


async def refuse_mismatches(connection: Connection, steps: Sequence[Migration]) -> None:
    """Raise StoreError if this program cannot use the schema of the database."""
    faults = await schema_mismatches(connection, steps)
    if faults:
        raise StoreError(" ".join(faults))


async def schema_mismatches(connection: Connection, steps: Sequence[Migration]) -> list[str]:
    """Return the reasons why this program cannot use the schema of the database."""
    done = await applied(connection)
    newest = max((step.version for step in steps), default=0)
    faults = []
    if done and max(done) > newest:
        faults.append(
            f"The store has schema version {max(done)}, newer than this program's {newest}. "
            "Install the version that created it, or restore an older backup."
        )
    faults += [
        f"Migration {step.title} differs from the one the store was created with."
        for step in steps
        if step.version in done and done[step.version] != step.checksum
    ]
    if await connection.fetchval("SELECT to_regclass('copying')") is not None:
        faults.append("The database has an unfinished copy of a store. Finish it with `kling-receiver db copy`.")
    return faults


async def applied(connection: Connection) -> dict[int, str]:
    """Return the checksums of the applied steps by version; empty for a database without a store."""
    if await connection.fetchval("SELECT to_regclass('migrations')") is None:
        return {}
    found = await connection.fetch("SELECT version, checksum FROM migrations")
    return {row["version"]: row["checksum"] for row in found}


async def _apply_step(connection: Connection, step: Migration, *, at: int) -> None:
    await connection.execute(_CREATE_MIGRATIONS_TABLE)
    await connection.execute(step.sql)
    await connection.execute(
        "INSERT INTO migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, $4)",
        step.version,
        step.name,
        step.checksum,
        at,
    )
