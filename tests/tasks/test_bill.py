"""How Kling's ledgers are compared with our costs."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from receiver.domain.bill import BillCheck, LedgerCharge, OwnCharge
from receiver.kling.task_ids import created_at_hint
from receiver.tasks.bill import compare

DAY = datetime(2026, 11, 1, tzinfo=UTC)
NOW = DAY + timedelta(days=3)


def charged(kling_id: str, amount: str, *, unit: str = "units", hours: float = 1) -> LedgerCharge:
    return LedgerCharge(
        kling_id=kling_id,
        at=DAY + timedelta(hours=hours),
        unit=unit,
        amount=Decimal(amount),
        product="image",
        model="kling-v2-1",
        api_key_name="default",
    )


def ours(kling_id: str, charges: Mapping[str, str] | None = None, *, hours: float = 1, **more: str) -> OwnCharge:
    amounts = {unit: Decimal(amount) for unit, amount in {**(charges or {}), **more}.items()}
    return OwnCharge(
        task_id=f"tsk_{kling_id}",
        kling_id=kling_id,
        endpoint="images/generations",
        ended_at=DAY + timedelta(hours=hours),
        succeeded=True,
        charges=amounts or None,
    )


def check(charges: Iterable[LedgerCharge], tasks: Iterable[OwnCharge], **changes: Any) -> BillCheck:
    own = {task.kling_id: task for task in tasks}
    period = {"since": DAY, "until": DAY + timedelta(days=1), "now": NOW} | changes
    return compare(list(charges), own, own.values(), **period)


def test_equal_amounts_agree() -> None:
    checked = check([charged("a", "1.50"), charged("b", "2")], [ours("a", units="1.5"), ours("b", units="2")])

    assert checked.agrees
    assert (checked.matched, checked.total) == (2, {"units": Decimal("3.50")})


def test_a_billed_task_that_is_not_stored_is_reported_with_its_time() -> None:
    kling_id = "867283741759111202"

    [unknown] = check([charged(kling_id, "1")], []).unknown

    assert (unknown.kling_id, unknown.charges) == (kling_id, {"units": Decimal(1)})
    assert unknown.created_at == created_at_hint(kling_id, now=NOW)


def test_a_task_that_was_not_billed_is_reported_after_twelve_hours() -> None:
    early = check([], [ours("a", units="1")], now=DAY + timedelta(hours=12))
    late = check([], [ours("a", units="1")], now=DAY + timedelta(hours=13))

    assert (list(early.unbilled), [task.task_id for task in late.unbilled]) == ([], ["tsk_a"])


def test_a_task_that_costs_nothing_need_not_be_billed() -> None:
    assert check([], [ours("a", units="0")]).agrees


def test_another_amount_is_reported_with_both() -> None:
    [different] = check([charged("a", "2")], [ours("a", units="1")]).different

    assert (different.own.charges, different.charged) == ({"units": Decimal(1)}, {"units": Decimal(2)})


def test_several_charges_of_a_task_are_summed_and_a_refund_is_subtracted() -> None:
    checked = check([charged("a", "3"), charged("a", "-1", hours=2)], [ours("a", units="2")])

    assert checked.agrees


def test_a_task_that_was_refunded_in_whole_is_not_unknown() -> None:
    assert check([charged("a", "3"), charged("a", "-3", hours=2)], []).agrees


@pytest.mark.parametrize(("recorded", "billed"), [("units", "usd"), ("usd", "units")])
def test_the_ledger_decides_whether_an_amount_is_units_or_money(recorded: str, billed: str) -> None:
    checked = check([charged("a", "0.14", unit=billed)], [ours("a", charges={recorded: "0.14", "list_price": "0.2"})])

    [correction] = checked.corrections
    assert checked.agrees
    assert correction.charges == {billed: Decimal("0.14"), "list_price": Decimal("0.2")}


def test_money_under_klings_own_name_agrees_with_the_ledgers_currency() -> None:
    checked = check([charged("a", "0.14", unit="cny")], [ours("a", quota="0.14", list_price="0.2")])

    assert (checked.agrees, list(checked.corrections)) == (True, [])


def test_a_task_without_a_reported_cost_takes_the_ledgers() -> None:
    [correction] = check([charged("a", "2")], [ours("a")]).corrections

    assert (correction.task_id, correction.charges) == ("tsk_a", {"units": Decimal(2)})


def test_charges_around_the_period_find_their_tasks_but_are_not_counted() -> None:
    checked = check([charged("a", "1", hours=-2), charged("b", "1", hours=25)], [ours("a", units="1")])

    assert checked.agrees
    assert (checked.matched, checked.total) == (0, {})


@pytest.mark.parametrize(
    "kling_id",
    ["", "CjMT7WdSwWcAAAAAALvB3g", "task_01HF", "12", "99999999999999999999", "0" * 18, "٨٦٧٢٨٣٧٤١٧٥٩١١١٢٠٢"],
)
def test_an_id_without_a_plausible_time_has_no_creation_time(kling_id: str) -> None:
    assert created_at_hint(kling_id, now=NOW) is None


def test_a_numeric_id_contains_the_time_of_the_create() -> None:
    reported = datetime.fromtimestamp(1785901861.504, UTC)  # in the test push of Kling's console

    hint = created_at_hint("913827032734642185", now=NOW)

    assert hint is not None
    assert abs(hint - reported) < timedelta(seconds=1)
