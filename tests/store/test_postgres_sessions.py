"""The session of a node: other nodes see its end, and may take the lease of its holder at once."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from harness.postgres import PostgresServer
from harness.waiting import wait_until
from store.conftest import a_postgres_store

from receiver.domain.duties import Duty
from receiver.store.interfaces.nodes import NodeIdentity, NodeStore

LIFETIME = timedelta(minutes=1)
A, B = (NodeIdentity(name=name, instance=f"{name}-1", version="1") for name in "ab")
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
async def nodes(postgres_url: str) -> AsyncIterator[NodeStore]:
    """Two registered nodes. No lease is taken."""
    async with a_postgres_store(postgres_url) as store:
        for node in (A, B):
            assert await store.between_nodes.nodes.register(node) is None
        yield store.between_nodes.nodes


async def is_abandoned(nodes: NodeStore) -> bool:
    return await nodes.abandoned(Duty.KLING) is not None


async def test_the_lease_of_a_node_whose_session_has_ended_is_taken_at_once(nodes: NodeStore) -> None:
    async with nodes.session(A):
        assert await nodes.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME, has_session=True)
        assert not await is_abandoned(nodes)
        assert not await nodes.take(B, Duty.KLING, epoch=1, lifetime=LIFETIME)

    await wait_until(lambda: is_abandoned(nodes))
    lease = await nodes.abandoned(Duty.KLING)

    assert lease is not None
    assert (lease.node, lease.epoch, lease.has_ended) == ("a", 1, False)
    assert await nodes.take(B, Duty.KLING, epoch=1, lifetime=LIFETIME)


async def test_a_lease_without_a_session_lasts_until_it_ends(nodes: NodeStore) -> None:
    assert await nodes.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME)

    assert not await is_abandoned(nodes)
    assert not await nodes.take(B, Duty.KLING, epoch=1, lifetime=LIFETIME)


async def test_a_node_that_has_lost_its_session_keeps_its_lease_by_saying_so(nodes: NodeStore) -> None:
    assert await nodes.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME, has_session=True)
    assert await is_abandoned(nodes)

    await nodes.renew(A, [Duty.KLING], lifetime=LIFETIME, has_session=False)

    assert not await is_abandoned(nodes)


async def test_a_node_whose_new_session_is_open_before_the_old_one_has_ended_keeps_its_lease(nodes: NodeStore) -> None:
    async with AsyncExitStack() as newer:
        async with nodes.session(A):
            assert await nodes.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME, has_session=True)
            await newer.enter_async_context(nodes.session(A))

        assert not await is_abandoned(nodes)


async def test_a_node_notices_that_its_session_was_ended(
    nodes: NodeStore, postgres: PostgresServer, postgres_database: str
) -> None:
    async with nodes.session(A) as ended:
        assert ended is not None

        await postgres.execute(END_SESSIONS, database=postgres_database)

        await wait_until(ended.is_set)


async def test_the_session_of_another_node_does_not_keep_a_lease(nodes: NodeStore) -> None:
    async with nodes.session(B):
        assert await nodes.take(A, Duty.KLING, epoch=0, lifetime=LIFETIME, has_session=True)

        assert await is_abandoned(nodes)
