"""Jobs over three nodes with five slots, while the nodes that send them are killed.

Never a sixth slot is used, none is idle for long while jobs wait, also across a takeover, and each job is created once.
``NODE_JOBS`` is the number of jobs; the node that sends them is killed once in ``JOBS_PER_KILL`` jobs.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import pytest
from chaos.parameters import env_int
from harness.cluster import Cluster, Takeover, a_cluster
from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_sink, a_webhook_route
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

JOBS = env_int("NODE_JOBS", 50)
JOBS_PER_KILL = 50
SLOTS = 5
MAX_IDLE_SECONDS = 2.0
KLING_SECONDS = 2
"""The time limit of a call to Kling."""

_SAMPLE_SECONDS = 0.02


@dataclass(slots=True)
class SlotMeter:
    """Measures at Kling, which has more slots than the service may use, how many are used and how long one is idle."""

    most_used: int = 0
    idle: list[tuple[float, float]] = field(default_factory=list)  # until when and how long, while jobs wait
    _free_since: deque[float] = field(default_factory=deque)

    def watch(self, kling: Simulator) -> None:
        """Notice each slot that is taken and released."""
        acquire, release = kling.slots.acquire, kling.slots.release

        def take(key: str, weight: int) -> None:
            acquire(key, weight)
            self.most_used = max(self.most_used, kling.slots.used(key))
            if self._free_since:
                now, since = time.monotonic(), self._free_since.popleft()
                self.idle.append((now, now - since))

        def give(key: str, weight: int) -> None:
            release(key, weight)
            self._free_since.append(time.monotonic())

        kling.slots.acquire = take  # type: ignore[method-assign]  # it also does what it did
        kling.slots.release = give  # type: ignore[method-assign]  # it also does what it did

    def start(self) -> None:
        """Measure from now on: all jobs are submitted. Slots that are free now count from now."""
        self.idle.clear()
        self._free_since = deque([time.monotonic()] * len(self._free_since))

    def longest_idle(self, kills: list[tuple[float, float]]) -> tuple[float, float]:
        """Return the longest idle time of a slot, outside of the takeovers that *kills* has, and across one."""
        across, outside = [0.0], [0.0]
        for until, seconds in self.idle:
            is_across = any(began <= until and until - seconds <= ended for began, ended in kills)
            (across if is_across else outside).append(seconds)
        return max(outside), max(across)


@asynccontextmanager
async def measured_lag() -> AsyncIterator[list[float]]:
    """Measure the worst lag of this busy machine, which is not the service's."""
    worst = [0.0]

    async def measure() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_SAMPLE_SECONDS)
            worst[0] = max(worst[0], time.monotonic() - began - _SAMPLE_SECONDS)

    measuring = asyncio.create_task(measure())
    try:
        yield worst
    finally:
        measuring.cancel()


async def submit(cluster: Cluster, number: int) -> None:
    """Submit one job through the balancer, again with the same key until it is accepted."""
    body = json.dumps({"endpoint": ENDPOINT, "body": JOB, "idempotency_key": f"job-{number}"}).encode()
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await cluster.post("/api/tasks", body)).status == HTTPStatus.ACCEPTED:
                return
        await asyncio.sleep(0.2)


@pytest.mark.soak("jobs over three nodes with five slots, while nodes are killed", minutes=5)
@pytest.mark.timeout(180 + 2 * JOBS)
async def test_slots_hold_for_all_nodes_and_are_not_idle_while_nodes_are_killed(
    tmp_path: Path, postgres_url: str, record_counts: RecordCounts
) -> None:
    meter, kills = SlotMeter(), list[Takeover]()
    more = f"[kling.slots]\nimage = {SLOTS}\n"
    async with (
        a_kling(slots="image=1000", processing_for="600ms", submitted_for="200ms") as kling,
        a_sink() as sink,
        measured_lag() as lag,
    ):
        meter.watch(kling)
        config = a_config(
            kling.url,
            kling_more=f'timeout = "{KLING_SECONDS}s"',
            more=more + a_webhook_route(sink, extra='on = ["succeed"]'),
        )
        async with a_cluster(tmp_path, postgres_url, config) as cluster:
            await asyncio.gather(*(submit(cluster, number) for number in range(JOBS)))
            meter.start()
            for number in range(max(1, JOBS // JOBS_PER_KILL)):
                wanted = number * JOBS_PER_KILL + JOBS_PER_KILL // 2
                await wait_until(lambda count=wanted: kling.counts["created"] >= count, seconds=120)  # type: ignore[misc]  # binds this round's value
                kills.append(await cluster.kill_holder("kling"))
            await wait_until(lambda: len(sink.received) >= JOBS, seconds=60 + JOBS)
            stored = await cluster.fetch("SELECT count(*), count(DISTINCT kling_id) FROM tasks")

    takeover = max(each.seconds for each in kills)
    idle, idle_across = meter.longest_idle([(each.ended_at, each.taken_at) for each in kills])
    record_counts(
        jobs=JOBS,
        tasks_at_kling=kling.counts["created"],
        most_slots_in_use=meter.most_used,
        kills=len(kills),
        seconds_of_the_slowest_takeover=takeover,
        seconds_a_slot_was_idle_at_most=round(idle, 2),
        seconds_a_slot_was_idle_across_a_takeover_at_most=round(idle_across, 2),
        seconds_of_the_machine_s_worst_lag=round(lag[0], 2),
    )
    assert stored == [(JOBS, JOBS)]
    assert kling.counts["created"] == JOBS
    assert 1 < meter.most_used <= SLOTS  # on a busy machine tasks end before all slots are used
    assert takeover < MAX_IDLE_SECONDS + 3 * lag[0]
    assert max(idle, idle_across) < MAX_IDLE_SECONDS + 3 * lag[0]
