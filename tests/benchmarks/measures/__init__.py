"""The measurements, each with its comparison, in one run on one machine."""

from collections.abc import Callable, Iterator

from benchmarks.measurement import Measurement, Scale
from benchmarks.measures.callbacks import acknowledged, acknowledged_on_one_loop, hanging
from benchmarks.measures.commands import commands, start
from benchmarks.measures.deliveries import delivered, latency, scripts
from benchmarks.measures.grown import grown
from benchmarks.measures.postgres import postgres
from benchmarks.measures.storage import storage
from benchmarks.measures.submits import job_file, submits
from benchmarks.measures.tracing import tracing

ALL: dict[str, Callable[[Scale], Iterator[Measurement]]] = {
    "acknowledged": acknowledged,
    "one-loop": acknowledged_on_one_loop,
    "delivered": delivered,
    "hanging": hanging,
    "latency": latency,
    "start": start,
    "commands": commands,
    "scripts": scripts,
    "submits": submits,
    "job-file": job_file,
    "storage": storage,
    "grown": grown,
    "postgres": postgres,
    "tracing": tracing,
}
