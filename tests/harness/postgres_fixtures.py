"""Fixtures with the PostgreSQL server of the test session, and an empty, migrated database for a test."""

import asyncio
from collections.abc import Iterator

import pytest
from harness.postgres import PostgresServer, shared_server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[PostgresServer]:
    """The server that all workers of the session share."""
    own = tmp_path_factory.getbasetemp()
    with shared_server(own if worker_id == "master" else own.parent) as server:
        yield server


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """A new database with an empty store; it is dropped after the test."""
    name = asyncio.run(postgres.create_database())
    yield name
    asyncio.run(postgres.drop_database(name))


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_database: str) -> str:
    """The URL of a new database with an empty store."""
    return postgres.url(postgres_database)
