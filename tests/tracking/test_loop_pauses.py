"""However a body has grown, reading it does not stop the event loop."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from data.grown_bodies import GROWN
from harness.soak_report import RecordCounts
from harness.task_system import a_task_system

from receiver.domain.errors import MalformedBody
from receiver.kling import parser_thread, protocol

GROWN_BODIES = env_int("GROWN_BODIES", len(GROWN))
IS_SOAK = len(GROWN) < GROWN_BODIES
MAX_PAUSE = 0.05 if IS_SOAK else 0.25  # seconds; the suite runs beside other tests
CALLBACK_SIZE = 1 << 20
ANSWER_SIZE = (16 if IS_SOAK else 2) << 20
TICK = 0.002


@contextlib.asynccontextmanager
async def measured_pauses() -> AsyncIterator[list[float]]:
    """Measure how long the loop does nothing else; the longest pause is the last of the list afterwards.

    Only the time in which this process works counts: on a busy machine it also waits for other processes.
    """
    pauses = [0.0]
    gc.freeze()  # the objects of the test run are not the service's

    async def tick() -> None:
        while True:
            begun, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK)
            pauses.append(min(time.perf_counter() - begun - TICK, time.process_time() - worked))

    ticking = asyncio.create_task(tick())
    try:
        yield pauses
    finally:
        await asyncio.sleep(2 * TICK)
        ticking.cancel()
        gc.unfreeze()
        pauses.sort()


@pytest.mark.soak("grown bodies, and the longest pause", minutes=10)
@pytest.mark.timeout(120 + 10 * GROWN_BODIES)
async def test_no_large_body_pauses_the_loop(tmp_path: Path, record_counts: RecordCounts) -> None:
    seed, longest = fresh_seed(), 0.0
    rng, names = Random(seed), list(GROWN)
    record_counts(seed=seed, bodies=GROWN_BODIES)
    async with a_task_system(tmp_path) as system:
        for number in range(GROWN_BODIES):
            name = names[number % len(names)]
            _, url = await system.submitter.create_callback_url(endpoint=None)
            body = GROWN[name](rng.randrange(1000, CALLBACK_SIZE))
            answer = GROWN[name](rng.randrange(1000, ANSWER_SIZE))
            least = MAX_PAUSE + 1
            for _ in range(3):  # a pause that does not come again has another cause
                async with measured_pauses() as pauses:
                    with contextlib.suppress(MalformedBody):
                        await system.push(url.rpartition("/")[2], body)
                    with contextlib.suppress(MalformedBody):
                        await parser_thread.run(len(answer), protocol.split_tasks, answer)
                least = min(least, pauses[-1])
                if least < MAX_PAUSE:
                    break
            longest = max(longest, least)
            assert least < MAX_PAUSE, f"{name}: {len(body)} and {len(answer)} bytes paused the loop for {least:.3f} s"
    record_counts(longest_pause_ms=round(longest * 1000))
