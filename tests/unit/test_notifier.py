"""Which subscribers a notification wakes."""

from datetime import datetime, timedelta

import pytest
from harness.clock import START

from receiver.domain.notifier import Notifier

LATER = START + timedelta(hours=1)


@pytest.mark.parametrize(
    ("planned_at", "due_at", "wakes"),
    [
        (None, LATER, True),
        (LATER, LATER - timedelta(seconds=1), True),
        (LATER, LATER, False),
        (LATER, LATER + timedelta(days=1), False),
        (START - timedelta(seconds=1), LATER, True),
    ],
    ids=["no plan", "earlier than planned", "as planned", "later than planned", "the clock was set forward"],
)
def test_only_a_subscriber_that_would_miss_the_work_is_woken(
    planned_at: datetime | None, due_at: datetime, wakes: bool
) -> None:
    notifier = Notifier()
    wake = notifier.subscribe()
    wake.planned_at = planned_at

    notifier.notify_due(due_at, now=START)

    assert wake.is_set() is wakes


def test_one_event_may_subscribe_to_two_notifiers() -> None:
    tasks, polls = Notifier(), Notifier()
    wake = tasks.subscribe(polls.subscribe())

    polls.notify()
    assert wake.is_set()
    wake.clear()
    tasks.notify()
    assert wake.is_set()

    tasks.unsubscribe(wake)
    wake.clear()
    tasks.notify()
    assert not wake.is_set()
