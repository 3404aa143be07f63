"""Daily reports in the store's file."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from receiver.domain.clock import first_id, from_micros, micros
from receiver.domain.costs import CostGrouping, add_charges
from receiver.domain.daily_report import LastReport, ReportFacts
from receiver.domain.model import TaskState
from receiver.events.factory import RoutedEvent
from receiver.store.calls import AddReportCall
from receiver.store.interfaces import Total
from receiver.store.sqlite import catalog
from receiver.store.sqlite.costs import read_totals
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.task_changes import write_events
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteReportStore:
    """The daily reports, in the store's file."""

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


def _last(connection: sqlite3.Connection) -> LastReport | None:
    row = connection.execute(sql("last_report")).fetchone()
    if row is None:
        return None
    return LastReport(day=row["day"], at=from_micros(row["created_at"]), callbacks_missed=row["callbacks_missed"])


def _facts(connection: sqlite3.Connection, since: datetime, until: datetime) -> ReportFacts:
    period = {"first": first_id("evt", since), "last": first_id("evt", until)}
    ends = {row["type"].partition(".")[2]: row["number"] for row in connection.execute(sql("count_ends"), period)}
    costs = read_totals(connection, CostGrouping.ENDPOINT, None, since, until)
    dead = connection.execute(sql("count_dead_deliveries"), {"since": micros(since)})
    missed = [row["total"] for row in connection.execute(sql("totals")) if row["name"] == Total.CALLBACKS_MISSED]
    alerts = {bool(row["is_acknowledged"]): row["number"] for row in connection.execute(sql("count_alerts"))}
    return ReportFacts(
        ended={state: ends[state.value] for state in TaskState if state.value in ends},
        spent=add_charges(total.charges for total in costs),
        dead={row["route"]: row["dead"] for row in dead},
        callbacks_missed=sum(missed),
        held=[state for state in catalog.route_states(connection).values() if state.is_held],
        pending=sum(route.pending for route in catalog.backlog(connection)),
        alerts_open=alerts.get(False, 0),
        alerts_acknowledged=alerts.get(True, 0),
    )


def _add(connection: sqlite3.Connection, group: Sequence[AddReportCall]) -> Sequence[bool]:
    return [_add_report(connection, call) for call in group]


def _add_report(connection: sqlite3.Connection, call: AddReportCall) -> bool:
    report, routed = call.report, call.routed
    arguments = {
        "day": report.day,
        "event_id": "" if routed is None else routed.event.id,
        "at": micros(report.at),
        "callbacks_missed": report.callbacks_missed,
    }
    if connection.execute(sql("insert_report"), arguments).rowcount != 1:
        return False
    connection.execute(sql("delete_old_reports"))
    if routed is not None:
        write_events(connection, [routed.event], routed.deliveries)
    return True


_ADD: WriteOp[AddReportCall, bool] = WriteOp(write=_add)
