"""Several nodes on one PostgreSQL database, as real processes."""

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness.cluster import Cluster, a_cluster
from harness.running_service import ENDPOINT, JOB, Receiver, Sink, a_config, a_kling, a_sink, a_webhook_route
from harness.waiting import wait_until

from receiver.domain.duties import Duty
from receiver.kling.simulator import Simulator

JOB_BODY = json.dumps({"endpoint": ENDPOINT, "body": JOB}).encode()


class System:
    """Two nodes, a simulated Kling and a webhook."""

    def __init__(self, cluster: Cluster, kling: Simulator, sink: Sink) -> None:
        self.cluster = cluster
        self.kling = kling
        self.sink = sink

    async def others(self, duty: str) -> Any:
        """Return the node that does not do a duty."""
        holder = await self.cluster.holder(duty)
        return next(node for node in self.cluster.nodes if node is not holder)


@pytest.fixture
async def system(tmp_path: Path, postgres_url: str) -> AsyncIterator[System]:
    async with a_kling() as kling, a_sink() as sink:
        config = a_config(kling.url, more=a_webhook_route(sink, extra='on = ["succeed"]'))
        async with a_cluster(tmp_path, postgres_url, config, size=2) as cluster:
            yield System(cluster, kling, sink)


async def test_two_nodes_work_as_one_service(system: System) -> None:
    cluster = system.cluster
    for node in cluster.nodes:
        answer = await cluster.post("/api/tasks", JOB_BODY, node=node)
        assert answer.status == 202, answer.body
        assert answer.json()["kling_id"] is not None

    node = await system.others("kling")
    answer = await cluster.post(f"/kling/v1/{ENDPOINT}", json.dumps(JOB).encode(), node=node)
    assert (answer.status, answer.json()["code"]) == (200, 0), answer.body
    await wait_until(lambda: len(system.sink.bodies) == 3, seconds=15)
    assert len({headers["webhook-id"] for headers in system.sink.headers}) == 3

    node = await system.others("delivering")
    answer = await cluster.post("/api/routes/hook/hold", b"{}", node=node)
    assert (answer.status, answer.json()["held_by"]) == (200, "operator"), answer.body


async def test_nodes_lists_every_node_with_its_duties(system: System) -> None:
    first = system.cluster.nodes[0]

    async def listed() -> list[dict[str, Any]]:
        return list(json.loads((await first.run_cli_async("nodes", "--json")).stdout)["items"])

    async def all_duties_are_held() -> bool:  # one may be on its way from node to node
        return sorted(duty for node in await listed() for duty in node["duties"]) == sorted(Duty)

    await wait_until(all_duties_are_held)
    table = await first.run_cli_async("nodes")

    nodes = [(node["name"], node["state"]) for node in await listed()]
    assert nodes == [("node-1", "live"), ("node-2", "live")]
    assert "node-2" in table.stdout


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("node-1", "", "Another live process is node 'node-1' of this database"),
        ("node-3", '[archive]\ndir = "results"\n', "archive.dir: other nodes use this database (node-1, node-2)"),
    ],
    ids=["the name of another node", "an archive of its own"],
)
async def test_a_node_that_must_not_start_says_why(
    system: System, tmp_path: Path, name: str, more: str, reason: str
) -> None:
    folder = tmp_path / "another"
    folder.mkdir()
    store = f'[store]\nurl = "{system.cluster.url}"\nnode = "{name}"\n'
    another = Receiver(folder, a_config(system.kling.url, more=store + more))

    another.spawn()

    assert await another.wait_for_exit(seconds=20) != 0
    assert reason in another.log()


async def test_a_stopped_node_is_replaced_and_records_nothing_late(system: System) -> None:
    cluster, holder = system.cluster, await system.cluster.holder("delivering")
    assert holder is not None
    assert holder.process is not None

    holder.process.send_signal(signal.SIGSTOP)
    takeover = await cluster.wait_for_takeover("delivering", holder)
    holder.process.send_signal(signal.SIGCONT)
    for node in cluster.nodes:
        await cluster.post("/api/tasks", JOB_BODY, node=node)
    await wait_until(lambda: len(system.sink.bodies) == 2, seconds=15)

    assert takeover.seconds < 10
    assert Counter(headers["webhook-id"] for headers in system.sink.headers).most_common(1)[0][1] == 1
