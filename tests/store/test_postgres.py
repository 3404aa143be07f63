"""What is particular to the store on PostgreSQL: settings that lose data, and the schema."""

import asyncio
import sqlite3

import pytest
from harness.postgres import PostgresServer
from store.conftest import a_postgres_store

from receiver.domain.errors import StoreError
from receiver.store.postgres.database import Address, connect
from receiver.store.postgres.migrate import known_migrations, migrate
from receiver.store.postgres.store import PostgresStore


async def test_a_server_that_may_lose_acknowledged_data_is_refused(
    postgres: PostgresServer, postgres_database: str
) -> None:
    await postgres.execute(f"ALTER DATABASE {postgres_database} SET synchronous_commit = off")

    with pytest.raises(StoreError, match="synchronous_commit is 'off'"):
        await PostgresStore.open(Address(url=postgres.url(postgres_database)))


async def test_nodes_that_start_together_migrate_once(postgres: PostgresServer) -> None:
    await postgres.execute("CREATE DATABASE test_migrations")
    address = Address(url=postgres.url("test_migrations"))
    try:
        applied = await asyncio.gather(*(migrate(address) for _ in range(4)))
    finally:
        await postgres.drop_database("test_migrations")

    assert sorted(name for names in applied for name in names) == [step.title for step in known_migrations()]


async def test_a_store_can_commit_and_starts_empty(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await store.check_commit()

        assert await store.newest_id() == ""
        assert (await store.stats())["events"] == 0


async def test_both_databases_have_the_same_tables_and_columns(postgres_url: str, raw: sqlite3.Connection) -> None:
    connection = await connect(Address(url=postgres_url), timeout=5)
    found = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    await connection.close()

    expected = raw.execute(
        "SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns"
        " WHERE tables.type IN ('table', 'view') AND tables.name NOT LIKE 'sqlite_%'"
        " AND tables.name <> 'running_slots'"  # sums kept by triggers: on PostgreSQL they would make nodes wait
    )
    assert set(map(tuple, expected)) - {(row["table_name"], row["column_name"]) for row in found} == set()


async def test_a_database_of_a_newer_release_is_refused(postgres: PostgresServer, postgres_database: str) -> None:
    newer = "INSERT INTO migrations VALUES (9999, 'newer', '', 0)"
    await postgres.execute(newer, database=postgres_database)

    with pytest.raises(StoreError, match="schema version 9999, newer than this program's"):
        await PostgresStore.open(Address(url=postgres.url(postgres_database)))
