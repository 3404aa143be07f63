"""Brings results home before the routes are told: Kling's URLs expire, files do not.

An event whose results are wanted says so in the store, and its deliveries wait there. Each round tries what is
missing of it; every file that comes home is written down at once, in one transaction with the event's new object, so
that a crash costs no more than what was on its way. When all is there, or nothing more can come, or the routes have
waited long enough, they are told, and what is still missing is tried for in the background.

With a storage each file is copied there from here, and counts as home when the storage has it.

A URL that is refused is not given up before Kling was asked for a fresh one: what it carries is a signature, and
that may end before its file does.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Protocol

import structlog

from receiver.archive.fair_limiter import Turns
from receiver.archive.fetcher import Fetcher, Result
from receiver.archive.job import Errand, tell
from receiver.archive.partial_file import Berth, leave_no_empty_folder
from receiver.archive.policy import SURELY_DEAD, Missing, Verdict, judge
from receiver.domain.clock import Clock
from receiver.domain.errors import NoAnswer, NotKept, ReceiverError, StoreUnavailable
from receiver.domain.model import Asset, Event, Json, Task
from receiver.domain.notifier import Bells
from receiver.events.factory import Announcement
from receiver.events.payload import fresh_urls
from receiver.store.interfaces import Home, Homecoming

log = structlog.get_logger()

AT_ONCE = 4
"""How many downloads go on at once, of all events together, and how many copies."""

_EVENTS_AT_ONCE = 256
_NAMED_BY = 3  # the last parts of a file's path: its task, its event, its own name
_SET_BACK = timedelta(seconds=5)
_LOOK_AGAIN = timedelta(seconds=5)
_AFTER_A_FAULT = timedelta(minutes=1)


class Shelf(Home, Protocol):
    """What the archiver asks of the store."""

    async def task(self, ref: str) -> Task | None:
        """Find a task."""
        ...


class Voice(Protocol):
    """Puts alerts into words."""

    def results(
        self, what: str, message: str, event: Event, task: Task | None, results: Sequence[Json]
    ) -> Announcement:
        """Tell how it stands with results that were to be brought home."""
        ...


class Renewal(Protocol):
    """Asks for results anew, for their URLs."""

    async def renew(self, task: Task) -> Mapping[str, Sequence[Json]]:
        """Give a task's result as it is told of today; nothing where nobody has it. Raises NoAnswer: later."""
        ...


class Storage(Protocol):
    """Keeps copies of files elsewhere."""

    async def put(self, file: Path, name: str, asset: Asset) -> str:
        """Copy *file*, which *asset* tells of, to *name*; give its URL there. Raises NotKept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Where results are copied to as well; with *alone* they do not stay on this machine then."""

    storage: Storage
    alone: bool = False


