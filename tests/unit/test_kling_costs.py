"""Costs of a task are parsed exactly, in all their forms."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.kling.protocol import parse_status

LEGACY = {"task_id": "k1", "task_status": "succeed"}
NEW = {"id": "k1", "status": "succeeded"}


def charges(body: Any) -> dict[str, str] | None:
    text = body if isinstance(body, str) else json.dumps(body)
    cost = parse_status(text.encode()).cost
    return None if cost is None else {unit: format(amount, "f") for unit, amount in cost.charges.items()}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (LEGACY, None),
        (LEGACY | {"final_unit_deduction": "1.5"}, {"units": "1.5"}),
        (
            LEGACY | {"final_unit_deduction": "2", "final_balance_deduction": {"quota": "0.10", "list_price": "0.14"}},
            {"units": "2", "quota": "0.10", "list_price": "0.14"},
        ),
        ({"code": 0, "data": LEGACY | {"final_unit_deduction": "3"}}, {"units": "3"}),
        (NEW | {"billing": [{"charge_type": "unit", "package_type": "video", "amount": "0.80"}]}, {"units": "0.80"}),
        (
            NEW
            | {
                "billing": [
                    {"charge_type": "unit", "amount": "1"},
                    {"charge_type": "Unit", "amount": "2.25"},
                    {"charge_type": "balance", "amount": "0.3"},
                    {"amount": 7},
                ]
            },
            {"units": "3.25", "balance": "0.3", "amount": "7"},
        ),
        (NEW | {"billing": {"charge_type": "unit", "amount": "4"}}, {"units": "4"}),
        (LEGACY | {"final_balance_deduction": "0.56"}, {"balance": "0.56"}),
        (LEGACY | {"final_unit_deduction": 3}, {"units": "3"}),
        (LEGACY | {"final_unit_deduction": " 1 "}, {"units": "1"}),
        (LEGACY | {"final_unit_deduction": "-1"}, {"units": "-1"}),
        (LEGACY | {"final_unit_deduction": "0"}, {"units": "0"}),
    ],
)
def test_every_form_of_a_cost_is_parsed(body: Any, found: Any) -> None:
    assert charges(body) == found


@pytest.mark.parametrize("nothing", [None, "", {}, []])
def test_a_body_without_costs_has_no_cost(nothing: object) -> None:
    names = ("final_unit_deduction", "final_balance_deduction", "billing")

    assert charges(LEGACY | dict.fromkeys(names, nothing)) is None


@pytest.mark.parametrize(
    "digits", ["0.1", "0.30000000000000004", "1.1234567890123456789012345", "0.10", "1e2", "12345678901234567890.5"]
)
def test_a_fraction_is_exact(digits: str) -> None:
    body = '{"task_id":"k1","task_status":"succeed","final_unit_deduction":' + digits + "}"

    assert charges(body) == {"units": format(Decimal(digits), "f")}


@pytest.mark.parametrize(
    "strange",
    ["free", "1,5", "1.", "NaN", "Infinity", "1e5", "٣", "9" * 31, True, [1], {"a": {"b": 1}}, ["x"], "0x10"],
)
def test_an_invalid_amount_is_kept_as_raw_text_only(strange: object) -> None:
    cost = parse_status(json.dumps(LEGACY | {"final_unit_deduction": strange}).encode()).cost

    assert cost is not None
    assert cost.charges == {}
    assert json.loads(cost.raw) == {"final_unit_deduction": strange}


@pytest.mark.parametrize("digits", ["1e-99999999999999999999", "1e-999999999", "1e300"])
def test_a_number_with_a_huge_exponent_is_not_an_amount(digits: str) -> None:
    body = '{"task_id":"k1","task_status":"succeed","billing":[{"amount":' + digits + "}]}"

    assert charges(body) == {}


def test_charges_beyond_the_limit_are_dropped() -> None:
    bills = [{"charge_type": f"kind {n} " + "x" * 100, "amount": "1"} for n in range(100)]
    cost = parse_status(json.dumps(NEW | {"billing": bills}).encode()).cost

    assert cost is not None
    assert len(cost.charges) == 16
    assert max(map(len, cost.charges)) == 32
    assert cost.raw == "{}"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(unit=ANYTHING, balance=ANYTHING, billing=ANYTHING)
def test_invalid_costs_do_not_prevent_parsing_the_body(unit: object, balance: object, billing: object) -> None:
    body = LEGACY | {"final_unit_deduction": unit, "final_balance_deduction": balance, "billing": billing}
    found = parse_status(json.dumps(body).encode())

    assert found.kling_id == "k1"
    assert found.cost is None or json.loads(found.cost.raw) is not None
