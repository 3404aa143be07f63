"""`make cluster`: PostgreSQL, three nodes, a balancer, a simulated Kling and a webhook on this machine, for a minute.

It submits tasks to the nodes in turn, kills the node that delivers, and shows which node takes over.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.cluster import Cluster, a_cluster
from harness.postgres import shared_server
from harness.running_service import ENDPOINT, JOB, Sink, a_config, a_kling, a_sink, a_webhook_route
from harness.waiting import wait_until

TASKS = 6


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main() -> None:
    """Run the demonstration, and stop all of it."""
    with tempfile.TemporaryDirectory(prefix="kling-cluster-") as name, shared_server(Path(name)) as server:
        url = server.url(await server.create_database())
        say(f"PostgreSQL   {url}")
        async with a_kling() as kling, a_sink() as sink:
            config = a_config(kling.url, more=a_webhook_route(sink, extra='on = ["succeed"]'))
            async with a_cluster(Path(name), url, config) as cluster:
                say(f"balancer     {cluster.admin} (admin), {cluster.public} (public)")
                await show_nodes(cluster)
                await submit_tasks(cluster, sink)
                await kill_and_wait(cluster)
                await submit_tasks(cluster, sink)
                await show_nodes(cluster)
        say("All is stopped and removed.")


async def submit_tasks(cluster: Cluster, sink: Sink) -> None:
    """Submit tasks through the balancer, and wait until the webhook has received their ends."""
    wanted, began = len(sink.received) + TASKS, time.monotonic()
    body = json.dumps({"endpoint": ENDPOINT, "body": JOB}).encode()
    await asyncio.gather(*(cluster.post("/api/tasks", body) for _ in range(TASKS)))
    await wait_until(lambda: len(sink.received) >= wanted, seconds=60)
    say(f"tasks        {TASKS} submitted, made and delivered in {time.monotonic() - began:.1f} s")


async def kill_and_wait(cluster: Cluster) -> None:
    """Kill the node that delivers, and wait for the one that takes over."""
    killed = await cluster.holder("delivering")
    assert killed is not None
    killed.kill()
    began = time.monotonic()

    async def is_replaced() -> bool:
        return await cluster.holder("delivering") not in (None, killed)

    await wait_until(is_replaced, seconds=30, interval=0.1)
    say(f"killed       {killed.folder.name}, replaced after {time.monotonic() - began:.1f} s")


async def show_nodes(cluster: Cluster) -> None:
    """Show which node does what."""
    node = next(node for node in cluster.nodes if node.process is not None and node.process.poll() is None)
    listed = json.loads((await node.run_cli_async("nodes", "--json")).stdout)
    for each in listed["items"]:
        say(f"{each['name']:<12} {each['state']:<7} {', '.join(each['duties'])}")


if __name__ == "__main__":
    asyncio.run(main())
