"""Counters and histograms of the running service: plain values, rendered only when a monitoring system reads them.

They are updated on the event loop alone, so they need no lock, and an update costs less than a microsecond. Labels are
bounded: they never contain an id, a token, a URL or a client's host.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

Labels = tuple[str, ...]

OTHER: Final = "other"
"""The label of everything that is not known by name."""

REPLY: Final = "reply"
"""The route label of deliveries to clients' own callback URLs."""

MAX_SERIES: Final = 1000
"""The most label values of one metric. Further ones are not counted."""

_REPLY_PREFIX = "reply:"
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_NETWORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Counter:
    """A sum that only grows, by labels."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add *amount* to the sum of these labels."""
        if labels in self.values:
            self.values[labels] += amount
        elif len(self.values) < MAX_SERIES:
            self.values[labels] = amount

    def copy(self) -> "Counter":
        """Return the present values, for another thread."""
        copied = Counter(self.name, self.text, self.labels)
        copied.values = dict(self.values)
        return copied


class Distribution(msgspec.Struct):
    """Observations of one set of labels: how many fell in each bucket, the last one without a bound, and their sum."""

    counts: list[int]
    sum: float = 0


class Histogram:
    """The distribution of a measured value, by labels. ``bounds`` are the upper bounds of the buckets."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self.bounds = bounds
        self.values: dict[Labels, Distribution] = {}

    def observe(self, value: float, *labels: str, times: int = 1) -> None:
        """Record a value that was seen so many *times*. A negative one is a clock that was changed; it counts as 0."""
        found = self.values.get(labels)
        if found is None:
            if len(self.values) >= MAX_SERIES:
                return
            found = self.values[labels] = Distribution([0] * (len(self.bounds) + 1))
        found.counts[bisect_left(self.bounds, value)] += times
        if value > 0:
            found.sum += value * times

    def copy(self) -> "Histogram":
        """Return the present values, for another thread."""
        copied = Histogram(self.name, self.text, self.bounds, self.labels)
        copied.values = {labels: Distribution(list(each.counts), each.sum) for labels, each in self.values.items()}
        return copied


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """Values that were read when they were asked for, by labels. A value that could not be read is missing."""

    name: str
    text: str
    labels: Labels = ()
    values: Mapping[Labels, float] = msgspec.field(default_factory=dict)


class Metrics:
    """What the parts of the service count and measure. *routes* are the names of the configured routes."""

    def __init__(self, routes: Collection[str] = ()) -> None:
        self._routes = frozenset(routes)
        self.callbacks = Counter("callbacks_total", "Callbacks, by outcome.", ("outcome",))
        self.callback_seconds = Histogram(
            "callback_seconds", "Time from a callback's headers to its stored answer, for accepted callbacks.", _FAST
        )
        self.push_lag_seconds = Histogram(
            "push_lag_seconds", "Time from Kling's change of a task to the callback that reports it.", _LONG
        )
        self.task_seconds = Histogram(
            "task_seconds", "Time from a task's submit to its end.", _LONG, ("endpoint", "outcome")
        )
        self.end_to_delivered_seconds = Histogram(
            "end_to_delivered_seconds", "Time from a task's stored end to its delivery.", _LONG, ("route",)
        )
        self.deliveries = Counter("deliveries_total", "Deliveries that ended.", ("route", "outcome"))
        self.attempts = Counter("attempts_total", "Attempts at deliveries, by result.", ("route", "outcome"))
        self.attempt_seconds = Histogram("attempt_seconds", "Duration of one attempt.", _NETWORK, ("route",))
        self.delivery_lag_seconds = Histogram(
            "delivery_lag_seconds",
            "Time from when a delivery was due to its attempt, without holds and retry delays.",
            _LONG,
            ("route",),
        )
        self.kling_requests = Counter("kling_requests_total", "Calls to Kling.", ("operation", "code"))
        self.kling_request_seconds = Histogram("kling_request_seconds", "Duration of a call to Kling.", _NETWORK)
        self.assets = Counter("assets_total", "Downloads of results that ended.", ("outcome",))
        self.asset_bytes = Counter("asset_bytes_total", "Bytes of archived results.")
        self.store_commit_seconds = Histogram(
            "store_commit_seconds", "Duration of one transaction of the store, with its commit to the disk.", _FAST
        )
        self.store_group_size = Histogram("store_group_size", "Writes that shared one transaction.", _SIZES)
        self.loop_lag_seconds = Histogram("loop_lag_seconds", "How late the event loop runs a timer.", _FAST)

    def replace_routes(self, routes: Collection[str]) -> None:
        """Count later values by the names of *routes*."""
        self._routes = frozenset(routes)

    def route(self, name: str) -> str:
        """Return the label of a route: its name, ``reply`` for clients' own URLs, ``other`` for a removed route."""
        if name in self._routes:
            return name
        return REPLY if name.startswith(_REPLY_PREFIX) else OTHER

    def copies(self) -> Sequence[Counter | Histogram]:
        """Return the present values of all counters and histograms."""
        return [each.copy() for each in vars(self).values() if isinstance(each, Counter | Histogram)]
