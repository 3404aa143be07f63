"""What ``/metrics`` shows of the store: gauges of its present state, and counters that it keeps. Pure."""

import platform
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta

from receiver import __version__
from receiver.domain.listed_state import ListedState
from receiver.domain.metrics import OTHER, Counter, Gauge, Labels, Metrics
from receiver.domain.model import DeliveryStatus
from receiver.domain.slot_keys import OTHER_MODELS, SlotLimit, split_slot_key
from receiver.kling.models import KNOWN_MODELS
from receiver.store.interfaces import StoreSnapshot, Total

SlotLimits = Callable[[], Sequence[SlotLimit]]
"""Returns the configured and learned limits of slots."""

_ANY_MODEL = "any"
_MAX_UNITS = 50


def build_info() -> Gauge:
    """Return the versions of the program and of Python."""
    values: dict[Labels, float] = {(__version__, platform.python_version()): 1}
    return Gauge(name="build_info", text="The versions in use.", labels=("version", "python"), values=values)


def slots(snapshot: StoreSnapshot, limits: Sequence[SlotLimit]) -> Gauge:
    """Return the slots in use, and the configured and learned limits.

    Clients name models, so only those of the catalogue and of the configuration have a label. The others share one,
    without limits.
    """
    listed = KNOWN_MODELS | {split_slot_key(each.key)[1] for each in limits if each.is_named} | {"", OTHER_MODELS}
    values: defaultdict[Labels, float] = defaultdict(float)
    for each in limits:
        pack, model = split_slot_key(each.key)
        if model in listed and each.limit:
            values[pack, model or _ANY_MODEL, "limit"] = each.limit
        if model in listed and each.learned is not None:
            values[pack, model or _ANY_MODEL, "learned"] = each.learned
    for key, count in (snapshot.slots_in_use or {}).items():
        pack, model = split_slot_key(key)
        values[pack, (model or _ANY_MODEL) if model in listed else OTHER_MODELS, "used"] += count
    return Gauge(
        name="slots",
        text="Slots: in use, the configured limit, the learned limit.",
        labels=("pack", "model", "kind"),
        values=values,
    )


def gauges(snapshot: StoreSnapshot, metrics: Metrics, routes: Collection[str], now: datetime) -> Iterator[Gauge]:
    """Yield the gauges of the store's state. A value that could not be read is missing."""
    if snapshot.tasks is not None:
        counts: dict[Labels, float] = {(state.value,): snapshot.tasks.get(state.value, 0) for state in ListedState}
        yield Gauge(name="tasks", text="Stored tasks, by state.", labels=("state",), values=counts)
    yield from _backlog(snapshot, metrics, routes, now)
    if snapshot.route_states is not None:
        held: dict[Labels, float] = dict.fromkeys(((route,) for route in routes), 0.0)
        held |= {(metrics.route(name),): 1.0 for name, state in snapshot.route_states.items() if state.is_held}
        held.pop((OTHER,), None)  # a removed route
        yield Gauge(name="route_held", text="1 if a route delivers nothing.", labels=("route",), values=held)
    sizes = {
        "store_bytes": ("Size of the store's file.", snapshot.size),
        "store_wal_bytes": ("Size of the store's write-ahead log.", snapshot.wal_size),
        "disk_free_bytes": ("Free bytes on the store's disk.", snapshot.disk_free),
    }
    for name, (text, size) in sizes.items():
        if size is not None:
            yield Gauge(name=name, text=text, values={(): size})


def _backlog(snapshot: StoreSnapshot, metrics: Metrics, routes: Collection[str], now: datetime) -> Iterator[Gauge]:
    if snapshot.backlog is None:
        return
    pending: dict[Labels, float] = dict.fromkeys(((route,) for route in routes), 0)
    oldest: defaultdict[Labels, float] = defaultdict(float)
    for route in snapshot.backlog:
        label = (metrics.route(route.route),)
        pending[label] = pending.get(label, 0) + route.pending
        oldest[label] = max(oldest[label], (now - route.oldest) / timedelta(seconds=1))
    yield Gauge(name="deliveries_pending", text="Pending deliveries.", labels=("route",), values=pending)
    yield Gauge(
        name="deliveries_oldest_pending_seconds",
        text="Age of the oldest pending delivery.",
        labels=("route",),
        values=oldest,
    )


def lasting_counters(snapshot: StoreSnapshot, metrics: Metrics, routes: Collection[str]) -> Iterator[Counter]:
    """Yield the counters that the store keeps, so that a restart does not reset them.

    Those of dead deliveries begin at 0: a monitoring system sees no increase in a series that begins at 1.
    """
    deliveries = Counter(metrics.deliveries.name, metrics.deliveries.text, metrics.deliveries.labels)
    deliveries.values |= metrics.deliveries.values
    totals = snapshot.totals or {}
    for route in routes if snapshot.totals is not None else ():
        deliveries.add(route, DeliveryStatus.DEAD.value, amount=0)
    for route, count in totals.get(Total.DELIVERIES_DEAD, {}).items():
        deliveries.add(metrics.route(route), DeliveryStatus.DEAD.value, amount=count)
    yield deliveries
    if (missed := totals.get(Total.CALLBACKS_MISSED, {}).get("")) is not None:
        counter = Counter("callbacks_missed_total", "Tasks that ended without their callback.")
        counter.add(amount=missed)
        yield counter
    spent = Counter("spent_total", "What tasks cost, as Kling reported it.", ("unit",))
    for unit, amount in sorted(totals.get(Total.SPENT, {}).items())[:_MAX_UNITS]:
        spent.add(unit, amount=amount)
    yield spent
