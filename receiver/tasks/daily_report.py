"""Publishes one report for each local day: what ended, what it cost, what is dead, missed or held."""

import asyncio
from datetime import date, datetime, time, timedelta, tzinfo

import structlog

from receiver.domain.clock import Clock
from receiver.domain.daily_report import LastReport
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.events.daily_report import report_data
from receiver.events.factory import EventFactory
from receiver.store.interfaces import ReportStore

log = structlog.get_logger()

_DAY = timedelta(days=1)
_MAX_WAIT = timedelta(minutes=10)
"""The longest wait, so that a clock or a time zone that was set does not delay a report for long."""


class DailyReports:
    """Publishes the report at *at* local time, or at the next start if the service was stopped then.

    The store has one row for each day, in the transaction of the report's event, so no report is sent twice. *zone* is
    the machine's time zone unless a test gives one.
    """

    def __init__(
        self,
        store: ReportStore,
        event_factory: EventFactory,
        *,
        at: time,
        notifiers: Notifiers,
        clock: Clock,
        zone: tzinfo | None = None,
    ) -> None:
        self._store = store
        self._event_factory = event_factory
        self._at = at
        self._notifiers = notifiers
        self._clock = clock
        self._zone = zone

    async def run(self, stop: asyncio.Event) -> None:
        """Publish each report when it is due, until *stop*."""
        while not stop.is_set():
            now = self._clock.now()
            until = now + _MAX_WAIT
            try:
                await self.publish_due()
                until = min(until, self._next_due(now))
            except StoreUnavailable as exc:  # a full disk, for example; the report is made later
                log.warning("report.delayed", reason=exc.message)
            await self._clock.wait(stop, until=until)

    async def publish_due(self) -> bool:
        """Publish the report of today if it is due and not made yet. Return whether it was published."""
        now = self._clock.now()
        today = self._local(now).date()
        last = await self._store.last()
        if last is None:
            return await self._begin(today, now)
        if last.day == today.isoformat() or now < self._due(today):
            return False
        since = last.at if last.at < now else now - _DAY  # the clock was set back
        facts = await self._store.facts(since=since, until=now)
        data = report_data(facts, day=today.isoformat(), since=since, until=now, missed_before=last.callbacks_missed)
        routed = self._event_factory.daily_report(data, at=now)
        report = LastReport(day=today.isoformat(), at=now, callbacks_missed=facts.callbacks_missed)
        if not await self._store.add(report, routed):
            return False
        log.info("report.published", day=report.day, event_id=routed.event.id)
        self._notifiers.events.notify()
        self._notifiers.deliveries.notify()
        return True

    async def _begin(self, today: date, now: datetime) -> bool:
        """Store where the first report starts: a new installation has nothing to report yet."""
        facts = await self._store.facts(since=now, until=now)
        day = today if now >= self._due(today) else today - _DAY
        await self._store.add(LastReport(day=day.isoformat(), at=now, callbacks_missed=facts.callbacks_missed), None)
        return False

    def _next_due(self, now: datetime) -> datetime:
        today = self._local(now).date()
        return next(due for day in (today, today + _DAY) if (due := self._due(day)) > now)

    def _due(self, day: date) -> datetime:
        local = datetime.combine(day, self._at)
        return local.astimezone() if self._zone is None else local.replace(tzinfo=self._zone)

    def _local(self, at: datetime) -> datetime:
        return at.astimezone(self._zone)
