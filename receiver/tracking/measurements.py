"""Records what the metrics say about callbacks and the ends of tasks."""

from datetime import timedelta

from receiver.domain.metrics import OTHER, Metrics
from receiver.domain.model import PushOutcome, Source, Task
from receiver.kling.endpoints import CATALOGUE, resolve
from receiver.store.interfaces import Change
from receiver.tracking.parsed_push import Incoming

_NEWS = frozenset({PushOutcome.APPLIED, PushOutcome.PENDING})
_ENDS = {"task.succeed": "succeed", "task.failed": "failed", "task.expired": "expired"}


def record_callback(metrics: Metrics, change: Change, incoming: Incoming) -> None:
    """Record a stored callback. Only one with news shows how long Kling took to send it."""
    push, updated_at = change.push, incoming.report.updated_at
    if push is None or incoming.source is not Source.CALLBACK:
        return
    metrics.callbacks.add(push.outcome)
    if updated_at is not None and push.outcome in _NEWS:
        metrics.push_lag_seconds.observe(incoming.at.timestamp() - updated_at)


def record_ends(metrics: Metrics, change: Change) -> None:
    """Record the end of a task that Kling had, by the event of its end."""
    if change.task is None:
        return
    for event in change.events:
        if (outcome := _ENDS.get(event.type)) is not None:
            duration = (event.created_at - change.task.created_at) / timedelta(seconds=1)
            metrics.task_seconds.observe(duration, endpoint_label(change.task), outcome)


def endpoint_label(task: Task) -> str:
    """Return a task's endpoint as the catalogue lists it, with ``{model}`` for the model; ``other`` if it does not."""
    path = task.endpoint or ""
    if path in CATALOGUE:
        return path
    template = f"{path.partition('/')[0]}/{{model}}"
    return template if template in CATALOGUE and resolve(path) is not None else OTHER