class Archiver:
    """Downloads results, a few at a time, and lets the routes be told."""

    def __init__(
        self,
        shelf: Shelf,
        fetcher: Fetcher,
        folder: Path,
        *,
        renewal: Renewal | None,
        copies: Copies | None = None,
        voice: Voice,
        bells: Bells,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._shelf = shelf
        self._fetcher = fetcher
        self._folder = folder
        self._renewal = renewal
        self._copies = copies
        self._voice = voice
        self._bells = bells
        self._clock = clock
        self._rng = rng
        self._turns = Turns(AT_ONCE)
        self._copy_turns = Turns(AT_ONCE)
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._seen_at: datetime | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Look after events as they come and as they fall due, until *stop*; a download under way is broken off."""
        wake = self._bells.events.listen()
        try:
            while not stop.is_set():
                wake.clear()
                until = await self._round(wake)
                await self._clock.wait(wake, until=until)
        finally:
            self._bells.events.leave(wake)
            visits = list(self._visits.values())
            for visit in visits:
                visit.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    async def _round(self, wake: asyncio.Event) -> datetime | None:
        """Begin with every event that is due, as far as there is room; tell when the next is."""
        now = self._clock.now()
        try:
            await self._catch_up(now)
            room = _EVENTS_AT_ONCE - len(self._visits)
            for event in await self._shelf.archiving(now=now, without=[*self._visits], limit=room) if room else ():
                self._begin(event, wake)
            if len(self._visits) >= _EVENTS_AT_ONCE:
                return None
            return await self._shelf.next_archiving(without=[*self._visits])
        except StoreUnavailable as exc:
            log.warning("archive.delayed", reason=exc.message)
            return now + _LOOK_AGAIN

    async def _catch_up(self, now: datetime) -> None:
        """Let nothing wait for a former process, nor for a moment planned by a clock that was set back since."""
        if self._seen_at is None or now < self._seen_at - _SET_BACK:
            await self._shelf.hasten_archiving(now=now)
        self._seen_at = now

    def _begin(self, event: Event, wake: asyncio.Event) -> None:
        visit = asyncio.create_task(self._visit(event))
        self._visits[event.id] = visit

        def done(_: "asyncio.Task[None]") -> None:
            del self._visits[event.id]
            wake.set()

        visit.add_done_callback(done)

    async def _visit(self, event: Event) -> None:
        """Look after one event; whatever goes wrong, it is looked after again, and not at once."""
        try:
            await self._look_after(event)
        except StoreUnavailable as exc:
            log.warning("archive.delayed", event_id=event.id, reason=exc.message)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _LOOK_AGAIN)
        except Exception:  # one event must not end the others
            log.exception("archive.broken", event_id=event.id)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _AFTER_A_FAULT)

    async def _look_after(self, event: Event) -> None:
        """Try what is missing of an event, and decide what follows."""
        if event.archiving is None:
            return
        errand = Errand.of(event, self._folder)
        missing = await self._try_all(errand, errand.missing(copied=self._copies is not None))
        if self._age(event) >= SURELY_DEAD:
            missing = await self._try_anew(errand, missing)
        await self._follow(errand, judge(event.archiving, missing, age=self._age(event), rng=self._rng), missing)

    def _age(self, event: Event) -> timedelta:
        """Tell how old an event is; one that lies ahead, for the clock was set back since, counts as old as that is."""
        return abs(self._clock.now() - event.created_at)

    async def _try_all(self, errand: Errand, results: Sequence[Result]) -> Sequence[Missing]:
        """Try results, and give those that are missing all the same."""
        tries = (self._try(errand, result) for result in results)
        tried = await asyncio.gather(*tries, return_exceptions=True)  # none is left behind when another one breaks
        for fault in tried:
            if isinstance(fault, BaseException):
                raise fault
        return [result for result in tried if isinstance(result, Missing)]

    async def _try_anew(self, errand: Errand, missing: Sequence[Missing]) -> Sequence[Missing]:
        """Try what was refused by the URLs that Kling tells of today; while it cannot say, nothing of that is lost."""
        refused = {result.number for result in missing if result.is_refused}
        try:
            fresh = await self._fresh(errand) if refused else {}
        except NoAnswer as exc:
            log.warning("urls.awaited", event_id=errand.event.id, task=errand.event.task_id, reason=exc.message)
            return [replace(result, is_dead=result.is_dead and not result.is_refused) for result in missing]
        again = [
            Result(number=number, url=url, at=fresh[url])
            for number, url in enumerate(errand.urls)
            if number in refused and fresh.get(url, url) != url
        ]
        numbers = {result.number for result in again}
        others = [result for result in missing if result.number not in numbers]
        return sorted([*others, *await self._try_all(errand, again)], key=lambda result: result.number)

    async def _fresh(self, errand: Errand) -> Mapping[str, str]:
        task_id = errand.event.task_id
        task = None if task_id is None else await self._shelf.task(task_id)
        result = {} if task is None or self._renewal is None else await self._renewal.renew(task)
        return fresh_urls(errand.result, result)

    async def _try(self, errand: Errand, result: Result) -> Missing | None:
        """Bring one result home and write it down, or say why it is missing."""
        async with self._turns.of(errand.event.id):
            began = time.perf_counter()
            brought = await self._fetcher.fetch(errand.folder, result)
        if isinstance(brought, Asset) and self._copies is not None:
            brought = await self._copy(errand, brought, self._copies)
        seconds = round(time.perf_counter() - began, 3)
        about = {"event_id": errand.event.id, "task": errand.event.task_id, "number": result.number, "seconds": seconds}
        if isinstance(brought, Missing):
            log.warning("asset.missed", **about, reason=brought.reason, is_dead=brought.is_dead)
            return brought
        await self._write_down(errand, brought)
        what = {"bytes": brought.size, "content_type": brought.content_type, "storage": brought.storage}
        log.info("asset.brought_home", **about, **what)
        return None

    async def _copy(self, errand: Errand, landed: Asset, copies: Copies) -> Asset | Missing:
        """Copy what is here to the storage, in a turn of its own: what hangs must not keep others from coming here."""
        if not copies.alone and landed.number not in errand.assets:
            await self._write_down(errand, landed)  # should the copy take too long, routes are told of the file
        file = Path(str(landed.path))
        try:
            async with self._copy_turns.of(errand.event.id):
                storage = await copies.storage.put(file, "/".join(file.parts[-_NAMED_BY:]), landed)
        except NotKept as exc:
            return Missing(number=landed.number, url=landed.url, reason=str(exc), path=landed.path)
        return replace(landed, storage=storage, path=None if copies.alone else landed.path)

    async def _write_down(self, errand: Errand, asset: Asset) -> None:
        """Keep what is home by now, whatever may become of the rest: after a crash the event is due at once."""
        event = errand.event
        async with errand.writing:
            errand.assets[asset.number] = asset
            await self._shelf.bring_home(
                Homecoming(
                    event_id=event.id,
                    envelope=errand.envelope(),
                    assets=[asset],
                    archiving=event.archiving,
                    archive_at=self._clock.now(),
                )
            )

    async def _follow(self, errand: Errand, verdict: Verdict, missing: Sequence[Missing]) -> None:
        event, now = errand.event, self._clock.now()
        await self._put_away(errand, missing if verdict.archiving is None else ())
        ours = await self._shelf.bring_home(
            Homecoming(
                event_id=event.id,
                envelope=errand.envelope(),
                archiving=verdict.archiving,
                archive_at=None if verdict.wait is None else now + verdict.wait,
                deliver_at=now if verdict.deliver else None,
                alerts=await self._alerts(errand, verdict, missing),
            )
        )
        log.info(
            "event.archived" if verdict.archiving is None else "event.awaited",
            event_id=event.id,
            task=event.task_id,
            home=len(errand.assets),
            missing=len(missing),
            wait_s=None if verdict.wait is None else round(verdict.wait.total_seconds()),
            recorded=ours,
        )
        if verdict.deliver or verdict.alert is not None:
            self._bells.deliveries.ring()
        if verdict.alert is not None:
            self._bells.events.ring()
        if verdict.deliver:
            self._bells.batches.ring()

    async def _alerts(self, errand: Errand, verdict: Verdict, missing: Sequence[Missing]) -> Sequence[Announcement]:
        if verdict.alert is None:
            return ()
        event = errand.event
        task = None if event.task_id is None else await self._shelf.task(event.task_id)
        goes_on = verdict.archiving is not None
        told: list[Json] = [
            {"number": result.number, "url": result.url, "reason": result.reason, "still_tried": goes_on}
            | ({} if result.path is None else {"path": result.path})
            for result in missing
        ]
        message = tell(verdict.alert, missing, of=len(errand.urls), goes_on=goes_on)
        return [self._voice.results(verdict.alert.value, message, event, task, told)]

    async def _put_away(self, errand: Errand, missing: Sequence[Missing]) -> None:
        """Leave nothing of what did not come whole, nor of what has left for the storage."""
        try:
            for result in missing:
                await Berth(errand.folder, result.number).clear()
            for number, asset in errand.assets.items():
                if asset.path is None:
                    await Berth(errand.folder, number).remove()
        except ReceiverError as exc:
            log.warning("asset.left", event_id=errand.event.id, reason=exc.message)
        leave_no_empty_folder(errand.folder)


async def leave(shelf: Home, *, clock: Clock) -> None:
    """Where results are not to be brought home any more, tell the routes that still waited for some."""
    if count := await shelf.leave_archiving(now=clock.now()):
        log.warning("archive.left", events=count)
