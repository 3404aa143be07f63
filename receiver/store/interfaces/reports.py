"""Daily reports: which were made, and what the next one is made from."""

from datetime import datetime
from typing import Protocol

from receiver.domain.daily_report import LastReport, ReportFacts
from receiver.events.factory import RoutedEvent


class ReportStore(Protocol):
    """The daily reports, one for each local day."""

    async def last(self) -> LastReport | None:
        """Return the last report, or None before the first one."""
        ...

    async def facts(self, *, since: datetime, until: datetime) -> ReportFacts:
        """Return what happened from *since* until before *until*, and the present state."""
        ...

    async def add(self, report: LastReport, routed: RoutedEvent | None) -> bool:
        """Store a report and its event in one transaction. Return False, and write nothing, if its day has one.

        Without an event it is only where the first report starts.
        """
        ...
