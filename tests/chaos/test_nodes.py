"""Three nodes on one database under load, while nodes are killed and PostgreSQL is restarted.

Nothing acknowledged is lost, all is delivered, and another node takes over within ten seconds.
``NODE_KILLS`` and ``DATABASE_FAULTS`` are the numbers of rounds, ``NODE_JOBS`` is the number of jobs.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from chaos.parameters import env_int
from harness.cluster import Cluster, a_cluster
from harness.load import LoadGenerator, LoadReport, a_load_config
from harness.postgres import PostgresServer, shared_server
from harness.running_service import ENDPOINT, JOB, Receiver, Sink, a_config, a_kling, a_sink, a_webhook_route
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

KILLS = env_int("NODE_KILLS", 2)
FAULTS = env_int("DATABASE_FAULTS", 3)
JOBS = env_int("NODE_JOBS", 60)
SLOTS = 5
PER_SECOND = 40
LIMIT = 10.0
"""Seconds until another node does the duty of a dead one, and until the full rate is back after a fault."""

NEARLY = 0.6
"""The share of the rate before a fault that counts as the full rate: on a busy machine the rate varies."""

DUTIES = ("delivering", "kling")


class Chaos:
    """Three nodes, the load on them, and the webhook behind them."""

    def __init__(self, cluster: Cluster, load: LoadGenerator, sink: Sink) -> None:
        self.cluster = cluster
        self.load = load
        self.sink = sink
        self.stop_load: Callable[[], Awaitable[None]]

    async def report(self) -> LoadReport:
        """Stop the load, wait until everything is delivered, and compare what was acknowledged with what arrived."""
        await self.stop_load()
        await wait_until(self._is_delivered, seconds=60, interval=0.2)
        return await asyncio.to_thread(LoadReport.from_run, self.load, self.sink)

    async def _is_delivered(self) -> bool:
        rows = await self.cluster.fetch("SELECT count(*) FROM deliveries WHERE status = 'pending'")
        return bool(rows[0][0] == 0)

    async def rate(self, seconds: float) -> float:
        """Return the deliveries per second during the next seconds."""
        before = len(self.sink.bodies)
        await asyncio.sleep(seconds)
        return (len(self.sink.bodies) - before) / seconds

    async def seconds_until_rate(self, wanted: float) -> float:
        """Return how long it takes until a rate of deliveries is reached."""
        began = time.monotonic()
        while await self.rate(2) < wanted:
            assert time.monotonic() - began < 3 * LIMIT, "the rate is not back"
        return round(time.monotonic() - began, 1)

    async def is_elsewhere(self, duty: str, name: str) -> bool:
        """Return whether another node than *name* does a duty."""
        holder = await self.cluster.holder(duty)
        return holder is not None and holder.folder.name != name


@asynccontextmanager
async def under_load(folder: Path, url: str) -> AsyncIterator[Chaos]:
    """Run three nodes, and post callbacks to them through their balancer."""
    async with a_sink() as sink, a_cluster(folder, url, a_load_config(sink)) as cluster:
        load, stop = LoadGenerator(cluster, per_second=PER_SECOND, keep_alive=False), asyncio.Event()  # type: ignore[arg-type]  # it has what the load needs
        calling = asyncio.create_task(load.run(stop))

        async def stop_load() -> None:
            stop.set()
            await calling

        chaos = Chaos(cluster, load, sink)
        chaos.stop_load = stop_load
        try:
            await load.wait_for_acknowledged(20)
            yield chaos
        finally:
            await stop_load()


@pytest.mark.soak("kill -9 of the nodes that do a duty", minutes=6)
@pytest.mark.timeout(120 + 30 * KILLS)
async def test_killed_nodes_lose_nothing_and_are_replaced(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    takeovers: list[float] = []
    async with under_load(tmp_path, postgres_url) as chaos:
        for number in range(KILLS):
            duty = DUTIES[number % len(DUTIES)]
            killed = await chaos.cluster.wait_for_holder(duty)
            name = killed.folder.name
            killed.kill()
            began = time.monotonic()
            await wait_until(lambda d=duty, n=name: chaos.is_elsewhere(d, n), seconds=30, interval=0.1)  # type: ignore[misc]  # binds this round's values
            takeovers.append(round(time.monotonic() - began, 1))
            chaos.cluster.restart(killed)
            await killed.wait_until_ready()
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
    assert max(takeovers) < LIMIT


@pytest.mark.soak("PostgreSQL restarted and sessions ended under three nodes", minutes=6)
@pytest.mark.timeout(180 + 60 * FAULTS)
async def test_faults_of_the_database_lose_nothing_and_move_nothing(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    recoveries: list[float] = []
    with shared_server(tmp_path) as server:
        database = await server.create_database()
        async with under_load(tmp_path, server.url(database)) as chaos:
            processes = [node.process for node in chaos.cluster.nodes]
            full = await chaos.rate(4)
            for number in range(FAULTS):
                await FAULT_KINDS[number % len(FAULT_KINDS)](server, database)
                recoveries.append(await chaos.seconds_until_rate(full * NEARLY))
            report = await chaos.report()
            moved = [entry for node in chaos.cluster.nodes for entry in _lost_or_replaced(node)]
            are_alive = [process is not None and process.poll() is None for process in processes]

    record_counts(
        faults=FAULTS,
        callbacks_acknowledged=report.acknowledged,
        of_them_lost=report.lost,
        of_them_undelivered=report.undelivered,
        sent_again_after_a_fault=report.duplicates_within_run,
        deliveries_a_second_before=round(full),
        seconds_until_that_rate_at_most=max(recoveries),
    )
    assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
    assert max(recoveries) < LIMIT
    assert moved == []
    assert all(are_alive)


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


@pytest.mark.soak("jobs over three nodes with five slots, while nodes are killed", minutes=5)
@pytest.mark.timeout(120 + 2 * JOBS)
async def test_slots_hold_for_all_nodes_while_nodes_are_killed(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    async with a_kling(slots="image=1000", processing_for="600ms", submitted_for="200ms") as kling, a_sink() as sink:
        used = record_slots(kling)
        more = f"[kling.slots]\nimage = {SLOTS}\n" + a_webhook_route(sink, extra='on = ["succeed"]')
        async with a_cluster(tmp_path, postgres_url, a_config(kling.url, more=more)) as cluster:
            submitting = [asyncio.create_task(submit(cluster, number)) for number in range(JOBS)]
            await wait_until(lambda: len(sink.bodies) >= JOBS // 6, seconds=60)
            killed = await cluster.wait_for_holder("kling")
            killed.kill()
            await asyncio.gather(*submitting)
            await wait_until(lambda: len(sink.received) >= JOBS, seconds=60 + JOBS)
            stored = await cluster.fetch("SELECT count(*), count(DISTINCT kling_id) FROM tasks")

    record_counts(jobs=JOBS, tasks_at_kling=kling.counts["created"], most_slots_in_use=max(used))
    assert stored == [(JOBS, JOBS)]
    assert kling.counts["created"] == JOBS
    assert max(used) == SLOTS


def record_slots(kling: Simulator) -> list[int]:
    """Record the slots in use after each create that Kling accepts. Kling itself has more slots than that."""
    used, acquire = [], kling.slots.acquire

    def record(key: str, weight: int) -> None:
        acquire(key, weight)
        used.append(kling.slots.used(key))

    kling.slots.acquire = record  # type: ignore[method-assign]  # it also does what it did
    return used


async def submit(cluster: Cluster, number: int) -> None:
    """Submit one job through the balancer, again with the same key until it is accepted."""
    body = json.dumps({"endpoint": ENDPOINT, "body": JOB, "idempotency_key": f"job-{number}"}).encode()
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await cluster.post("/api/tasks", body)).status == HTTPStatus.ACCEPTED:
                return
        await asyncio.sleep(0.2)
