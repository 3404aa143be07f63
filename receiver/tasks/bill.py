"""Compares Kling's ledgers with the stored costs. Pure: the ledgers, the tasks and the time are arguments."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from receiver.domain.bill import BillCheck, DifferentCharge, LedgerCharge, OwnCharge, UnitCorrection, UnknownCharge
from receiver.domain.costs import EXACT_DECIMAL
from receiver.kling.costs import UNITS
from receiver.kling.task_ids import created_at_hint

LEDGER_DELAY = timedelta(hours=12)
"""How late a charge may appear in Kling's ledgers."""

_LIST_PRICE = "list_price"  # what the task would cost without a discount; never what was charged


def compare(
    charges: Sequence[LedgerCharge],
    own: Mapping[str, OwnCharge],
    succeeded: Iterable[OwnCharge],
    *,
    since: datetime,
    until: datetime,
    now: datetime,
) -> BillCheck:
    """Compare the ledgers' *charges* with our tasks, for the period from *since* until before *until*.

    *charges* may reach beyond the period on both sides, so that a task at its edge finds its charge. *own* has our
    tasks by Kling's id, *succeeded* those of the period that succeeded.
    """
    by_task = _by_task(charges)
    matched = 0
    unknown, different, corrections = [], [], []
    for kling_id, entries in by_task.items():
        if not since <= entries[0].at < until:
            continue
        charged, task = sum_charges(entries), own.get(kling_id)
        if task is None:
            if any(charged.values()):
                unknown.append(_unknown(entries, charged, now))
        elif (corrected := _agree(task.charges, charged)) is None:
            different.append(DifferentCharge(own=task, charged=charged))
        else:
            matched += 1
            if corrected != task.charges:
                corrections.append(UnitCorrection(task_id=task.task_id, charges=corrected))
    return BillCheck(
        since=since,
        until=until,
        total=sum_charges(charge for charge in charges if since <= charge.at < until),
        matched=matched,
        unknown=unknown,
        unbilled=[task for task in succeeded if _is_unbilled(task, by_task, now)],
        different=different,
        corrections=corrections,
    )


def _by_task(charges: Iterable[LedgerCharge]) -> Mapping[str, Sequence[LedgerCharge]]:
    found: dict[str, list[LedgerCharge]] = {}
    for charge in charges:
        found.setdefault(charge.kling_id, []).append(charge)
    return found


def sum_charges(entries: Iterable[LedgerCharge]) -> Mapping[str, Decimal]:
    """Return the sum of entries by unit; a refund reduces it."""
    sums: dict[str, Decimal] = {}
    for entry in entries:
        sums[entry.unit] = EXACT_DECIMAL.add(sums.get(entry.unit, Decimal()), entry.amount)
    return sums


def _agree(recorded: Mapping[str, Decimal] | None, charged: Mapping[str, Decimal]) -> Mapping[str, Decimal] | None:
    """Return our charges in the ledgers' units if the amounts agree, else None.

    Kling reports what it deducts as ``units`` even if it deducts money, and money without its currency. So an amount
    agrees under any name, and the ledgers name its unit. A task without a recorded cost takes over the ledgers'.
    """
    billed = {unit: amount for unit, amount in charged.items() if amount}
    ours = {unit: amount for unit, amount in (recorded or {}).items() if amount and unit != _LIST_PRICE}
    if recorded is None:
        return billed
    if ours == billed:
        return recorded
    if len(ours) != 1 or len(billed) != 1 or list(ours.values()) != list(billed.values()):
        return None
    if UNITS not in ours and UNITS not in billed:
        return recorded  # the same money, under Kling's own name for it
    rest = {unit: amount for unit, amount in recorded.items() if unit not in ours}
    return {**billed, **rest}


def _is_unbilled(task: OwnCharge, by_task: Mapping[str, Sequence[LedgerCharge]], now: datetime) -> bool:
    is_free = task.charges is not None and not any(task.charges.values())
    return task.kling_id not in by_task and not is_free and task.ended_at <= now - LEDGER_DELAY


def _unknown(entries: Sequence[LedgerCharge], charged: Mapping[str, Decimal], now: datetime) -> UnknownCharge:
    first = entries[0]
    return UnknownCharge(
        kling_id=first.kling_id,
        charged_at=first.at,
        created_at=created_at_hint(first.kling_id, now=now),
        charges=charged,
        product=first.product,
        model=first.model,
        api_key_name=first.api_key_name,
    )
