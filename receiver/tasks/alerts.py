"""Says what is wrong with the way to Kling and back, or with the disk, once, and that it is right again."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import KlingError, KlingRefusal, StoreUnavailable
from receiver.domain.model import Event, Json
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.store.interfaces import Page, TaskStore
from receiver.tasks.account import AccountIssue, AccountMonitor, KlingCall, Scope, remedy
from receiver.tasks.callback_monitor import CallbackHealthChange

_ACCOUNT_ALERTS: Final = ("alert.account", "alert.account_recovered")
_CALLBACK_ALERTS: Final = ("alert.callbacks_missed", "alert.callbacks_recovered")
_DISK_ALERTS: Final = ("alert.disk_full", "alert.disk_recovered")
_MAX_RESTORED: Final = 200

_RECOVERY_MARGIN = 4 * 1024 * 1024
"""Bytes beyond what is needed that must be there for a shortage to be over, lest it come and go with the log."""

_CHECK_INTERVAL, _LOW_SPACE_INTERVAL = timedelta(minutes=1), timedelta(seconds=5)

log = structlog.get_logger()


class AlertHistory(Protocol):
    """What was told before."""

    async def events(self, *, types: Sequence[str] = (), limit: int = 50) -> Page[Event]:
        """List events, newest first."""
        ...


class TaskAlerts:
    """Stores alerts that belong to no task and lets the routes that want them have them."""

    def __init__(
        self,
        task_store: TaskStore,
        history: AlertHistory,
        event_factory: EventFactory,
        *,
        public_url: str,
        notifiers: Notifiers,
        clock: Clock,
    ) -> None:
        self._task_store = task_store
        self._history = history
        self._event_factory = event_factory
        self._public_url = public_url
        self._account = AccountMonitor()
        self._notifiers = notifiers
        self._clock = clock

    async def restore(self) -> Mapping[AccountIssue, str]:
        """At start: take up the trouble that was told of and is not over, so that it is not told again.

        Gives what stops creates, and what was said of it.
        """
        told = await self._history.events(types=_ACCOUNT_ALERTS, limit=_MAX_RESTORED)
        open_: dict[AccountIssue, Json] = {}
        for event in reversed(told.items):
            data: Json = json.loads(event.envelope)["data"]
            concern = AccountIssue(scope=Scope(data["concerns"]["reach"]), name=data["concerns"]["name"])
            open_.pop(concern, None)
            if event.type == "alert.account":
                open_[concern] = data
        for concern, data in open_.items():
            self._account.restore(concern, data["kling_code"], creates=data["stops_submits"])
        return {concern: data["message"] for concern, data in open_.items() if data["stops_submits"]}

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Take in how a call to Kling ended: the account may be in trouble, or out of it."""
        begun, over = self._account.observe(error, call)
        if begun is not None and error is not None:
            await self._publish(
                "account",
                {
                    "message": f"{_blocked_message(begun)}: {error.message}",
                    "remedy": f"{remedy(error)} {_waiting_message(begun)}",
                    "kling_code": error.kling_code if isinstance(error, KlingRefusal) else None,
                    "request_id": error.request_id if isinstance(error, KlingRefusal) else "",
                    "stops_submits": call.creates,
                    **_issue_json(begun),
                },
            )
        for concern in over:
            await self._publish("account_recovered", {"message": _recovered_message(concern), **_issue_json(concern)})

    async def callbacks_missing(self) -> bool:
        """Tell whether it was told that callbacks stay away, and not yet that they come again."""
        told = await self._history.events(types=_CALLBACK_ALERTS, limit=1)
        return bool(told.items) and told.items[0].type == _CALLBACK_ALERTS[0]

    async def on_callback_health(self, change: CallbackHealthChange) -> None:
        """Tell that callbacks stay away, or come again."""
        counts: Json = {"missed": change.missed, "of": change.ended}
        if not change.is_missing:
            await self._publish("callbacks_recovered", {"message": "Kling's callbacks arrive again.", **counts})
            return
        await self._publish(
            "callbacks_missed",
            {
                "message": (
                    f"Of the last {change.ended} tasks that ended, {change.missed} were found out by asking: "
                    "their callbacks never came. No result is lost, but each comes late."
                ),
                "remedy": (
                    f"Check that {self._public_url} leads to the public listener from outside: [public] url, DNS, "
                    "certificate, the tunnel (it may have stopped forwarding without exiting), and that no proxy or "
                    "firewall before it answers with a redirect, a challenge, 403 or 413."
                ),
                **counts,
            },
        )

    async def is_disk_full(self) -> bool:
        """Tell whether it was told that the disk is full, and not yet that there is room again."""
        told = await self._history.events(types=_DISK_ALERTS, limit=1)
        return bool(told.items) and told.items[0].type == _DISK_ALERTS[0]

    async def on_disk_space(self, disk: "DiskSpace", *, shortage: str) -> None:
        """Tell *why* nothing new is taken, or, where there is nothing to say, that it is again."""
        data: Json = {"folder": str(disk.folder), "free": disk.free(), "needed": disk.reserve}
        if shortage:
            await self._publish("disk_full", {"message": shortage, **data})
        else:
            await self._publish("disk_recovered", {"message": "The store's disk has room again.", **data})

    async def _publish(self, name: str, data: Json) -> None:
        said = self._event_factory.alert(name, data, at=self._clock.now())
        await self._task_store.add_events([said.event], said.deliveries)
        self._notifiers.events.notify()
        if said.deliveries:
            self._notifiers.deliveries.notify()


