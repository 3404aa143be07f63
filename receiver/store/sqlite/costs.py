"""Costs of tasks in the store's file: amounts are stored as text and added as exact decimals."""

import json
import sqlite3
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
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteCostStore:
    """Costs of tasks, in the store's file."""

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
        for batch in (kling_ids[at : at + CHARGES_PER_QUERY] for at in range(0, len(kling_ids), CHARGES_PER_QUERY)):
            for own in await self._lists.read(_own_charges, "own_charges", {"kling_ids": json.dumps(batch)}):
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
        for batch in (corrections[at : at + CHARGES_PER_QUERY] for at in range(0, len(corrections), CHARGES_PER_QUERY)):
            await self._writer.execute(_CORRECT, (now, batch))

    async def checked_until(self) -> datetime | None:
        """Return until when the daily check compared the ledgers; None before the first check."""
        return await self._lists.read(_checked_until)

    async def save_check(self, until: datetime) -> None:
        """Store that the daily check compared everything before *until*."""
        await self._writer.execute(_SAVE_CHECK, until)


def _find(connection: sqlite3.Connection, task_id: str) -> Cost | None:
    row = connection.execute(sql("cost"), {"task_id": task_id}).fetchone()
    if row is None:
        return None
    return Cost(charges=read_charges(row["charges"]), raw=row["raw"])


def _own_charges(connection: sqlite3.Connection, query: str, arguments: Mapping[str, object]) -> Sequence[OwnCharge]:
    return read_own_charges(connection.execute(sql(query), arguments))


def _correct(
    connection: sqlite3.Connection, group: Sequence[tuple[datetime, Sequence[UnitCorrection]]]
) -> Sequence[None]:
    corrected = [
        {"task_id": each.task_id, "now": micros(now), "charges": write_charges(each.charges)}
        for now, corrections in group
        for each in corrections
    ]
    connection.executemany(sql("correct_cost"), corrected)
    connection.executemany(sql("correct_kept_cost"), corrected)
    return [None] * len(group)


_CORRECT: WriteOp[tuple[datetime, Sequence[UnitCorrection]], None] = WriteOp(write=_correct)


def _checked_until(connection: sqlite3.Connection) -> datetime | None:
    row = connection.execute(sql("bill_checked_until")).fetchone()
    return None if row is None else from_micros(row["checked_until"])


def _save_check(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[None]:
    connection.executemany(sql("save_bill_check"), [{"until": micros(until)} for until in group])
    return [None] * len(group)


_SAVE_CHECK: WriteOp[datetime, None] = WriteOp(write=_save_check)


def _newest_charges(connection: sqlite3.Connection, endpoint: str) -> Sequence[tuple[bytes, Mapping[str, Decimal]]]:
    found = connection.execute(sql("newest_charges"), {"endpoint": endpoint, **NEWEST_CHARGES})
    return [(row["body"], read_charges(row["charges"])) for row in found]


def read_totals(
    connection: sqlite3.Connection, by: CostGrouping, tag: str | None, since: datetime | None, until: datetime | None
) -> Sequence[CostTotal]:
    """Sum the costs of a period by group. Whole UTC days are read from their counts, the rest from the tasks."""
    days, rest = split_period(since, until)
    counts = _count_days(connection, by, tag, days)
    for start, end in rest:
        counts.update(_count_costs(connection, by, tag, start, end))
    return add_counts(counts)


def _count_days(connection: sqlite3.Connection, by: CostGrouping, tag: str | None, days: range) -> CostCounts:
    """Count the tasks of whole days by name and charges."""
    bounds = {"first": days.start, "last": days.stop}
    every = read_counts(connection.execute(sql("cost_counts"), {"grouping": "day", **bounds}))
    if by is CostGrouping.DAY:
        return every
    grouping = f"tag:{tag}" if by is CostGrouping.TAG else by.value
    return with_unnamed(read_counts(connection.execute(sql("cost_counts"), {"grouping": grouping, **bounds})), every)


def _count_costs(
    connection: sqlite3.Connection, by: CostGrouping, tag: str | None, since: int, until: int
) -> CostCounts:
    """Count the tasks of a part of a day by name and charges."""
    arguments = {
        by.value: tag if by is CostGrouping.TAG else True,
        "joined": None if by is CostGrouping.DAY else True,  # a day needs nothing of the task
        "since": since,
        "until": until,
    }
    query = queries()["count_costs"].with_optional(arguments)
    return read_counts(connection.execute(query, arguments))
