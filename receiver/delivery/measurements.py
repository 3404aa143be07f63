"""Records what the metrics say about deliveries."""

from datetime import datetime

from receiver.domain.metrics import OTHER, Metrics
from receiver.domain.model import Accepted, Attempt, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict
from receiver.store.interfaces import ClaimedDelivery

_TASK_ENDS = frozenset({"task.succeed", "task.failed", "task.rejected", "task.expired"})
_HTTP_CLASSES = range(1, 6)


def record_start(metrics: Metrics, claimed: ClaimedDelivery, state: RouteState, started_at: datetime) -> None:
    """Record how late an attempt starts. The time until a hold ended does not count, nor does a probe."""
    if claimed.due_since is None or state.is_held or started_at < claimed.due_since:
        return
    due_at = claimed.due_since if state.released_at is None else max(claimed.due_since, state.released_at)
    metrics.delivery_lag_seconds.observe((started_at - due_at).total_seconds(), metrics.route(claimed.delivery.route))


def record_attempt(
    metrics: Metrics, claimed: ClaimedDelivery, attempt: Attempt, outcome: Outcome, verdict: Verdict
) -> None:
    """Record an attempt that was stored, and the end of its delivery. The store itself counts dead deliveries."""
    route = metrics.route(claimed.delivery.route)
    metrics.attempts.add(route, result_of(outcome))
    metrics.attempt_seconds.observe(attempt.duration.total_seconds(), route)
    if verdict.status is not DeliveryStatus.DELIVERED:
        return
    metrics.deliveries.add(route, verdict.status.value)
    if claimed.event.type in _TASK_ENDS and claimed.delivery.replay_of is None:
        ended_at = attempt.started_at + attempt.duration
        metrics.end_to_delivered_seconds.observe((ended_at - claimed.event.created_at).total_seconds(), route)


def result_of(outcome: Outcome) -> str:
    """Return the label of an attempt's result."""
    match outcome:
        case Accepted():
            return "success"
        case Refused():
            return "refused"
        case Failed(fault=fault) if fault:
            return str(fault)
        case Failed(code=int(code)) if code // 100 in _HTTP_CLASSES:
            return f"http_{code // 100}xx"
        case Failed():
            return OTHER
