"""Three nodes under load behind a network that cuts and stalls their connections to PostgreSQL.

A stalled connection holds its bytes for longer than every time limit, and then forwards them: a statement may arrive
that no process waits for any more. ``NETWORK_FAULTS`` is the number of rounds.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from chaos.nodes_under_load import under_load
from chaos.parameters import env_int
from harness.postgres import PASSWORD, PostgresServer
from harness.soak_report import RecordCounts
from harness.tcp_proxy import TcpProxy, a_tcp_proxy

FAULTS = env_int("NETWORK_FAULTS", 2)
STALL_SECONDS = 9.0
"""Longer than a lease, and than the time limits of writes and of reads on the path of callbacks."""

NODES = 3


@asynccontextmanager
async def proxies_of_nodes(port: int) -> AsyncIterator[list[TcpProxy]]:
    """Run a proxy to PostgreSQL for each node."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(a_tcp_proxy(port)) for _ in range(NODES)]


async def stall_all(proxies: Sequence[TcpProxy], _number: int) -> None:
    """Hold the bytes of every node."""
    await stall(proxies)


async def stall_one(proxies: Sequence[TcpProxy], number: int) -> None:
    """Hold the bytes of one node, whose duties another one takes."""
    await stall([proxies[number % NODES]])


async def stall(proxies: Sequence[TcpProxy]) -> None:
    """Hold the bytes for longer than every time limit."""
    for proxy in proxies:
        proxy.stall()
    await asyncio.sleep(STALL_SECONDS)
    for proxy in proxies:
        proxy.flow()


async def cut_all(proxies: Sequence[TcpProxy], _number: int) -> None:
    """Cut every connection, several times."""
    for _ in range(5):
        for proxy in proxies:
            proxy.cut_all()
        await asyncio.sleep(0.1)


KINDS = (cut_all, stall_all, stall_one)


@pytest.mark.soak("connections of three nodes to PostgreSQL cut and stalled", minutes=6)
@pytest.mark.timeout(180 + 60 * FAULTS)
async def test_cut_and_stalled_connections_lose_nothing_and_need_no_restart(
    tmp_path: Path, postgres: PostgresServer, postgres_database: str, record_counts: RecordCounts
) -> None:
    async with proxies_of_nodes(postgres.port) as proxies:
        environs = [
            {
                "KLING_RECEIVER__STORE__URL": postgres.tcp_url(postgres_database, port=proxy.port),
                "KLING_RECEIVER__STORE__PASSWORD": "env:STORE_PASSWORD",
                "STORE_PASSWORD": PASSWORD,
            }
            for proxy in proxies
        ]
        async with under_load(tmp_path, postgres.url(postgres_database), environs=environs) as chaos:
            faults = [partial(KINDS[number % len(KINDS)], proxies, number) for number in range(FAULTS)]
            recovery = await chaos.recover_from(faults)

    record_counts(seconds_of_each_stall=STALL_SECONDS, **recovery.counts())
    assert recovery.failures() == []
