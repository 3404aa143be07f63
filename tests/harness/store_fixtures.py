"""Fixtures with an empty store on each database, for tests beside the conformance suite."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

import pytest
from harness.sqlite_template import open_store

from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore
from receiver.store.sqlite.store import SqliteStore

AnyStore: TypeAlias = SqliteStore | PostgresStore


@pytest.fixture(params=["sqlite", "postgres"])
def open_any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Awaitable[AnyStore]]:
    """Opens the same store each time it is called."""
    if request.param == "sqlite":
        return lambda: open_store(tmp_path / "receiver.db")
    address = Address(url=request.getfixturevalue("postgres_url"))
    return lambda: PostgresStore.open(address)


@pytest.fixture
async def any_store(open_any_store: Callable[[], Awaitable[AnyStore]]) -> AsyncIterator[AnyStore]:
    """An empty store, first on one database, then on the other one."""
    async with aclosing(await open_any_store()) as store:
        yield store
