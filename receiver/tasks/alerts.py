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
from receiver.domain.notifier import Bells
from receiver.events.factory import Announcer
from receiver.store.interfaces import Intake, Page
from receiver.tasks.account import Account, Call, Concern, Reach, remedy
from receiver.tasks.callback_monitor import Turn

_TOLD: Final = ("alert.account", "alert.account_recovered")
_ATTENDANCE_TOLD: Final = ("alert.callbacks_missed", "alert.callbacks_recovered")
_ROOM_TOLD: Final = ("alert.disk_full", "alert.disk_recovered")
_MOST_TOLD: Final = 200

_MARGIN = 4 * 1024 * 1024
"""Bytes beyond what is needed that must be there for a shortage to be over, lest it come and go with the log."""

_SELDOM, _OFTEN = timedelta(minutes=1), timedelta(seconds=5)

log = structlog.get_logger()


class History(Protocol):
    """What was told before."""

    async def events(self, *, types: Sequence[str] = (), limit: int = 50) -> Page[Event]:
        """List events, newest first."""
        ...


class Alarm:
    """Stores alerts that belong to no task and lets the routes that want them have them."""

    def __init__(
        self, intake: Intake, history: History, announcer: Announcer, *, public_url: str, bells: Bells, clock: Clock
    ) -> None:
        self._intake = intake
        self._history = history
        self._announcer = announcer
        self._public_url = public_url
        self._account = Account()
        self._bells = bells
        self._clock = clock

    async def recall(self) -> Mapping[Concern, str]:
        """At start: take up the trouble that was told of and is not over, so that it is not told again.

        Gives what stops creates, and what was said of it.
        """
        told = await self._history.events(types=_TOLD, limit=_MOST_TOLD)
        open_: dict[Concern, Json] = {}
        for event in reversed(told.items):
            data: Json = json.loads(event.envelope)["data"]
            concern = Concern(reach=Reach(data["concerns"]["reach"]), name=data["concerns"]["name"])
            open_.pop(concern, None)
            if event.type == "alert.account":
                open_[concern] = data
        for concern, data in open_.items():
            self._account.recall(concern, data["kling_code"], creates=data["stops_submits"])
        return {concern: data["message"] for concern, data in open_.items() if data["stops_submits"]}

    async def called(self, error: KlingError | None, call: Call) -> None:
        """Take in how a call to Kling ended: the account may be in trouble, or out of it."""
        begun, over = self._account.saw(error, call)
        if begun is not None and error is not None:
            await self._raise(
                "account",
                {
                    "message": f"{_is_stopped(begun)}: {error.message}",
                    "remedy": f"{remedy(error)} {_what_waits(begun)}",
                    "kling_code": error.kling_code if isinstance(error, KlingRefusal) else None,
                    "request_id": error.request_id if isinstance(error, KlingRefusal) else "",
                    "stops_submits": call.creates,
                    **_told(begun),
                },
            )
        for concern in over:
            await self._raise("account_recovered", {"message": _goes_on(concern), **_told(concern)})

    async def are_missed(self) -> bool:
        """Tell whether it was told that callbacks stay away, and not yet that they come again."""
        told = await self._history.events(types=_ATTENDANCE_TOLD, limit=1)
        return bool(told.items) and told.items[0].type == _ATTENDANCE_TOLD[0]

    async def attended(self, turn: Turn) -> None:
        """Tell that callbacks stay away, or come again."""
        counts: Json = {"missed": turn.missed, "of": turn.ended}
        if not turn.is_missing:
            await self._raise("callbacks_recovered", {"message": "Kling's callbacks arrive again.", **counts})
            return
        await self._raise(
            "callbacks_missed",
            {
                "message": (
                    f"Of the last {turn.ended} tasks that ended, {turn.missed} were found out by asking: "
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

    async def is_short_of_room(self) -> bool:
        """Tell whether it was told that the disk is full, and not yet that there is room again."""
        told = await self._history.events(types=_ROOM_TOLD, limit=1)
        return bool(told.items) and told.items[0].type == _ROOM_TOLD[0]

    async def room_changed(self, room: "Room", *, why: str) -> None:
        """Tell *why* nothing new is taken, or, where there is nothing to say, that it is again."""
        data: Json = {"folder": str(room.folder), "free": room.free(), "needed": room.reserve}
        if why:
            await self._raise("disk_full", {"message": why, **data})
        else:
            await self._raise("disk_recovered", {"message": "The store's disk has room again.", **data})

    async def _raise(self, what: str, data: Json) -> None:
        said = self._announcer.alert(what, data, at=self._clock.now())
        await self._intake.record([said.event], said.deliveries)
        self._bells.events.ring()
        if said.deliveries:
            self._bells.deliveries.ring()


class Room(Protocol):
    """The room for the store in *folder*: below *reserve* bytes nothing new is taken."""

    folder: Path
    reserve: int

    def free(self) -> int:
        """Tell how many bytes are left."""
        ...

    def shortage(self) -> str:
        """Say why nothing new is taken, and what to do; nothing where there is enough."""
        ...


class RoomWatch:
    """Looks after the room on the store's disk, the oftener the less there is."""

    def __init__(self, room: Room, alarm: Alarm, *, clock: Clock) -> None:
        self._room = room
        self._alarm = alarm
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Have it told when room runs short, and when there is enough again, until *stop*."""
        is_short = await self._alarm.is_short_of_room()
        while not stop.is_set():
            try:
                is_short = await self.look(is_short=is_short)
            except StoreUnavailable as exc:  # not even an alert finds room: it is told when there is some
                log.warning("alarm.delayed", reason=exc.message)
            is_near = is_short or self._room.free() < 2 * self._room.reserve
            await self._clock.wait(stop, until=self._clock.now() + (_OFTEN if is_near else _SELDOM))

    async def look(self, *, is_short: bool) -> bool:
        """Have a change told, and tell how it is now."""
        why = self._room.shortage()
        if not is_short and why:
            await self._alarm.room_changed(self._room, why=why)
            log.warning("disk.filled", reason=why)
            return True
        if is_short and not why and self._room.free() >= self._room.reserve + _MARGIN:
            await self._alarm.room_changed(self._room, why="")
            log.info("disk.recovered", free=self._room.free())
            return False
        return is_short


def _told(concern: Concern) -> Json:
    return {"concerns": {"reach": concern.reach.value, "name": concern.name}}


def _is_stopped(concern: Concern) -> str:
    match concern.reach:
        case Reach.ACCOUNT:
            return "Kling takes nothing from this account"
        case Reach.PACK:
            return f"Kling takes no tasks that are paid from the account's {concern.name} pack"
        case Reach.RESOURCE:
            return f"Kling lets this account not use {concern.name}"


def _what_waits(concern: Concern) -> str:
    which = {Reach.ACCOUNT: "Queued tasks wait", Reach.PACK: "Queued tasks of that pack wait, others go on"}
    waits = which.get(concern.reach, "Queued tasks for it wait, others go on")
    return f"{waits}, and they go by themselves when it is mended."


def _goes_on(concern: Concern) -> str:
    match concern.reach:
        case Reach.ACCOUNT:
            return "Kling takes tasks from this account again."
        case Reach.PACK:
            return f"Kling takes tasks that are paid from the account's {concern.name} pack again."
        case Reach.RESOURCE:
            return f"Kling lets this account use {concern.name} again."
