"""Callbacks that stay away are noticed, and a few that get lost are not."""

from receiver.tasks.callback_monitor import FEWEST, LATEST, Attendance, Turn


def ends(attendance: Attendance, name: str, *, called: bool) -> Turn | None:
    if called:
        attendance.called(name)
    return attendance.ended(name)


def test_a_few_missed_are_no_alarm_and_more_are_one_alarm() -> None:
    attendance = Attendance()

    turns = [ends(attendance, f"t{n}", called=False) for n in range(2 * FEWEST)]

    assert [turn is not None for turn in turns].count(True) == 1
    assert turns[FEWEST - 1] == Turn(is_missing=True, missed=FEWEST, ended=FEWEST)
    assert attendance.missed == 2 * FEWEST


def test_the_share_is_of_the_latest() -> None:
    attendance = Attendance()
    for n in range(LATEST):
        assert ends(attendance, f"good{n}", called=True) is None

    turns = [ends(attendance, f"bad{n}", called=False) for n in range(LATEST // 5 + 1)]

    assert [turn is not None for turn in turns] == [False] * (LATEST // 5) + [True]


def test_a_row_of_callbacks_ends_the_alarm_and_starts_the_count_anew() -> None:
    attendance = Attendance()
    for n in range(FEWEST):
        ends(attendance, f"bad{n}", called=False)

    turns = [ends(attendance, f"good{n}", called=True) for n in range(FEWEST)]

    assert turns[-1] is not None
    assert not turns[-1].is_missing
    assert ends(attendance, "bad again", called=False) is None


def test_a_late_callback_takes_the_blame_back() -> None:
    attendance = Attendance()
    ends(attendance, "slow", called=False)

    attendance.called("slow")

    assert attendance.missed == 0


def test_what_is_remembered_is_bounded() -> None:
    attendance = Attendance()

    for n in range(5000):
        ends(attendance, f"t{n}", called=True)

    assert len(attendance._called) <= 1000
    assert len(attendance._ended) <= LATEST


def test_an_alarm_of_before_is_not_raised_again_and_ends_with_a_row_of_callbacks() -> None:
    attendance = Attendance()
    attendance.recall()

    turns = [ends(attendance, f"bad{n}", called=False) for n in range(2 * FEWEST)]
    turns += [ends(attendance, f"good{n}", called=True) for n in range(FEWEST)]

    assert turns[:-1] == [None] * (3 * FEWEST - 1)
    assert turns[-1] is not None
    assert not turns[-1].is_missing
