"""Counters and histograms: what they record, and what they cost."""

import timeit
from datetime import timedelta

import pytest
from harness.clock import START
from harness.factories import a_delivery, a_task, an_event, at

from receiver.delivery.measurements import record_attempt, record_start, result_of
from receiver.domain.errors import NetworkFault
from receiver.domain.metrics import MAX_SERIES, Counter, Histogram, Metrics
from receiver.domain.model import (
    Accepted,
    Attempt,
    DeliveryStatus,
    Failed,
    HeldBy,
    Outcome,
    Refused,
    RouteState,
    Verdict,
)
from receiver.store.interfaces import ClaimedDelivery
from receiver.tracking.measurements import endpoint_label

FREE = RouteState(name="publish")


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram("seconds", "", (1, 2, 5))

    for value in (0, 1, 1.5, 5, 100):
        histogram.observe(value)

    assert histogram.values[()].counts == [2, 1, 1, 1]
    assert histogram.values[()].sum == 107.5


def test_a_negative_duration_counts_as_zero() -> None:
    histogram = Histogram("seconds", "", (1,))

    histogram.observe(-5)

    assert (histogram.values[()].counts, histogram.values[()].sum) == ([1, 0], 0)


def test_labels_are_bounded() -> None:
    counter, histogram = Counter("a", "", ("x",)), Histogram("b", "", (1,), ("x",))

    for number in range(MAX_SERIES + 5):
        counter.add(str(number))
        histogram.observe(1, str(number))
    counter.add("0")

    assert len(counter.values) == len(histogram.values) == MAX_SERIES
    assert counter.values["0",] == 2


def test_a_copy_does_not_change_with_its_original() -> None:
    metrics = Metrics()
    metrics.callbacks.add("applied")
    metrics.callback_seconds.observe(0.1)

    copies = {each.name: each for each in metrics.copies()}
    metrics.callbacks.add("applied")
    metrics.callback_seconds.observe(0.1)

    counter, histogram = copies["callbacks_total"], copies["callback_seconds"]
    assert counter.values["applied",] == 1
    assert isinstance(histogram, Histogram)
    assert sum(histogram.values[()].counts) == 1


def test_an_update_costs_a_few_microseconds_at_most() -> None:
    metrics = Metrics(["publish"])

    observe = min(timeit.repeat(lambda: metrics.callback_seconds.observe(0.003), number=1000, repeat=20))
    add = min(timeit.repeat(lambda: metrics.callbacks.add("applied"), number=1000, repeat=20))

    assert max(observe, add) / 1000 < 5e-6


@pytest.mark.parametrize(
    ("route", "label"), [("publish", "publish"), ("reply:a.example.com", "reply"), ("removed", "other")]
)
def test_a_route_label_never_contains_a_clients_host(route: str, label: str) -> None:
    assert Metrics(["publish"]).route(route) == label


@pytest.mark.parametrize(
    ("endpoint", "label"),
    [
        ("images/multi-image2image", "images/multi-image2image"),
        ("text-to-video/kling-v3", "text-to-video/{model}"),
        ("general/made-up-by-a-client", "other"),
        ("made-up/kling-v3", "other"),
        (None, "other"),
    ],
)
def test_an_endpoint_label_is_one_of_the_catalogue(endpoint: str | None, label: str) -> None:
    assert endpoint_label(a_task(endpoint=endpoint)) == label


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (Accepted(code=204), "success"),
        (Accepted(code=0), "success"),
        (Refused(reason="410", code=410, hold=True), "refused"),
        (Failed(reason="", code=404), "http_4xx"),
        (Failed(reason="", code=503), "http_5xx"),
        (Failed(reason="", code=302), "http_3xx"),
        (Failed(reason="", fault=NetworkFault.DNS), "dns"),
        (Failed(reason="", fault=NetworkFault.TLS), "tls"),
        (Failed(reason="", code=1, fault="script_exit"), "script_exit"),
        (Failed(reason="", code=700), "other"),
        (Failed(reason=""), "other"),
    ],
)
def test_an_attempt_is_counted_by_what_failed(outcome: Outcome, label: str) -> None:
    assert result_of(outcome) == label


def a_claimed(*, due_since: float = 0, type_: str = "task.succeed", replay_of: str | None = None) -> ClaimedDelivery:
    event = an_event(type=type_, created_at=START)
    return ClaimedDelivery(
        delivery=a_delivery(event_id=event.id, replay_of=replay_of), event=event, due_since=at(due_since)
    )


@pytest.mark.parametrize(
    ("state", "due_since", "lag"),
    [
        (FREE, 0, 60),
        (FREE, 50, 10),
        (FREE, 70, None),  # the clock was set back, or a probe came early
        (RouteState(name="publish", released_at=at(40)), 0, 20),
        (RouteState(name="publish", released_at=at(40)), 50, 10),
        (RouteState(name="publish", held_by=HeldBy.FAILURES, held_at=START), 0, None),
    ],
)
def test_the_lag_of_a_delivery_is_without_holds_and_retry_delays(
    state: RouteState, due_since: float, lag: float | None
) -> None:
    metrics = Metrics(["publish"])

    record_start(metrics, a_claimed(due_since=due_since), state, at(60))

    seen = metrics.delivery_lag_seconds.values
    assert {labels: each.sum for labels, each in seen.items()} == ({} if lag is None else {("publish",): lag})


@pytest.mark.parametrize(
    ("claimed", "status", "ends", "from_end"),
    [
        (a_claimed(), DeliveryStatus.DELIVERED, 1, 1),
        (a_claimed(replay_of="dlv_0"), DeliveryStatus.DELIVERED, 1, 0),
        (a_claimed(type_="task.processing"), DeliveryStatus.DELIVERED, 1, 0),
        (a_claimed(), DeliveryStatus.PENDING, 0, 0),
        (a_claimed(), DeliveryStatus.DEAD, 0, 0),  # the store counts it
    ],
)
def test_the_end_of_a_delivery_is_recorded(
    claimed: ClaimedDelivery, status: DeliveryStatus, ends: int, from_end: int
) -> None:
    metrics = Metrics(["publish"])
    attempt = Attempt(
        delivery_id="dlv_1", number=1, started_at=at(60), duration=timedelta(seconds=2), outcome="accepted"
    )

    record_attempt(metrics, claimed, attempt, Accepted(), Verdict(status=status, due_at=at(60)))

    assert metrics.attempts.values == {("publish", "success"): 1}
    assert metrics.attempt_seconds.values["publish",].sum == 2
    assert sum(metrics.deliveries.values.values()) == ends
    assert [each.sum for each in metrics.end_to_delivered_seconds.values.values()] == [62] * from_end
