"""Missing callbacks are noticed; a few lost ones are not an alert."""

from random import Random

import pytest

from receiver.tasks.callback_monitor import MAX_TO_RECOVER, MIN_MISSED, WINDOW, CallbackHealthChange, CallbackMonitor


def record_end(monitor: CallbackMonitor, name: str, *, called: bool) -> CallbackHealthChange | None:
    if called:
        monitor.record_callback(name)
    return monitor.record_end(name)


def test_many_missed_callbacks_are_one_change_and_a_few_are_none() -> None:
    monitor = CallbackMonitor()

    changes = [record_end(monitor, f"t{n}", called=False) for n in range(2 * MIN_MISSED)]

    assert [change is not None for change in changes].count(True) == 1
    assert changes[MIN_MISSED - 1] == CallbackHealthChange(is_missing=True, missed=MIN_MISSED, ended=MIN_MISSED)
    assert monitor.missed == 2 * MIN_MISSED


def test_the_ratio_is_of_the_latest_ends() -> None:
    monitor = CallbackMonitor()
    for n in range(WINDOW):
        assert record_end(monitor, f"good{n}", called=True) is None

    changes = [record_end(monitor, f"bad{n}", called=False) for n in range(WINDOW // 5 + 1)]

    assert [change is not None for change in changes] == [False] * (WINDOW // 5) + [True]


def test_consecutive_callbacks_end_the_issue_and_reset_the_count() -> None:
    monitor = CallbackMonitor()
    for n in range(MIN_MISSED):
        record_end(monitor, f"bad{n}", called=False)

    changes = [record_end(monitor, f"good{n}", called=True) for n in range(MIN_MISSED)]

    assert changes[-1] is not None
    assert not changes[-1].is_missing
    assert record_end(monitor, "bad again", called=False) is None


def test_a_late_callback_is_not_missed() -> None:
    monitor = CallbackMonitor()
    record_end(monitor, "slow", called=False)

    monitor.record_callback("slow")

    assert monitor.missed == 0


def test_memory_is_bounded() -> None:
    monitor = CallbackMonitor()

    for n in range(5000):
        record_end(monitor, f"t{n}", called=True)

    assert len(monitor._called_back) <= 1000
    assert len(monitor._ended) <= 3 * WINDOW


def test_a_restored_issue_is_not_reported_again_and_can_end() -> None:
    monitor = CallbackMonitor()
    monitor.restore()

    changes = [record_end(monitor, f"bad{n}", called=False) for n in range(2 * MIN_MISSED)]
    changes += [record_end(monitor, f"good{n}", called=True) for n in range(MIN_MISSED)]

    assert changes[:-1] == [None] * (3 * MIN_MISSED - 1)
    assert changes[-1] is not None
    assert not changes[-1].is_missing


@pytest.mark.parametrize("lost", [0.02, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.8])
def test_a_steady_loss_is_one_issue(lost: float) -> None:
    counts = [count_issues(lost, seed=seed, ends=1800) for seed in range(20)]

    assert sum(counts) / len(counts) <= 1.3
    assert max(counts) <= 2


@pytest.mark.parametrize("lost", [0.3, 0.5, 1.0])
def test_an_issue_ends_once_callbacks_arrive_again(lost: float) -> None:
    monitor, rng = CallbackMonitor(), Random(1)
    for n in range(200):
        record_end(monitor, f"bad{n}", called=rng.random() >= lost)

    changes = [record_end(monitor, f"good{n}", called=True) for n in range(MAX_TO_RECOVER)]

    assert [change.is_missing for change in changes if change] == [False]


def count_issues(lost: float, *, seed: int, ends: int) -> int:
    """Return how many issues are reported while this ratio of callbacks is lost."""
    monitor, rng = CallbackMonitor(), Random(seed)
    changes = [record_end(monitor, f"t{n}", called=rng.random() >= lost) for n in range(ends)]
    return sum(change is not None and change.is_missing for change in changes)
