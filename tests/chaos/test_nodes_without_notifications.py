"""Two nodes whose database permits no LISTEN: a slot is free for less than a second while jobs wait."""

import asyncio
from pathlib import Path

import pytest
from chaos.parameters import env_int
from chaos.test_nodes_slots import SlotMeter, measured_lag, submit
from harness.cluster import a_cluster
from harness.postgres import PASSWORD, PostgresServer
from harness.running_service import a_config, a_kling, a_sink, a_webhook_route
from harness.soak_report import RecordCounts
from harness.tcp_proxy import a_tcp_proxy
from harness.waiting import wait_until

JOBS = env_int("DEAF_JOBS", 8)
ENVIRON = {"KLING_RECEIVER__STORE__PASSWORD": "env:DATABASE_PASSWORD", "DATABASE_PASSWORD": PASSWORD}


@pytest.mark.soak("one slot over two nodes without notifications", minutes=1)
@pytest.mark.timeout(180 + 2 * JOBS)
async def test_a_free_slot_is_used_within_a_second_without_notifications(
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
    record_counts: RecordCounts,
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)  # for what the test reads itself
    meter, more = SlotMeter(), "[kling.slots]\nimage = 1\n"
    async with (
        a_kling(slots="image=1000", processing_for="300ms", submitted_for="100ms") as kling,
        a_sink() as sink,
        a_tcp_proxy(postgres.port) as proxy,
        measured_lag() as lag,
    ):
        proxy.cut_before = lambda sent: b"LISTEN" in sent
        meter.watch(kling)
        config = a_config(kling.url, more=more + a_webhook_route(sink, extra='on = ["succeed"]'))
        url = postgres.tcp_url(postgres_database, port=proxy.port)
        async with a_cluster(tmp_path, url, config, size=2, environ=ENVIRON) as cluster:
            await asyncio.gather(*(submit(cluster, number) for number in range(JOBS)))
            meter.start()
            await wait_until(lambda: len(sink.received) >= JOBS, seconds=60 + 2 * JOBS)
            heard = [node.folder.name for node in cluster.nodes if "signals.listening" in node.log()]

    idle, _ = meter.longest_idle([])
    record_counts(
        jobs=JOBS, seconds_a_slot_was_idle_at_most=round(idle, 2), seconds_of_the_machine_s_worst_lag=round(lag[0], 2)
    )
    assert heard == []
    assert meter.most_used == 1
    assert idle < 1 + 3 * lag[0]
