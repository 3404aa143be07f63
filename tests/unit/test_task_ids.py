"""What the form of a Kling id tells. A hint, never a proof."""

from datetime import UTC, datetime, timedelta

import pytest

from receiver.kling.task_ids import created_at_hint, describe_id, may_be_made_between

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
EPOCH_MS = 1_568_028_518_778


def made(at: datetime, low: int = 7) -> str:
    """Return the id of a task that Kling made at a time."""
    return str((int(at.timestamp() * 1000) - EPOCH_MS << 22) + low)


def test_a_numeric_id_contains_the_creation_time() -> None:
    at = NOW - timedelta(hours=3)

    assert created_at_hint(made(at), now=NOW) == at
    assert describe_id(made(at), now=NOW) == "made at 2026-11-22 07:00:00 UTC by its number; a hint"


@pytest.mark.parametrize(
    "kling_id", ["8672", "1" * 19, made(NOW + timedelta(days=400)), "task_01HF8Z", "x" * 23, "१" * 18]
)
def test_an_id_with_an_implausible_time_is_a_gateways_own(kling_id: str) -> None:
    assert created_at_hint(kling_id, now=NOW) is None
    assert describe_id(kling_id, now=NOW) == "not a number of Kling's; probably the gateway's own ID"


def test_an_id_of_klings_older_form_has_no_time() -> None:
    assert describe_id("CjMT7WdSwWcAAAAAALvB3g", now=NOW) == ""


@pytest.mark.parametrize(
    ("seconds", "may_be"), [(-61, False), (-59, True), (0, True), (30, True), (89, True), (91, False)]
)
def test_a_span_has_a_margin_of_a_minute_for_wrong_clocks(seconds: int, may_be: bool) -> None:
    kling_id = made(NOW + timedelta(seconds=seconds))

    assert may_be_made_between(kling_id, NOW, NOW + timedelta(seconds=30)) is may_be


def test_an_id_without_a_time_is_in_no_span() -> None:
    assert not may_be_made_between("task_01HF8Z", NOW - timedelta(days=900), NOW)
