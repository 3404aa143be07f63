"""Watches the free space of the store's disk, and publishes an alert when it runs short and when it recovers."""

import asyncio
from datetime import timedelta

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.tasks.health_alerts import DiskSpace, HealthAlerts

_RECOVERY_MARGIN = 4 * 1024 * 1024
"""Free bytes beyond the reserve that end a shortage. Without it the alert would flap with the size of the log."""

_CHECK_INTERVAL, _LOW_SPACE_INTERVAL = timedelta(minutes=1), timedelta(seconds=5)

log = structlog.get_logger()


class DiskMonitor:
    """Monitors free disk space, more often as it runs low."""

    def __init__(self, disk: DiskSpace, alerts: HealthAlerts, *, clock: Clock) -> None:
        self._disk = disk
        self._alerts = alerts
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Publish an alert when disk space runs short and when it recovers, until *stop*."""
        is_short = await self._alerts.is_disk_full()
        while not stop.is_set():
            try:
                is_short = await self.check(is_full=is_short)
            except StoreUnavailable as exc:  # not even the alert fits on the disk; it is stored later
                log.warning("disk_alert.delayed", reason=exc.message)
            is_near = is_short or self._disk.free() < 2 * self._disk.reserve
            await self._clock.wait(
                stop, until=self._clock.now() + (_LOW_SPACE_INTERVAL if is_near else _CHECK_INTERVAL)
            )

    async def check(self, *, is_full: bool) -> bool:
        """Publish a change of disk space. Return whether the disk is full now."""
        shortage = self._disk.shortage()
        if not is_full and shortage:
            await self._alerts.on_disk_space(self._disk, shortage=shortage)
            log.warning("disk.filled", reason=shortage)
            return True
        if is_full and not shortage and self._disk.free() >= self._disk.reserve + _RECOVERY_MARGIN:
            await self._alerts.on_disk_space(self._disk, shortage="")
            log.info("disk.recovered", free=self._disk.free())
            return False
        return is_full
