"""The summary line of `tasks watch`: counts, rate and remaining time."""

import pytest

from receiver.cli.watch_table import format_duration, summary

COUNTS = {"queued": 30, "submitting": 1, "submitted": 2, "processing": 2, "succeed": 18, "failed": 1, "rejected": 1}


def test_no_rate_is_shown_before_the_first_end() -> None:
    assert summary(COUNTS, newly_done=0, seconds=10) == "5 running, 30 waiting, 20 done"


def test_the_rate_and_the_remaining_time_follow_from_recent_ends() -> None:
    assert summary(COUNTS, newly_done=7, seconds=60) == "5 running, 30 waiting, 20 done, 7 a minute, 5 min 0 s left"
    assert summary({"succeed": 20}, newly_done=7, seconds=60) == "0 running, 0 waiting, 20 done, 7 a minute"


@pytest.mark.parametrize(("seconds", "message"), [(9.6, "10 s"), (61, "1 min 1 s"), (3725, "1 h 2 min")])
def test_a_duration_is_formatted_for_people(seconds: float, message: str) -> None:
    assert format_duration(seconds) == message
