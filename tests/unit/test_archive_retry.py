"""Routes wait for files for a limited time. Lost files are reported, others are retried."""

from datetime import timedelta
from random import Random

import pytest

from receiver.archive.retry import (
    GIVE_UP_AFTER,
    REFUSAL_GRACE,
    WARN_AFTER,
    ArchiveAlert,
    ArchiveDecision,
    MissingResult,
    decide,
)
from receiver.domain.model import ArchiveState

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SLOW = MissingResult(number=0, url="https://cdn.example.com/0.png", reason="It did not come.")
DEAD = MissingResult(number=1, url="https://cdn.example.com/1.png", reason="It answered 404.", is_permanent=True)


def decided(state: ArchiveState, *missing: MissingResult, age: timedelta) -> ArchiveDecision:
    return decide(state, missing, age=age, rng=Random(1))


@pytest.mark.parametrize("age", [timedelta(0), HOUR, 40 * DAY])
def test_delivery_starts_once_everything_is_archived(age: timedelta) -> None:
    assert decided(ArchiveState.PENDING, age=age) == ArchiveDecision(archiving=None, deliver=True)


@pytest.mark.parametrize("stage", [ArchiveState.LATE, ArchiveState.EXPIRING])
def test_a_late_archived_file_is_announced(stage: ArchiveState) -> None:
    assert decided(stage, age=5 * HOUR) == ArchiveDecision(archiving=None, deliver=True, alert=ArchiveAlert.RECOVERED)


def test_routes_wait_while_a_file_may_follow() -> None:
    verdict = decided(ArchiveState.PENDING, SLOW, DEAD, age=59 * MINUTE)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (ArchiveState.PENDING, False, None)
    assert verdict.wait == MINUTE, "the next look is at the moment at which they have waited long enough"


def test_after_the_maximum_wait_delivery_starts_and_retries_continue() -> None:
    verdict = decided(ArchiveState.PENDING, SLOW, age=HOUR)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (ArchiveState.LATE, True, ArchiveAlert.LOST)
    assert verdict.wait


def test_after_half_a_day_a_possible_loss_is_reported_once() -> None:
    assert decided(ArchiveState.LATE, SLOW, age=WARN_AFTER - SECOND).alert is None
    assert decided(ArchiveState.LATE, SLOW, age=WARN_AFTER).alert is ArchiveAlert.EXPIRING
    assert decided(ArchiveState.LATE, SLOW, age=WARN_AFTER).archiving is ArchiveState.EXPIRING
    assert decided(ArchiveState.EXPIRING, SLOW, age=20 * HOUR).alert is None


@pytest.mark.parametrize("stage", list(ArchiveState))
def test_archiving_ends_when_no_file_can_follow(stage: ArchiveState) -> None:
    assert decided(stage, DEAD, age=REFUSAL_GRACE) == ArchiveDecision(
        archiving=None, deliver=True, alert=ArchiveAlert.LOST
    )
    assert decided(stage, SLOW, age=GIVE_UP_AFTER) == ArchiveDecision(
        archiving=None, deliver=True, alert=ArchiveAlert.LOST
    )


def test_a_missing_file_of_a_new_result_is_retried() -> None:
    verdict = decided(ArchiveState.PENDING, DEAD, age=SECOND)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (ArchiveState.PENDING, False, None)


def test_waits_grow_with_the_age_up_to_a_bound() -> None:
    rng, age, waits = Random(7), timedelta(0), []
    stage: ArchiveState | None = ArchiveState.PENDING
    while stage is not None:
        verdict = decide(stage, [SLOW], age=age, rng=rng)
        stage = verdict.archiving
        if verdict.wait is not None:
            assert timedelta(0) < verdict.wait <= 36 * MINUTE
            waits.append(verdict.wait)
            age += verdict.wait

    assert age == GIVE_UP_AFTER
    assert waits[0] < 3 * SECOND
    assert 20 < len([wait for wait in waits if wait < 20 * MINUTE]) < 60
    assert 1200 < len(waits) < 2200
