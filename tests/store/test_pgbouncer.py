"""The store through a real PgBouncer in transaction mode: the tests of tasks, deliveries and nodes once more.

The connections of the server take turns, so that a statement which relies on the session of the one before it fails.
"""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from harness.pgbouncer import a_pgbouncer, pooled_url
from harness.postgres import PostgresServer
from store import (
    test_deliveries,
    test_postgres_fences,
    test_postgres_nodes,
    test_sessions,
    test_task_changes,
    test_tasks,
)
from store.conftest import a_postgres_store
from store.test_postgres_fences import fenced
from store.test_postgres_nodes import nodes
from store.test_postgres_writes import acknowledge_all, log_statements, record_all

from receiver.domain.duties import Duty
from receiver.store.interfaces.nodes import NodeIdentity
from receiver.store.postgres.database import Address, is_pooled

__all__ = ["fenced", "nodes"]

STORES = ["postgres"]

for module in (
    test_tasks,
    test_task_changes,
    test_deliveries,
    test_sessions,
    test_postgres_nodes,
    test_postgres_fences,
):
    globals().update({name: each for name, each in vars(module).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def pgbouncer(postgres: PostgresServer) -> Iterator[int]:
    """The port of PgBouncer."""
    with a_pgbouncer(postgres, more="server_round_robin = 1") as port:
        yield port


@pytest.fixture
def postgres_url(postgres_database: str, pgbouncer: int) -> str:
    """The URL of a new database with an empty store, through PgBouncer."""
    return pooled_url(postgres_database, pgbouncer)


async def test_pgbouncer_is_recognized(postgres_url: str) -> None:
    assert await is_pooled(Address(url=postgres_url))
    async with a_postgres_store(postgres_url) as store:
        await store.check_commit()


async def test_a_node_behind_pgbouncer_keeps_no_session_that_others_could_see(postgres_url: str) -> None:
    node = NodeIdentity(name="a", instance="a-1", version="1")
    async with a_postgres_store(postgres_url) as store:
        links = store.between_nodes.nodes
        assert await links.register(node) is None

        async with links.session(node) as ended:
            assert ended is None
            assert await links.take(node, Duty.KLING, epoch=0, lifetime=timedelta(minutes=1))
            assert await links.abandoned(Duty.KLING) is None


async def test_attempts_lock_their_deliveries_in_one_order_whatever_the_plan(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await acknowledge_all(store)
        sent = await log_statements(store.deliveries._writer)

        await record_all(store)

    assert any(statement.endswith("ORDER BY id\nFOR NO KEY UPDATE") for statement in sent)
