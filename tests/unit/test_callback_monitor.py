"""Callbacks that stay away are noticed, and a few that get lost are not."""

from receiver.tasks.callback_monitor import MIN_MISSED, WINDOW, CallbackHealthChange, CallbackMonitor


def record_end(monitor: CallbackMonitor, name: str, *, called: bool) -> CallbackHealthChange | None:
    if called:
        monitor.record_callback(name)
    return monitor.record_end(name)


def test_a_few_missed_are_no_alarm_and_more_are_one_alarm() -> None:
    monitor = CallbackMonitor()

    turns = [record_end(monitor, f"t{n}", called=False) for n in range(2 * MIN_MISSED)]

    assert [turn is not None for turn in turns].count(True) == 1
    assert turns[MIN_MISSED - 1] == CallbackHealthChange(is_missing=True, missed=MIN_MISSED, ended=MIN_MISSED)
    assert monitor.missed == 2 * MIN_MISSED


def test_the_share_is_of_the_latest() -> None:
    monitor = CallbackMonitor()
    for n in range(WINDOW):
        assert record_end(monitor, f"good{n}", called=True) is None

    turns = [record_end(monitor, f"bad{n}", called=False) for n in range(WINDOW // 5 + 1)]

    assert [turn is not None for turn in turns] == [False] * (WINDOW // 5) + [True]


def test_a_row_of_callbacks_ends_the_alarm_and_starts_the_count_anew() -> None:
    monitor = CallbackMonitor()
    for n in range(MIN_MISSED):
        record_end(monitor, f"bad{n}", called=False)

    turns = [record_end(monitor, f"good{n}", called=True) for n in range(MIN_MISSED)]

    assert turns[-1] is not None
    assert not turns[-1].is_missing
    assert record_end(monitor, "bad again", called=False) is None


def test_a_late_callback_takes_the_blame_back() -> None:
    monitor = CallbackMonitor()
    record_end(monitor, "slow", called=False)

    monitor.record_callback("slow")

    assert monitor.missed == 0


def test_what_is_remembered_is_bounded() -> None:
    monitor = CallbackMonitor()

    for n in range(5000):
        record_end(monitor, f"t{n}", called=True)

    assert len(monitor._called_back) <= 1000
    assert len(monitor._ended) <= WINDOW


def test_an_alarm_of_before_is_not_raised_again_and_ends_with_a_row_of_callbacks() -> None:
    monitor = CallbackMonitor()
    monitor.restore()

    turns = [record_end(monitor, f"bad{n}", called=False) for n in range(2 * MIN_MISSED)]
    turns += [record_end(monitor, f"good{n}", called=True) for n in range(MIN_MISSED)]

    assert turns[:-1] == [None] * (3 * MIN_MISSED - 1)
    assert turns[-1] is not None
    assert not turns[-1].is_missing
