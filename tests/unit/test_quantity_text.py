"""Numbers with their nouns, and the spellings that filters accept."""

from typing import get_args

import pytest

from receiver.cli.completion_candidates import reached_states
from receiver.domain.listed_state import ListedState
from receiver.domain.model import DeliveryStatus
from receiver.domain.quantity_text import amount_text, counted
from receiver.web.request_types import ReachableState


@pytest.mark.parametrize(("number", "expected"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks")])
def test_a_noun_agrees_with_its_number(number: int, expected: str) -> None:
    assert counted(number, "task") == expected


@pytest.mark.parametrize(
    ("amount", "unit", "expected"),
    [("1", "units", "1 unit"), ("1.0", "units", "1.0 unit"), ("2.5", "units", "2.5 units"), ("1", "cash", "1 cash")],
)
def test_one_unit_is_a_unit(amount: str, unit: str, expected: str) -> None:
    assert amount_text(amount, unit) == expected


def test_both_spellings_of_cancelled_are_accepted() -> None:
    assert ListedState("canceled") is ListedState.CANCELLED
    assert DeliveryStatus("canceled") is DeliveryStatus.CANCELLED


def test_trigger_proposes_the_states_it_takes() -> None:
    assert set(reached_states(None)) == set(get_args(get_args(ReachableState)[0]))  # type: ignore[arg-type] # unused
