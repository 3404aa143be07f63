"""Three nodes on one database under load: the load, and what is measured while something breaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from harness.cluster import Cluster, a_cluster
from harness.load import LoadGenerator, LoadReport, a_load_config
from harness.running_service import Sink, a_sink
from harness.waiting import wait_until

PER_SECOND = 40
LIMIT_SECONDS = 10.0
"""Until another node does the duty of a dead one, and until the full rate is back after a fault."""

NEARLY = 0.6
"""The share of the rate before a fault that counts as the full rate: on a busy machine the rate varies."""


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

    async def is_elsewhere(self, duty: str, name: str) -> bool:
        """Return whether another node than *name* does a duty."""
        holder = await self.cluster.holder(duty)
        return holder is not None and holder.folder.name != name


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
