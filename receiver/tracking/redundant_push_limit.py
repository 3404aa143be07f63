"""Limits how many pushes without effect are kept for each task. Pure."""

from msgspec.structs import replace

from receiver.domain.model import PushOutcome
from receiver.store.interfaces import Change

MAX_REDUNDANT_PUSHES = 50
"""How many pushes of a task that changed nothing are kept, the newest; ``Task.redundant_push_count`` counts all."""

_TRIM_EVERY = 10


def count_redundant(change: Change) -> Change:
    """Count a push that changed nothing, and trim the oldest of them from time to time."""
    task, push = change.task, change.push
    if task is None or push is None or push.outcome is PushOutcome.APPLIED:
        return change
    count = task.redundant_push_count + 1
    trims = count > MAX_REDUNDANT_PUSHES and count % _TRIM_EVERY == 0
    return replace(
        change, task=replace(task, redundant_push_count=count), keep_redundant=MAX_REDUNDANT_PUSHES if trims else None
    )
