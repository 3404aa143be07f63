"""Which worker a committed change wakes."""

from datetime import timedelta

import pytest
from harness.clock import START
from harness.factories import a_task

from receiver.domain.model import TaskState
from receiver.domain.notifier import Notifiers
from receiver.store.interfaces import Change
from receiver.tracking.notifications import notify_workers


@pytest.mark.parametrize(
    ("state", "woken"),
    [(TaskState.SUBMITTING, "lookups"), (TaskState.SUBMITTED, "polls"), (TaskState.PROCESSING, "polls")],
)
def test_a_due_task_wakes_the_worker_of_its_state_alone(state: TaskState, woken: str) -> None:
    notifiers = Notifiers()
    wakes = {name: notifier.subscribe() for name, notifier in notifiers.by_name().items()}
    change = Change(task=a_task(state=state, due_at=START + timedelta(seconds=5)))

    notify_workers(notifiers, change, now=START)

    assert [name for name, wake in wakes.items() if wake.is_set()] == [woken]
