"""``/metrics``: the state and the measurements of the service, for Prometheus."""

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.clock import Clock
from receiver.domain.errors import ReceiverError
from receiver.domain.metrics import Counter, Gauge, Histogram, Metrics
from receiver.store.interfaces import StoreSnapshot, Totals
from receiver.web.api_requests import NoQuery
from receiver.web.gauges import SlotLimits, build_info, gauges, lasting_counters, slots
from receiver.web.params import read_query

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = structlog.get_logger()

PREFIX = "kling_receiver_"

_MAX_AGE_SECONDS = 3.0
_MAX_WAIT_SECONDS = 2.0
_OPEN_METRICS = "application/openmetrics-text"
_COST_FACTOR = 20  # a snapshot is kept so many times longer than it took, so that scrapes cost at most a twentieth

Family = Counter | Gauge | Histogram


class MetricsApi:
    """Answers ``/metrics`` in the text format that the client prefers."""

    def __init__(
        self, metrics: Metrics, totals: Totals, *, slot_limits: SlotLimits, routes: Collection[str], clock: Clock
    ) -> None:
        self._metrics = metrics
        self._snapshots = SnapshotCache(totals)
        self._slot_limits = slot_limits
        self._routes = routes
        self._clock = clock

    async def show(self, request: Request) -> Response:
        """Return all metrics. The parts of the store that could not be read in time are missing."""
        read_query(request, NoQuery)
        families = self._families(await self._snapshots.get())
        # Importing the library takes a while, and only services with a monitoring system need it.
        text, media_type = await asyncio.to_thread(_render, families, request.headers.get("accept", ""))
        return Response(text, media_type=None, headers={"content-type": media_type, "cache-control": "no-store"})

    def _families(self, snapshot: StoreSnapshot) -> Sequence[Family]:
        found: dict[str, Family] = {each.name: each for each in self._metrics.copies()}
        found |= {counter.name: counter for counter in lasting_counters(snapshot, self._metrics, self._routes)}
        return [
            build_info(),
            *found.values(),
            *gauges(snapshot, self._metrics, self._routes, self._clock.now()),
            slots(snapshot, self._slot_limits()),
        ]


class SnapshotCache:
    """Reads the state of the store, at most one at a time, and keeps it for a few seconds."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._reading: asyncio.Task[StoreSnapshot] | None = None
        self._expires_at = 0.0

    async def get(self) -> StoreSnapshot:
        """Return the state; an empty one if the store did not answer in time."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() >= self._expires_at):
            reading = self._reading = asyncio.create_task(self._read())
        done, _ = await asyncio.wait([reading], timeout=_MAX_WAIT_SECONDS)
        return reading.result() if done else StoreSnapshot()

    async def _read(self) -> StoreSnapshot:
        began = time.monotonic()
        try:
            return await self._totals.snapshot()
        except ReceiverError as exc:
            log.warning("metrics.incomplete", reason=exc.message)
            return StoreSnapshot()
        finally:
            now = time.monotonic()
            self._expires_at = now + max(_MAX_AGE_SECONDS, _COST_FACTOR * (now - began))


class _Collector:
    """Passes our values to the library. A metric without values is left out: it was not measured."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> "Iterator[Metric]":
        """Yield each metric with its values."""
        return (_metric(family) for family in self._families if family.values)


def _render(families: Sequence[Family], accept: str) -> tuple[bytes, str]:
    """Return the text and its media type: OpenMetrics if the client accepts it, else the text format 0.0.4."""
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 -- its import costs 0.1 s and memory

    encode, media_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept.lower() else "")
    return encode(_Collector(families)), media_type


def _metric(family: Family) -> "Metric":
    from prometheus_client import metrics_core  # noqa: PLC0415 -- see _render

    name = PREFIX + family.name
    match family:
        case Counter():
            counter = metrics_core.CounterMetricFamily(name, family.text, labels=family.labels)
            for labels, value in sorted(family.values.items()):
                counter.add_metric(labels, value)
            return counter
        case Gauge():
            gauge = metrics_core.GaugeMetricFamily(name, family.text, labels=family.labels)
            for labels, value in sorted(family.values.items()):
                gauge.add_metric(labels, value)
            return gauge
        case Histogram():
            histogram = metrics_core.HistogramMetricFamily(name, family.text, labels=family.labels)
            bounds = [*(str(float(bound)) for bound in family.bounds), "+Inf"]
            for labels, seen in sorted(family.values.items()):
                histogram.add_metric(labels, list(zip(bounds, accumulate(seen.counts), strict=True)), seen.sum)
            return histogram
