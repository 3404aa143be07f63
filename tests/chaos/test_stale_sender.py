"""The node that sends stands still, its session ends, and another node sends. Then it continues, and sends nothing.

By its own clock it still has its lease then. Each node has a key of its own, so that Kling knows who sends.
"""

import asyncio
import signal
import time
from contextvars import ContextVar
from pathlib import Path

import pytest
from chaos.test_nodes_duties import send_signal
from chaos.test_nodes_slots import MAX_IDLE_SECONDS, SLOTS, SlotMeter, measured_lag, submit
from harness.cluster import Cluster, a_cluster
from harness.running_service import Receiver, a_config, a_kling, a_sink, a_webhook_route
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

from receiver.domain.duties import MAX_FENCE_AGE
from receiver.kling.simulator import Simulator, api
from receiver.kling.simulator.tasks import Task
from receiver.service.nodes.duty_plan import LeaseTiming

JOBS = 40
STOP_SECONDS = MAX_FENCE_AGE + 0.3
"""Longer than a start is valid without another look at the lease, and shorter than a tenure that has been renewed."""

_END_SESSION = """
SELECT pg_terminate_backend(pid)
FROM pg_locks
WHERE locktype = 'advisory'
  AND ((classid::bigint << 32) | objid::bigint) = (SELECT session_key(instance) FROM leases WHERE duty = 'kling')
"""


class Senders:
    """Records which node has sent each create, and when."""

    def __init__(self, kling: Simulator, patch: pytest.MonkeyPatch) -> None:
        self.creates: list[tuple[str, float]] = []
        self._key = ContextVar("key", default="")
        store = kling._store

        def record_key(header: str, *_: object, **__: object) -> None:
            self._key.set(header.removeprefix("Bearer "))

        def record_create(task: Task) -> None:
            self.creates.append((self._key.get(), time.monotonic()))
            store(task)

        patch.setattr(api, "check_key", record_key)
        patch.setattr(kling, "_store", record_create)

    def count(self, node: Receiver, *, after: float) -> int:
        """Return how many creates a node has sent after a moment."""
        return sum(1 for key, at in self.creates if key == node.folder.name and at > after)


async def stop_for_a_moment(cluster: Cluster) -> tuple[Receiver, float, float]:
    """Stop the node that sends until another one sends. Return it, when it continued, and how long none sent."""
    stale = await cluster.wait_for_holder("kling")
    stopped_at = time.monotonic()
    send_signal(stale, signal.SIGSTOP)
    try:
        assert await cluster.fetch(_END_SESSION) == [(True,)]
        takeover = await cluster.wait_for_takeover("kling", stale)
        await asyncio.sleep(max(0.0, stopped_at + STOP_SECONDS - time.monotonic()))
    finally:
        continued_at = time.monotonic()
        send_signal(stale, signal.SIGCONT)
    return stale, continued_at, takeover.seconds


async def test_a_node_that_stood_still_during_a_takeover_sends_nothing(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, record_counts: RecordCounts
) -> None:
    meter = SlotMeter()
    async with (
        a_kling(slots="image=1000", processing_for="400ms", submitted_for="100ms") as kling,
        a_sink() as sink,
        measured_lag() as lag,
    ):
        meter.watch(kling)
        senders = Senders(kling, monkeypatch)
        more = f"[kling.slots]\nimage = {SLOTS}\n" + a_webhook_route(sink, extra='on = ["succeed"]')
        config = a_config(kling.url, kling_more='api_key = "env:NODE_KEY"\ntimeout = "2s"', more=more)
        environs = [{"NODE_KEY": f"node-{number}"} for number in (1, 2, 3)]
        async with a_cluster(tmp_path, postgres_url, config, environs=environs) as cluster:
            await asyncio.gather(*(submit(cluster, number) for number in range(JOBS)))
            await wait_until(lambda: kling.counts["created"] >= JOBS // 4, seconds=60)
            stale, continued_at, takeover = await stop_for_a_moment(cluster)
            await wait_until(lambda: len(sink.received) == JOBS, seconds=120)
            await wait_until(lambda: bool(stale.log_entries("duty.lost")), seconds=60)
            stored = await cluster.fetch("SELECT count(*), count(DISTINCT kling_id) FROM tasks")

    record_counts(
        seconds_of_the_takeover=takeover,
        creates_of_the_stale_node=senders.count(stale, after=0),
        of_them_after_it_continued=senders.count(stale, after=continued_at),
    )
    assert takeover < MAX_IDLE_SECONDS + 3 * lag[0]
    assert LeaseTiming().tenure - LeaseTiming().interval.total_seconds() > STOP_SECONDS  # it believes in its lease
    assert senders.count(stale, after=0) > 0
    assert senders.count(stale, after=continued_at) == 0
    assert stored == [(JOBS, JOBS)]
    assert kling.counts["created"] == JOBS
    assert 1 < meter.most_used <= SLOTS
