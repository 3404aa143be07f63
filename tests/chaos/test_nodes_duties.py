"""The other duties move too: a node that archives, one that reports batches, and one that stands still while it
delivers. ``DUTY_KILLS`` is the number of rounds, ``NODE_STOP_SECONDS`` is how long a node stands still.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from chaos.nodes_under_load import LIMIT_SECONDS
from chaos.parameters import env_int
from harness.cluster import Cluster, a_cluster
from harness.raw_http import http_request
from harness.running_service import (
    ENDPOINT,
    JOB,
    Receiver,
    Sink,
    a_config,
    a_kling,
    a_push_body,
    a_sink,
    a_webhook_route,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

KILLS = env_int("DUTY_KILLS", 1)
STOP_SECONDS = env_int("NODE_STOP_SECONDS", 8)
BATCH = 4


@asynccontextmanager
async def an_archiving_cluster(folder: Path, url: str) -> AsyncIterator[tuple[Cluster, Sink]]:
    """Run three nodes with one archive on a Kling whose tasks take a while."""
    (folder / "archive").mkdir()
    archive = f'[archive]\ndir = "{folder / "archive"}"\nshared = true\n[network]\nallow = ["127.0.0.0/8"]\n'
    async with a_kling(processing_for="500ms") as kling, a_sink() as sink:
        route = a_webhook_route(sink, extra='on = ["succeed", "batch"]')
        async with a_cluster(folder, url, a_config(kling.url, more=archive + route)) as cluster:
            yield cluster, sink


async def submit_batch(cluster: Cluster, name: str) -> None:
    """Submit the tasks of a batch through the balancer."""
    job = {"endpoint": ENDPOINT, "body": JOB, "batch": {"name": name, "size": BATCH}}
    for _ in range(BATCH):
        assert (await cluster.post("/api/tasks", json.dumps(job).encode())).status == HTTPStatus.ACCEPTED


def reported_batches(sink: Sink) -> list[str]:
    """Return the name of each batch event that the sink has, each event once."""
    bodies = [each[0] for each in sink.received.values()]
    return sorted(body["data"]["batch"]["name"] for body in bodies if body["type"] == "batch.finished")


def missing_files(sink: Sink) -> list[str]:
    """Return the results in the sink's events that are not in the archive."""
    ends = [each[0]["data"] for each in sink.received.values() if each[0]["type"] == "task.succeed"]
    assets = [asset for data in ends for asset in data["assets"]]
    wanted = sum(len(data["result"]["images"]) for data in ends)
    present = [asset for asset in assets if Path(asset["path"]).stat().st_size == asset["bytes"]]
    return [] if len(present) == wanted else [f"{len(present)} of {wanted}"]


@pytest.mark.soak("kill -9 of the nodes that archive and that report batches", minutes=4)
@pytest.mark.timeout(180 + 60 * KILLS)
async def test_killed_nodes_that_archive_and_report_are_replaced(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    takeovers: list[float] = []
    names = [f"batch-{number}" for number in range(2 * KILLS)]
    async with an_archiving_cluster(tmp_path, postgres_url) as (cluster, sink):
        for number, name in enumerate(names):
            await submit_batch(cluster, name)
            takeover = await cluster.kill_holder(("archiving", "housekeeping")[number % 2])
            takeovers.append(takeover.seconds)
            await takeover.node.wait_until_ready()

        def is_done() -> bool:
            return len(sink.received) >= len(names) * (BATCH + 1)

        await wait_until(is_done, seconds=90, interval=0.2)
        missing = missing_files(sink)

    record_counts(
        kills=len(names),
        tasks=len(names) * BATCH,
        results_not_archived=len(missing),
        batches=len(names),
        batch_events=len(reported_batches(sink)),
        seconds_of_the_slowest_takeover=max(takeovers),
    )
    assert missing == []
    assert reported_batches(sink) == sorted(names)
    assert max(takeovers) < LIMIT_SECONDS


@pytest.mark.soak("a node stopped for a minute while it delivers", minutes=2)
@pytest.mark.timeout(180 + STOP_SECONDS)
async def test_the_late_verdict_of_a_stalled_node_is_not_stored(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    first_may_end = asyncio.Event()
    async with a_sink() as sink:

        async def answer() -> int:
            if len(sink.bodies) > 1:
                return 204
            await first_may_end.wait()
            return 500

        sink.answer = answer
        config = a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n' + a_webhook_route(sink))
        async with a_cluster(tmp_path, postgres_url, config) as cluster:
            await push_an_end(cluster)
            await wait_until(lambda: len(sink.bodies) == 1, seconds=60)
            stopped = await cluster.wait_for_holder("delivering")  # it cannot hand it over while the attempt waits

            began = time.monotonic()
            send_signal(stopped, signal.SIGSTOP)
            first_may_end.set()
            await wait_until(lambda: len(sink.bodies) == 2, seconds=60)
            takeover = round(time.monotonic() - began, 1)
            await asyncio.sleep(max(0.0, began + STOP_SECONDS - time.monotonic()))
            send_signal(stopped, signal.SIGCONT)
            await stopped.wait_until_ready()
            await wait_until(lambda: has_lost_delivering(stopped), seconds=60)
            rows = await cluster.fetch("SELECT status, attempts, finished_at IS NOT NULL FROM deliveries")
            attempts = await cluster.fetch("SELECT outcome FROM attempts")

    late = [entry["recorded"] for entry in stopped.log_entries("delivery.attempted")]
    record_counts(
        seconds_stopped=STOP_SECONDS, seconds_until_delivered_elsewhere=takeover, verdicts_recorded_late=sum(late)
    )
    assert rows == [("delivered", 1, True)]
    assert attempts == [("accepted",)]
    assert sum(late) == 0
    assert len(sink.received) == 1
    assert takeover < LIMIT_SECONDS


async def push_an_end(cluster: Cluster) -> None:
    """Mint a callback URL, and push the end of its task."""
    made = await cluster.post("/api/callback-urls", b"{}")
    path = made.json()["callback_url"].rpartition("/callbacks/")[2]
    answer = await http_request("POST", f"{cluster.public}/callbacks/{path}", a_push_body("succeed"), {})
    assert answer.status == HTTPStatus.OK


def send_signal(node: Receiver, number: signal.Signals) -> None:
    """Send a signal to the process of a node."""
    assert node.process is not None
    node.process.send_signal(number)


def has_lost_delivering(node: Receiver) -> bool:
    """Return whether a node that continues has noticed what it lost."""
    return any(entry["duty"] == "delivering" for entry in node.log_entries("duty.lost"))
