"""Three nodes on one database under load: the load, and what is measured while something breaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster import Cluster, a_cluster
from harness.load import LoadGenerator, LoadReport, a_load_config
from harness.running_service import Sink, a_sink
from harness.waiting import wait_until

PER_SECOND = 40
LIMIT_SECONDS = 10.0
"""Until another node does the duty of a dead one, and until the full rate is back after a fault."""

NEARLY = 0.6
"""The share of the rate before a fault that counts as the full rate: on a busy machine the rate varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What followed faults: the ``rate`` before them, and the ``seconds`` after each until it was back."""

    rate: float
    seconds: Sequence[float]
    report: LoadReport
    dead_nodes: Sequence[str]

    def counts(self) -> dict[str, Any]:
        """Return the counts for the report of a soak."""
        return {
            "faults": len(self.seconds),
            "callbacks_acknowledged": self.report.acknowledged,
            "of_them_lost": self.report.lost,
            "of_them_undelivered": self.report.undelivered,
            "sent_again_after_a_fault": self.report.duplicates_within_run,
            "deliveries_a_second_before": round(self.rate),
            "seconds_until_that_rate_at_most": max(self.seconds),
        }

    def failures(self) -> list[str]:
        """Return what no fault may cause: a loss, a late recovery, a dead node."""
        losses = {
            "lost": self.report.lost,
            "undelivered": self.report.undelivered,
            "unknown": self.report.unknown,
        }
        return [
            *(f"{count} {what}" for what, count in losses.items() if count),
            *(f"the rate was back after {each} s" for each in self.seconds if each >= LIMIT_SECONDS),
            *(f"{name} is dead" for name in self.dead_nodes),
        ]


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
            assert time.monotonic() - began < 3 * LIMIT_SECONDS, "the rate is not back"
        return round(time.monotonic() - began, 1)

    async def recover_from(self, faults: Sequence[Callable[[], Awaitable[None]]]) -> Recovery:
        """Cause one fault after another, and wait after each until the rate of deliveries is back."""
        rate = await self.rate(4)
        seconds = []
        for cause in faults:
            await cause()
            seconds.append(await self.seconds_until_rate(rate * NEARLY))
        report = await self.report()
        return Recovery(rate=rate, seconds=seconds, report=report, dead_nodes=self.cluster.dead_nodes())


@asynccontextmanager
async def under_load(folder: Path, url: str, *, environs: Sequence[Mapping[str, str]] = ()) -> AsyncIterator[Chaos]:
    """Run three nodes, and post callbacks to them through their balancer. *environs* has one for each node."""
    async with a_sink() as sink, a_cluster(folder, url, a_load_config(sink), environs=environs) as cluster:
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
