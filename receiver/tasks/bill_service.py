"""Checks the bill: on request, and once a day. Watches what is left of the account's packs."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Protocol

import structlog

from receiver.domain.bill import BillCheck, LedgerCharge, OwnCharge, Pack, UnitCorrection
from receiver.domain.clock import Clock, iso
from receiver.domain.errors import KlingError, StoreUnavailable
from receiver.domain.model import Event, Json
from receiver.settings import CostSettings
from receiver.store.interfaces import Page
from receiver.tasks.bill import LEDGER_DELAY, compare

log = structlog.get_logger()

_CHECK_INTERVAL = timedelta(hours=1)
_EDGE = timedelta(days=1)
"""How far beyond the period the ledgers are read: a task may be charged at its create or at its end."""

_MAX_PERIOD = timedelta(days=31)
"""How many missed days the daily check includes after the service was off, at most."""

_PACK_ALERTS = ("alert.pack_low", "alert.pack_recovered")
_USED_PACKS = frozenset({"", "online"})
_MAX_RESTORED = 200
_EXAMPLES = 3


class LedgerSource(Protocol):
    """Kling's ledgers and packs."""

    async def charges(self, since: datetime, until: datetime) -> Sequence[LedgerCharge]:
        """Return the charges of a period."""
        ...

    async def packs(self) -> Sequence[Pack]:
        """Return the account's packs."""
        ...


class BillStore(Protocol):
    """Our record of costs."""

    async def own_charges(self, kling_ids: Sequence[str]) -> Mapping[str, OwnCharge]:
        """Return our tasks among Kling's ids."""
        ...

    async def succeeded(self, since: datetime, until: datetime) -> Sequence[OwnCharge]:
        """Return the tasks that succeeded in a period."""
        ...

    async def correct(self, corrections: Sequence[UnitCorrection], *, now: datetime) -> None:
        """Store the charges of tasks as the ledgers name them."""
        ...

    async def checked_until(self) -> datetime | None:
        """Return the end of the last day that the daily check compared; None before the first."""
        ...

    async def save_check(self, until: datetime) -> None:
        """Store that the daily check compared everything before *until*."""
        ...


class AlertPublisher(Protocol):
    """Publishes alerts."""

    async def publish(self, name: str, data: Json) -> None:
        """Store an alert with its deliveries."""
        ...


class AlertHistory(Protocol):
    """The events stored before."""

    async def events(self, *, types: Sequence[str] = (), limit: int = 50) -> Page[Event]:
        """List events, newest first."""
        ...


