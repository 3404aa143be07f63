"""Wakes the workers that have work after a change of a task was committed."""

from datetime import datetime

from receiver.domain.model import TaskState
from receiver.domain.notifier import Notifiers
from receiver.store.interfaces import Change
from receiver.tasks import poll_schedule


def notify_workers(notifiers: Notifiers, change: Change, *, now: datetime) -> None:
    """Wake the workers that a committed *change* concerns, and no other: each that wakes up queries the store."""
    if any(delivery.claim is None for delivery in change.deliveries):  # the others are being attempted already
        notifiers.deliveries.notify()
    if change.events:
        notifiers.events.notify()
    task = change.task
    if task is None:
        return
    if task.due_at is not None:
        notifier = notifiers.lookups if task.state is TaskState.SUBMITTING else notifiers.polls
        notifier.notify_due(task.due_at, now=now)
    if not poll_schedule.has_ended(task):
        return
    if task.queueing.pack is not None:  # its slots are free
        notifiers.tasks.notify()
    if task.batch is not None:
        notifiers.batches.notify()
