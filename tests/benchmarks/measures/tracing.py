"""What tracing costs: nothing while it is off, and what a callback costs while it is on."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.cpu import CpuMeter
from benchmarks.measurement import Measurement, Scale, compare_times, single_value
from benchmarks.processes import a_receiver, run_load, server_process
from benchmarks.workload import callbacks, temp_folder

from receiver.domain.tracing import NO_TRACER, trace_headers

_SPANS = 100_000


def tracing(size: Scale) -> Iterator[Measurement]:
    """The time of a span that is not recorded, and the CPU of a callback with tracing beside one without."""
    best = min(asyncio.run(_seconds_of_spans()) for _ in range(size.rounds))
    yield single_value("a span while tracing is off", best / _SPANS * 1e6, "us", target=2, detail="with its headers")
    costs: dict[str, list[float]] = defaultdict(list)
    with temp_folder() as one, temp_folder() as other, server_process("sink", folder=one) as collector:
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
        with a_receiver(one) as without, a_receiver(other, env=on) as traced:
            for _ in range(size.rounds):
                for name, running, path in (("off", without, one), ("on", traced, other)):
                    posts = callbacks(running, size.callbacks)
                    meter = CpuMeter(running.pid)
                    meter.start()
                    run_load(running.public, posts, path)
                    costs[name].append(meter.microseconds_each(len(posts)))
    yield compare_times("acknowledge with tracing, CPU / without", costs["on"], costs["off"], unit="us")


async def _seconds_of_spans() -> float:
    began = time.perf_counter()
    for _ in range(_SPANS):
        async with NO_TRACER.span("kling.create", "tsk_1"):
            trace_headers()
    return time.perf_counter() - began
