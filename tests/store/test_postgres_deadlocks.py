"""The transactions of two nodes that touch the same rows in opposite order never wait for each other in a circle.

A circle would end after a second, by an error of the server, and the transaction would be repeated. The tests read the
circles that the server has found from its log.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest
from chaos.parameters import env_int
from harness.factories import a_task
from harness.postgres import PostgresServer
from store import competing_rare_writes as rare
from store.competing_writes import (
    TASKS,
    Work,
    alerts,
    callbacks,
    deaths,
    fenced_changes,
    holds,
    polls,
    repeated_creates,
    submits,
)
from store.conftest import a_postgres_store

from receiver.domain.errors import Conflict
from receiver.store.postgres.store import PostgresStore

ROUNDS = env_int("DEADLOCK_ROUNDS", 4)
LIMIT = 60.0


@pytest.fixture
async def impatient(postgres: PostgresServer, postgres_database: str) -> str:
    """A database that looks for circles early and logs them."""
    await postgres.execute(f"ALTER DATABASE {postgres_database} SET deadlock_timeout = '20ms'")
    await postgres.log_errors(postgres_database)
    return postgres_database


async def compete(url: str, *works: Work) -> None:
    """Let two nodes do *works* at the same time, the second one in the opposite order."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(a_postgres_store(url)) for _ in range(2)]
        for id_ in TASKS:
            await nodes[0].tasks.add(a_task(id=id_, kling_id=id_, external_task_id=id_), b"{}")
        for round_ in range(ROUNDS):
            await asyncio.gather(*callbacks(nodes[0], 2, round_))  # with deliveries that may die
            await rare.prepare(nodes[0], round_)
            await asyncio.wait_for(asyncio.gather(*_both(nodes, round_, works)), LIMIT)


def _both(nodes: Sequence[PostgresStore], round_: int, works: Sequence[Work]) -> Iterable[Awaitable[object]]:
    first = [each for work in works for each in work(nodes[0], 0, round_)]
    second = [each for work in reversed(works) for each in reversed(list(work(nodes[1], 1, round_)))]
    return [_despite_conflicts(each) for each in (*first, *second)]


async def _despite_conflicts(write: Awaitable[object]) -> None:
    """Await a write that the other node may have made impossible: it has deleted a task, or closed a batch."""
    with suppress(Conflict):
        await write


FREQUENT = (callbacks, alerts, deaths, holds, submits, polls, repeated_creates, fenced_changes)
RARE = (
    rare.sessions,
    rare.deletions,
    rare.sweeps,
    rare.redundant_pushes,
    rare.labels,
    rare.corrections,
    rare.traces,
    rare.archiving,
    rare.replays,
    rare.batches,
    rare.alert_states,
    rare.records,
    rare.releases,
)

_NAMES = {FREQUENT: "frequent", FREQUENT + RARE: "everything"}


@pytest.mark.parametrize(
    "works",
    [
        (callbacks,),
        (callbacks, alerts),
        (callbacks, deaths),
        (deaths, holds),
        (callbacks, submits),
        (callbacks, polls),
        (repeated_creates,),
        (fenced_changes,),
        (rare.sessions,),
        (callbacks, rare.deletions),
        (deaths, rare.deletions),
        (callbacks, rare.sweeps, rare.redundant_pushes),
        (rare.labels,),
        (rare.corrections, rare.deletions, rare.sweeps),
        (rare.archiving,),
        (rare.archiving, deaths),
        (rare.replays, rare.deletions, rare.sweeps),
        (submits, rare.batches),
        (rare.alert_states,),
        (rare.records,),
        (rare.releases, deaths),
        FREQUENT,
        FREQUENT + RARE,
    ],
    ids=lambda works: _NAMES.get(works) or " and ".join(work.__name__ for work in works),
)
async def test_two_nodes_never_deadlock(postgres: PostgresServer, impatient: str, works: Sequence[Work]) -> None:
    await compete(postgres.url(impatient), *works)

    found = postgres.deadlocks(impatient)
    assert not found, "\n".join(found)


async def test_a_deadlock_is_found_with_its_statements(postgres: PostgresServer, impatient: str) -> None:
    one, two = [await asyncpg.connect(postgres.url(impatient)) for _ in range(2)]
    for connection, first in ((one, 1), (two, 2)):
        await connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({first})")

    results = await asyncio.gather(
        one.execute("SELECT pg_advisory_xact_lock(2)"),
        two.execute("SELECT pg_advisory_xact_lock(1)"),
        return_exceptions=True,
    )
    one.terminate()
    two.terminate()

    assert [type(each) for each in results].count(asyncpg.DeadlockDetectedError) == 1
    [found] = postgres.deadlocks(impatient)
    assert "pg_advisory_xact_lock(1)" in found
    assert "pg_advisory_xact_lock(2)" in found
