"""Daily reports in a PostgreSQL store."""

from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import first_id, from_micros, micros
from receiver.domain.costs import CostGrouping, add_charges
from receiver.domain.daily_report import LastReport, ReportFacts
from receiver.domain.model import TaskState
from receiver.events.factory import RoutedEvent
from receiver.store.calls import AddReportCall
from receiver.store.interfaces import Total
from receiver.store.postgres import catalog
from receiver.store.postgres.costs import read_totals
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch, fetch_row
from receiver.store.postgres.task_changes import write_events
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresReportStore:
    """The daily reports."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def last(self) -> LastReport | None:
        """Return the last report."""
        return await self._lists.read(_last)

    async def facts(self, *, since: datetime, until: datetime) -> ReportFacts:
        """Return what happened in a period, and the present state."""
        return await self._lists.read(_facts, since, until)

    async def add(self, report: LastReport, routed: RoutedEvent | None) -> bool:
        """Store a report with its event, once for each day."""
        return await self._writer.execute(_ADD, AddReportCall(report=report, routed=routed))


async def _last(connection: Connection) -> LastReport | None:
    row = await fetch_row(connection, "last_report")
    if row is None:
        return None
    return LastReport(day=row["day"], at=from_micros(row["created_at"]), callbacks_missed=row["callbacks_missed"])


async def _facts(connection: Connection, since: datetime, until: datetime) -> ReportFacts:
    period = {"first": first_id("evt", since), "last": first_id("evt", until)}
    ends = {row["type"].partition(".")[2]: row["number"] for row in await fetch(connection, "count_ends", period)}
    costs = await read_totals(connection, CostGrouping.ENDPOINT, None, since, until)
    dead = await fetch(connection, "count_dead_deliveries", {"since": micros(since)})
    totals = await fetch(connection, "totals")
    alerts = {row["is_acknowledged"]: row["number"] for row in await fetch(connection, "count_alerts")}
    return ReportFacts(
        ended={state: ends[state.value] for state in TaskState if state.value in ends},
        spent=add_charges(total.charges for total in costs),
        dead={row["route"]: row["dead"] for row in dead},
        callbacks_missed=sum(row["total"] for row in totals if row["name"] == Total.CALLBACKS_MISSED),
        held=[state for state in (await catalog.route_states(connection)).values() if state.is_held],
        pending=sum(route.pending for route in await catalog.backlog(connection)),
        alerts_open=alerts.get(False, 0),
        alerts_acknowledged=alerts.get(True, 0),
    )


async def _add(connection: Connection, group: Sequence[AddReportCall]) -> Sequence[bool]:
    # Before the reports, for which others wait who hold this lock.
    await fetch(connection, "lock_event_order")
    return [await _add_report(connection, call) for call in group]


async def _add_report(connection: Connection, call: AddReportCall) -> bool:
    report, routed = call.report, call.routed
    arguments = {
        "day": report.day,
        "event_id": "" if routed is None else routed.event.id,
        "at": micros(report.at),
        "callbacks_missed": report.callbacks_missed,
    }
    if await change(connection, "insert_report", arguments) != 1:
        return False
    await change(connection, "delete_old_reports")
    if routed is not None:
        await write_events(connection, [routed.event], routed.deliveries)
    return True


_ADD: WriteOp[AddReportCall, bool] = WriteOp(write=_add)
