"""Alerts about the Kling account, callbacks and the disk: one when an issue starts, one when it is resolved."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from receiver.domain.clock import Clock
from receiver.domain.errors import KlingError, KlingRefusal
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
_RESUMES: Final = "The receiver submits them by itself once the issue is fixed."


class AlertHistory(Protocol):
    """The events stored before."""

    async def events(self, *, types: Sequence[str] = (), limit: int = 50) -> Page[Event]:
        """List events, newest first."""
        ...


class HealthAlerts:
    """Stores the alerts that belong to no task, with their deliveries."""

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
        """Restore the unresolved issues at startup, so that they are not reported again.

        Return the issues that stop creates, with their messages.
        """
        self._account = AccountMonitor()
        page = await self._history.events(types=_ACCOUNT_ALERTS, limit=_MAX_RESTORED)
        open_: dict[AccountIssue, Json] = {}
        for event in reversed(page.items):
            data: Json = json.loads(event.envelope)["data"]
            issue = AccountIssue(scope=Scope(data["concerns"]["reach"]), name=data["concerns"]["name"])
            open_.pop(issue, None)
            if event.type == "alert.account":
                open_[issue] = data
        for issue, data in open_.items():
            self._account.restore(issue, data["kling_code"], creates=data["stops_submits"])
        return {issue: data["message"] for issue, data in open_.items() if data["stops_submits"]}

    async def on_call(self, error: KlingError | None, call: KlingCall) -> None:
        """Record how a call to Kling ended, and publish a new or resolved issue of the account."""
        issue, resolved = self._account.observe(error, call)
        if issue is not None and error is not None:
            await self.publish(
                "account",
                {
                    "message": f"{_blocked_message(issue)}: {error.message}",
                    "remedy": f"{remedy(error)} {_waiting_message(issue)}",
                    "kling_code": error.kling_code if isinstance(error, KlingRefusal) else None,
                    "request_id": error.request_id if isinstance(error, KlingRefusal) else "",
                    "stops_submits": call.creates,
                    **_issue_json(issue),
                },
            )
        for each in resolved:
            await self.publish("account_recovered", {"message": _recovered_message(each), **_issue_json(each)})

    async def callbacks_missing(self) -> bool:
        """Return whether the last callback alert says that callbacks are missing."""
        page = await self._history.events(types=_CALLBACK_ALERTS, limit=1)
        return bool(page.items) and page.items[0].type == _CALLBACK_ALERTS[0]

    async def on_callback_health(self, change: CallbackHealthChange) -> None:
        """Publish that callbacks stopped arriving, or resumed."""
        counts: Json = {"missed": change.missed, "of": change.ended}
        if not change.is_missing:
            await self.publish("callbacks_recovered", {"message": "Kling's callbacks arrive again.", **counts})
            return
        await self.publish(
            "callbacks_missed",
            {
                "message": (
                    f"No callback arrived for {change.missed} of the last {change.ended} tasks that ended; "
                    "polling found their results. No result is lost, but each arrives late."
                ),
                "remedy": (
                    f"Check that {self._public_url} reaches the public listener from the internet: [public] url, DNS, "
                    "certificate, and the tunnel, which may have stopped forwarding without exiting. Check that no "
                    "proxy or firewall in front of it answers with a redirect, a challenge, 403 or 413."
                ),
                **counts,
            },
        )

    async def is_disk_full(self) -> bool:
        """Return whether the last disk alert says that the disk is full."""
        page = await self._history.events(types=_DISK_ALERTS, limit=1)
        return bool(page.items) and page.items[0].type == _DISK_ALERTS[0]

    async def on_disk_space(self, disk: "DiskSpace", *, shortage: str) -> None:
        """Publish the *shortage* of disk space, or its end if *shortage* is empty."""
        data: Json = {"folder": str(disk.folder), "free": disk.free(), "needed": disk.reserve}
        if shortage:
            await self.publish("disk_full", {"message": shortage, **data})
        else:
            await self.publish("disk_recovered", {"message": "The store's disk has enough free space again.", **data})

    async def publish(self, name: str, data: Json) -> None:
        """Store an alert that belongs to no task, with its deliveries."""
        routed = self._event_factory.alert(name, data, at=self._clock.now())
        await self._task_store.add_events([routed.event], routed.deliveries)
        self._notifiers.events.notify()
        if routed.deliveries:
            self._notifiers.deliveries.notify()


class DiskSpace(Protocol):
    """The free space of the store's disk. Below ``reserve`` bytes the store accepts nothing new."""

    folder: Path
    reserve: int

    def free(self) -> int:
        """Return the number of free bytes."""
        ...

    def shortage(self) -> str:
        """Return why the store accepts nothing new, and what to do; "" if there is enough space."""
        ...


def _issue_json(issue: AccountIssue) -> Json:
    return {"concerns": {"reach": issue.scope.value, "name": issue.name}}


def _blocked_message(issue: AccountIssue) -> str:
    match issue.scope:
        case Scope.ACCOUNT:
            return "Kling accepts no calls from this account"
        case Scope.PACK:
            return f"Kling accepts no tasks that are paid from this account's {issue.name} pack"
        case Scope.RESOURCE:
            return f"This Kling account may not use {issue.name}"


def _waiting_message(issue: AccountIssue) -> str:
    match issue.scope:
        case Scope.ACCOUNT:
            return f"Queued tasks wait. {_RESUMES}"
        case Scope.PACK:
            return f"Queued tasks of this pack wait; other tasks continue. {_RESUMES}"
        case Scope.RESOURCE:
            return f"Queued tasks for it wait; other tasks continue. {_RESUMES}"


def _recovered_message(issue: AccountIssue) -> str:
    match issue.scope:
        case Scope.ACCOUNT:
            return "Kling accepts calls from this account again."
        case Scope.PACK:
            return f"Kling accepts tasks that are paid from this account's {issue.name} pack again."
        case Scope.RESOURCE:
            return f"This Kling account may use {issue.name} again."