class BillService:
    """Compares Kling's ledgers with the stored costs. One comparison at a time."""

    def __init__(
        self,
        ledgers: LedgerSource,
        store: BillStore,
        alerts: AlertPublisher,
        history: AlertHistory,
        *,
        settings: CostSettings,
        clock: Clock,
    ) -> None:
        self._ledgers = ledgers
        self._store = store
        self._alerts = alerts
        self._history = history
        self._settings = settings
        self._clock = clock
        self._lock = asyncio.Lock()

    async def check(self, since: datetime, until: datetime) -> BillCheck:
        """Compare a period, and correct units in the store. Raises KlingError if the ledgers cannot be read."""
        async with self._lock:
            now = self._clock.now()
            charges = await self._ledgers.charges(since - _EDGE, min(until, now - _EDGE) + _EDGE)
            own = await self._store.own_charges(list({charge.kling_id for charge in charges}))
            succeeded = await self._store.succeeded(since, until)
            checked = compare(charges, own, succeeded, since=since, until=until, now=now)
            if checked.corrections:
                await self._store.correct(checked.corrections, now=now)
        return checked

    async def packs(self) -> Sequence[Pack]:
        """Return the account's packs. Raises KlingError."""
        return await self._ledgers.packs()

    async def run(self, stop: asyncio.Event) -> None:
        """Check each day once, and the packs each hour, as configured, until *stop*."""
        if not self._settings.reconcile and self._settings.low is None:
            await stop.wait()
            return
        while not stop.is_set():
            try:
                await self.step()
            except (KlingError, StoreUnavailable) as exc:  # the next step tries again
                log.warning("bill.delayed", reason=exc.message, remedy=exc.remedy)
            await self._clock.wait(stop, until=self._clock.now() + _CHECK_INTERVAL)

    async def step(self) -> None:
        """Do what is due now. Raises KlingError and StoreUnavailable."""
        if self._settings.low is not None:
            await self._check_packs(self._settings.low)
        if self._settings.reconcile:
            await self._check_day()

    async def _check_day(self) -> None:
        """Compare the whole UTC days since the last check, once Kling's ledgers must contain them."""
        now = self._clock.now()
        until = (now - LEDGER_DELAY).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        before = await self._store.checked_until()
        if before is not None and before >= until:
            return
        since = until - timedelta(days=1) if before is None else max(before, until - _MAX_PERIOD)
        checked = await self.check(since, until)
        log.info("bill.checked", since=iso(since), until=iso(until), matched=checked.matched, **_counts(checked))
        if not checked.agrees:
            await self._alerts.publish("bill_differs", _difference_json(checked))
        await self._store.save_check(until)

    async def _check_packs(self, low: float) -> None:
        reported = await self._low_packs()
        for pack in await self._ledgers.packs():
            is_low = pack.status in _USED_PACKS and pack.share_left <= Decimal(f"{low:.6f}")
            if is_low and pack.id not in reported:
                await self._alerts.publish("pack_low", _pack_json(pack, f"{_percent(pack)} of the pack is left."))
            elif pack.id in reported and not is_low:
                text = f"The pack is not low any more: {_percent(pack)} is left, and its status is {pack.status!r}."
                await self._alerts.publish("pack_recovered", _pack_json(pack, text))

    async def _low_packs(self) -> set[str]:
        """Return the packs that were reported as low and have not recovered."""
        page = await self._history.events(types=_PACK_ALERTS, limit=_MAX_RESTORED)
        low: set[str] = set()
        for event in reversed(page.items):
            pack_id = json.loads(event.envelope)["data"]["pack"]["id"]
            low = low | {pack_id} if event.type == _PACK_ALERTS[0] else low - {pack_id}
        return low


def _counts(checked: BillCheck) -> Mapping[str, int]:
    return {
        "unknown": len(checked.unknown),
        "unbilled": len(checked.unbilled),
        "different": len(checked.different),
    }


def _difference_json(checked: BillCheck) -> Json:
    counts = _counts(checked)
    since, until = f"{checked.since:%Y-%m-%d}", f"{checked.until:%Y-%m-%d}"
    return {
        "message": (
            f"Kling's ledgers from {since} until {until} differ from the stored costs: "
            f"{counts['unknown']} billed tasks are not in the store, {counts['unbilled']} tasks that succeeded were "
            f"not billed, {counts['different']} amounts differ."
        ),
        "remedy": (
            f"Run `kling-receiver costs check --from {since} --to {until}`. A billed task that is not in the store was "
            "submitted by another program, or with another key of the account."
        ),
        "from": since,
        "to": until,
        **counts,
        "examples": {
            "unknown": [charge.kling_id for charge in checked.unknown[:_EXAMPLES]],
            "unbilled": [task.task_id for task in checked.unbilled[:_EXAMPLES]],
            "different": [each.own.task_id for each in checked.different[:_EXAMPLES]],
        },
    }


def _pack_json(pack: Pack, text: str) -> Json:
    return {
        "message": f"{pack.name or pack.id}: {text} Kling's figures may be 12 hours late.",
        "remedy": "Buy a pack in Kling's console, or submit less.",
        "pack": {
            "id": pack.id,
            "name": pack.name,
            "total": format(pack.total, "f"),
            "left": format(pack.left, "f"),
            "expires_at": None if pack.expires_at is None else iso(pack.expires_at),
        },
    }


def _percent(pack: Pack) -> str:
    return f"{pack.share_left:.1%}"
