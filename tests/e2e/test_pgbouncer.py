"""Two nodes whose database is behind a real PgBouncer in transaction mode, with its default settings."""

import json
from pathlib import Path

import pytest
from harness.cluster import a_cluster
from harness.pgbouncer import a_pgbouncer
from harness.postgres import PASSWORD, PostgresServer
from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_sink, a_webhook_route
from harness.waiting import wait_until

JOB_BODY = json.dumps({"endpoint": ENDPOINT, "body": JOB}).encode()
ENVIRON = {"KLING_RECEIVER__STORE__PASSWORD": "env:DATABASE_PASSWORD", "DATABASE_PASSWORD": PASSWORD}


async def test_two_nodes_behind_pgbouncer_work_as_one_service(
    tmp_path: Path, postgres: PostgresServer, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)  # for what the test reads itself
    with a_pgbouncer(postgres) as port:
        url = postgres.tcp_url(postgres_database, port=port)
        async with a_kling() as kling, a_sink() as sink:
            config = a_config(kling.url, more=a_webhook_route(sink, extra='on = ["succeed"]'))
            async with a_cluster(tmp_path, url, config, size=2, environ=ENVIRON) as cluster:
                for node in cluster.nodes:  # one of them calls the node that does `kling`
                    answer = await cluster.post(f"/kling/v1/{ENDPOINT}", json.dumps(JOB).encode(), node=node)
                    assert (answer.status, answer.json()["code"]) == (200, 0), answer.body
                await wait_until(lambda: len(sink.bodies) == 2, seconds=60)

                for verb in ("hold", "release"):
                    for node in cluster.nodes:
                        answer = await cluster.post(f"/api/routes/hook/{verb}", b"{}", node=node)
                        assert answer.status == 200, answer.body

                killed = await cluster.wait_for_holder("kling")
                killed.kill()
                survivor = next(node for node in cluster.nodes if node is not killed)
                answer = await cluster.post("/api/tasks?wait=0s", JOB_BODY, node=survivor)
                assert answer.status == 202, answer.body
                await wait_until(lambda: len(sink.bodies) == 3, seconds=60)

    assert len({headers["webhook-id"] for headers in sink.headers}) == 3
    faults = ("prepared statement", "InterfaceError", "ProtocolViolation", "Traceback")
    assert [fault for node in cluster.nodes for fault in faults if fault in node.log()] == []
