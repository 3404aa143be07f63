"""Three nodes on one database under load, while nodes are killed and PostgreSQL is restarted.

Nothing acknowledged is lost, all is delivered, and another node takes over within ten seconds.
``NODE_KILLS`` and ``DATABASE_FAULTS`` are the numbers of rounds.
"""

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chaos.nodes_under_load import LIMIT_SECONDS, under_load
from chaos.parameters import env_int
from harness.postgres import PostgresServer, shared_server
from harness.running_service import Receiver
from harness.soak_report import RecordCounts

KILLS = env_int("NODE_KILLS", 2)
FAULTS = env_int("DATABASE_FAULTS", 3)
DUTIES = ("delivering", "kling")


@pytest.mark.soak("kill -9 of the nodes that do a duty", minutes=6)
@pytest.mark.timeout(120 + 30 * KILLS)
async def test_killed_nodes_lose_nothing_and_are_replaced(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    takeovers: list[float] = []
    async with under_load(tmp_path, postgres_url) as chaos:
        for number in range(KILLS):
            takeover = await chaos.cluster.kill_holder(DUTIES[number % len(DUTIES)])
            takeovers.append(takeover.seconds)
            await takeover.node.wait_until_ready()
        await chaos.load.wait_for_acknowledged(20)
        report = await chaos.report()

    record_counts(
        kills=KILLS,
        callbacks_acknowledged=report.acknowledged,
        of_them_lost=report.lost,
        deliveries=report.deliveries,
        of_them_undelivered=report.undelivered,
        sent_again_after_a_kill=report.redeliveries.total(),
        sent_twice_without_a_kill=report.duplicates_within_run,
        seconds_of_the_slowest_takeover=max(takeovers),
    )
    assert (report.lost, report.undelivered, report.unknown, report.duplicates_within_run) == (0, 0, 0, 0)
    assert max(takeovers) < LIMIT_SECONDS


@pytest.mark.soak("PostgreSQL restarted and sessions ended under three nodes", minutes=6)
@pytest.mark.timeout(180 + 60 * FAULTS)
async def test_faults_of_the_database_lose_nothing_and_move_no_duty(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    with shared_server(tmp_path) as server:
        database = await server.create_database()
        async with under_load(tmp_path, server.url(database)) as chaos:
            faults = [partial(FAULT_KINDS[number % len(FAULT_KINDS)], server, database) for number in range(FAULTS)]
            recovery = await chaos.recover_from(faults)
            moved = [entry for node in chaos.cluster.nodes for entry in _lost_or_replaced(node)]

    record_counts(**recovery.counts())
    assert recovery.failures() == []
    assert moved == []


def _lost_or_replaced(node: Receiver) -> list[dict[str, Any]]:
    """Return the log entries of duties that were lost, or taken without being handed over."""
    taken = [entry for entry in node.log_entries("duty.taken") if entry["from_node"] is not None]
    return [*node.log_entries("duty.lost"), *taken]


async def restart_fast(server: PostgresServer, _database: str) -> None:
    """Restart PostgreSQL as an administrator does."""
    server.stop(signal.SIGINT)


async def restart_immediately(server: PostgresServer, _database: str) -> None:
    """Restart PostgreSQL as after a crash."""
    server.stop(signal.SIGQUIT)


async def end_sessions(server: PostgresServer, database: str) -> None:
    """End every connection."""
    await server.end_sessions(database)


FAULT_KINDS = (restart_fast, restart_immediately, end_sessions)
