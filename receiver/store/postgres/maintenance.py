"""Maintenance of a store on PostgreSQL: a check and statistics. Pages and backups are the server's own business."""

from collections.abc import Mapping

import asyncpg

from receiver.domain.errors import StoreError
from receiver.store.postgres.database import Address, Connection, connect
from receiver.store.postgres.errors import translate_error
from receiver.store.postgres.migrate import applied, known_migrations, schema_mismatches
from receiver.store.postgres.queries import fetch, fetch_value

_SECONDS = 300.0

_INVALID = """
SELECT indexrelid::regclass::text AS name
FROM pg_index
JOIN pg_class ON pg_class.oid = pg_index.indexrelid
WHERE NOT indisvalid
  AND relnamespace = 'public'::regnamespace
"""


async def check(address: Address) -> list[str]:
    """Check the server's settings, the schema and the indexes; return the faults, one sentence each."""
    try:
        connection = await connect(address, timeout=_SECONDS)
    except StoreError as exc:
        return [str(exc)]
    try:
        if not await applied(connection):
            return ["The database contains no store. `serve` or `kling-receiver db migrate` creates it."]
        faults = await schema_mismatches(connection, known_migrations())
        invalid = await connection.fetch(_INVALID)
        return faults + [f"The index {row['name']} is not valid. Run `REINDEX INDEX {row['name']}`." for row in invalid]
    except asyncpg.PostgresError as exc:
        return [f"The store cannot be read: {exc}."]
    finally:
        connection.terminate()


async def stats_at(address: Address) -> Mapping[str, int]:
    """Return the statistics of the store at *address*, even while services use it. Raises StoreError."""
    connection = await connect(address, timeout=_SECONDS)
    try:
        if not await applied(connection):
            raise StoreError("The database contains no store.", remedy="`serve` or `db migrate` creates it.")
        return await stats(connection)
    except asyncpg.PostgresError as exc:
        raise (translate_error(exc) or exc) from exc
    finally:
        connection.terminate()


async def stats(connection: Connection) -> Mapping[str, int]:
    """Return the rows of every kind and the bytes they use: ``tasks.succeed``, ``events``, ``bytes.database``, ..."""
    counts = {row["name"]: row["number"] for row in await fetch(connection, "stats")}
    return {**counts, "bytes.database": await fetch_value(connection, "database_size")}
