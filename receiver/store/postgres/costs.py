"""Costs of tasks in a PostgreSQL store: amounts are stored as text and added as exact decimals."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from receiver.domain.bill import OwnCharge, UnitCorrection
from receiver.domain.clock import first_id, from_micros, micros
from receiver.domain.costs import Cost, CostGrouping, CostTotal
from receiver.store.cost_rows import (
    CHARGES_PER_QUERY,
    MAX_RUNTIME,
    NEWEST_CHARGES,
    CostCounts,
    add_counts,
    read_charges,
    read_counts,
    read_own_charges,
    split_period,
    with_unnamed,
    write_charges,
)
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch, fetch_row, fetch_value
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresCostStore:
    """Costs of tasks."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def find(self, task_id: str) -> Cost | None:
        """Return the cost of a task; None if Kling has not reported it."""
        return await self._lists.read(_find, task_id)

    async def totals(
        self, by: CostGrouping, *, tag: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> Sequence[CostTotal]:
        """Sum the costs of the tasks that ended from *since* until before *until*, grouped by *by*.

        Grouping by tag uses the tag *tag*. Tasks without a value are in the first group, named None.
        """
        return await self._lists.read(read_totals, by, tag, since, until)

    async def newest_charges(self, endpoint: str) -> Sequence[tuple[bytes, Mapping[str, Decimal]]]:
        """Return the bodies of an endpoint's newest charged tasks with their charges, newest first."""
        return await self._lists.read(_newest_charges, endpoint)

    async def own_charges(self, kling_ids: Sequence[str]) -> Mapping[str, OwnCharge]:
        """Return our tasks among *kling_ids*, by Kling's id."""
        found: dict[str, OwnCharge] = {}
        for ids in (kling_ids[at : at + CHARGES_PER_QUERY] for at in range(0, len(kling_ids), CHARGES_PER_QUERY)):
            for own in await self._lists.read(_own_charges, "own_charges", {"kling_ids": ids}):
                found[own.kling_id] = own
        return found

    async def succeeded(self, since: datetime, until: datetime) -> Sequence[OwnCharge]:
        """Return the tasks that succeeded from *since* until before *until* and were made in the week before."""
        arguments = {
            "first": first_id("tsk", since - MAX_RUNTIME),
            "last": first_id("tsk", until),
            "since": micros(since),
            "until": micros(until),
        }
        return await self._lists.read(_own_charges, "succeeded_charges", arguments)

    async def correct(self, corrections: Sequence[UnitCorrection], *, now: datetime) -> None:
        """Store the charges of tasks in the units of Kling's ledgers."""
        for some in (corrections[at : at + CHARGES_PER_QUERY] for at in range(0, len(corrections), CHARGES_PER_QUERY)):
            await self._writer.execute(_CORRECT, (now, some))

    async def checked_until(self) -> datetime | None:
        """Return until when the daily check compared the ledgers; None before the first check."""
        return await self._lists.read(_checked_until)

    async def save_check(self, until: datetime) -> None:
        """Store that the daily check compared everything before *until*."""
        await self._writer.execute(_SAVE_CHECK, until)


async def read_totals(
    connection: Connection, by: CostGrouping, tag: str | None, since: datetime | None, until: datetime | None
) -> Sequence[CostTotal]:
    """Sum the costs of a period by group. Whole UTC days are read from their counts, the rest from the tasks."""
    days, rest = split_period(since, until)
    counts = await _count_days(connection, by, tag, days)
    for start, end in rest:
        counts.update(await _count_costs(connection, by, tag, start, end))
    return add_counts(counts)


async def _count_days(connection: Connection, by: CostGrouping, tag: str | None, days: range) -> CostCounts:
    """Count the tasks of whole days by name and charges."""
    bounds = {"first": days.start, "last": days.stop}
    every = read_counts(await fetch(connection, "cost_counts", {"grouping": "day", **bounds}))
    if by is CostGrouping.DAY:
        return every
    grouping = f"tag:{tag}" if by is CostGrouping.TAG else by.value
    return with_unnamed(read_counts(await fetch(connection, "cost_counts", {"grouping": grouping, **bounds})), every)


async def _count_costs(connection: Connection, by: CostGrouping, tag: str | None, since: int, until: int) -> CostCounts:
    """Count the tasks of a part of a day by name and charges."""
    arguments = {
        by.value: tag if by is CostGrouping.TAG else True,
        "joined": None if by is CostGrouping.DAY else True,  # a day needs nothing of the task
        "since": since,
        "until": until,
    }
    return read_counts(await fetch(connection, "count_costs", arguments))


async def _find(connection: Connection, task_id: str) -> Cost | None:
    row = await fetch_row(connection, "cost", {"task_id": task_id})
    return None if row is None else Cost(charges=read_charges(row["charges"]), raw=row["raw"])


async def _newest_charges(connection: Connection, endpoint: str) -> Sequence[tuple[bytes, Mapping[str, Decimal]]]:
    found = await fetch(connection, "newest_charges", {"endpoint": endpoint, **NEWEST_CHARGES})
    return [(row["body"], read_charges(row["charges"])) for row in found]


async def _own_charges(connection: Connection, name: str, arguments: Mapping[str, object]) -> Sequence[OwnCharge]:
    return read_own_charges(await fetch(connection, name, arguments))


async def _checked_until(connection: Connection) -> datetime | None:
    until = await fetch_value(connection, "bill_checked_until")
    return None if until is None else from_micros(until)


async def _correct(
    connection: Connection, group: Sequence[tuple[datetime, Sequence[UnitCorrection]]]
) -> Sequence[None]:
    """Correct costs. Their tasks are held before the order of events, for which others wait who hold a task."""
    corrected = sorted(
        ((each.task_id, micros(now), write_charges(each.charges)) for now, some in group for each in some),
        key=lambda row: row[0],
    )
    await fetch(connection, "keep_tasks", {"ids": [task_id for task_id, _, _ in corrected]})
    for task_id, now, charges in corrected:
        arguments = {"task_id": task_id, "now": now, "charges": charges}
        await change(connection, "correct_cost", arguments)
        await change(connection, "correct_kept_cost", arguments)
    return [None] * len(group)


async def _save_check(connection: Connection, group: Sequence[datetime]) -> Sequence[None]:
    await change(connection, "save_bill_check", {"until": micros(max(group))})
    return [None] * len(group)


_CORRECT: WriteOp[tuple[datetime, Sequence[UnitCorrection]], None] = WriteOp(write=_correct)
_SAVE_CHECK: WriteOp[datetime, None] = WriteOp(write=_save_check)