class DiskSpace(Protocol):
    """The room for the store in *folder*: below *reserve* bytes nothing new is taken."""

    folder: Path
    reserve: int

    def free(self) -> int:
        """Tell how many bytes are left."""
        ...

    def shortage(self) -> str:
        """Say why nothing new is taken, and what to do; nothing where there is enough."""
        ...


class DiskMonitor:
    """Looks after the room on the store's disk, the oftener the less there is."""

    def __init__(self, disk: DiskSpace, alerts: TaskAlerts, *, clock: Clock) -> None:
        self._disk = disk
        self._alerts = alerts
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Have it told when room runs short, and when there is enough again, until *stop*."""
        is_short = await self._alerts.is_disk_full()
        while not stop.is_set():
            try:
                is_short = await self.check(is_full=is_short)
            except StoreUnavailable as exc:  # not even an alert finds room: it is told when there is some
                log.warning("disk_alert.delayed", reason=exc.message)
            is_near = is_short or self._disk.free() < 2 * self._disk.reserve
            await self._clock.wait(
                stop, until=self._clock.now() + (_LOW_SPACE_INTERVAL if is_near else _CHECK_INTERVAL)
            )

    async def check(self, *, is_full: bool) -> bool:
        """Have a change told, and tell how it is now."""
        why = self._disk.shortage()
        if not is_full and why:
            await self._alerts.on_disk_space(self._disk, shortage=why)
            log.warning("disk.filled", reason=why)
            return True
        if is_full and not why and self._disk.free() >= self._disk.reserve + _RECOVERY_MARGIN:
            await self._alerts.on_disk_space(self._disk, shortage="")
            log.info("disk.recovered", free=self._disk.free())
            return False
        return is_full


def _issue_json(issue: AccountIssue) -> Json:
    return {"concerns": {"reach": issue.scope.value, "name": issue.name}}


def _blocked_message(issue: AccountIssue) -> str:
    match issue.scope:
        case Scope.ACCOUNT:
            return "Kling takes nothing from this account"
        case Scope.PACK:
            return f"Kling takes no tasks that are paid from the account's {issue.name} pack"
        case Scope.RESOURCE:
            return f"Kling lets this account not use {issue.name}"


def _waiting_message(issue: AccountIssue) -> str:
    which = {Scope.ACCOUNT: "Queued tasks wait", Scope.PACK: "Queued tasks of that pack wait, others go on"}
    waits = which.get(issue.scope, "Queued tasks for it wait, others go on")
    return f"{waits}, and they go by themselves when it is mended."


def _recovered_message(issue: AccountIssue) -> str:
    match issue.scope:
        case Scope.ACCOUNT:
            return "Kling takes tasks from this account again."
        case Scope.PACK:
            return f"Kling takes tasks that are paid from the account's {issue.name} pack again."
        case Scope.RESOURCE:
            return f"Kling lets this account use {issue.name} again."
