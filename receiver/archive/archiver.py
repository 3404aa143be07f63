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

from receiver.archive.fair_limiter import FairLimiter
from receiver.archive.fetcher import Fetcher, ResultFile
from receiver.archive.job import ArchiveJob, alert_text
from receiver.archive.partial_file import PartialFile, remove_empty_folder
from receiver.archive.policy import REFUSAL_GRACE, ArchiveDecision, MissingResult, decide
from receiver.domain.clock import Clock
from receiver.domain.errors import FileNotStored, NoResponse, ReceiverError, StoreUnavailable
from receiver.domain.model import Asset, Event, Json, Task
from receiver.domain.notifier import Notifiers
from receiver.events.factory import RoutedEvent
from receiver.events.payload import match_refreshed_urls
from receiver.store.interfaces import ArchiveStore, ArchiveUpdate

log = structlog.get_logger()

MAX_CONCURRENT = 4
"""How many downloads go on at once, of all events together, and how many copies."""

_MAX_EVENTS = 256
_KEY_PARTS = 3  # the last parts of a file's path: its task, its event, its own name
_SET_BACK = timedelta(seconds=5)
_RETRY_DELAY = timedelta(seconds=5)
_FAULT_DELAY = timedelta(minutes=1)


class Shelf(ArchiveStore, Protocol):
    """What the archiver asks of the store."""

    async def task(self, ref: str) -> Task | None:
        """Find a task."""
        ...


class ArchiveAlerts(Protocol):
    """Puts alerts into words."""

    def archive_alert(
        self, name: str, message: str, event: Event, task: Task | None, results: Sequence[Json]
    ) -> RoutedEvent:
        """Tell how it stands with results that were to be brought home."""
        ...


class UrlRefresher(Protocol):
    """Asks for results anew, for their URLs."""

    async def refresh(self, task: Task) -> Mapping[str, Sequence[Json]]:
        """Give a task's result as it is told of today; nothing where nobody has it. Raises NoAnswer: later."""
        ...


class ObjectStore(Protocol):
    """Keeps copies of files elsewhere."""

    async def put(self, file: Path, name: str, asset: Asset) -> str:
        """Copy *file*, which *asset* tells of, to *name*; give its URL there. Raises NotKept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTarget:
    """Where results are copied to as well; with *alone* they do not stay on this machine then."""

    storage: ObjectStore
    remove_local: bool = False


class Archiver:
    """Downloads results, a few at a time, and lets the routes be told."""

    def __init__(
        self,
        store: Shelf,
        fetcher: Fetcher,
        folder: Path,
        *,
        refresher: UrlRefresher | None,
        copy_target: CopyTarget | None = None,
        alerts: ArchiveAlerts,
        notifiers: Notifiers,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._folder = folder
        self._refresher = refresher
        self._copy_target = copy_target
        self._alert_factory = alerts
        self._notifiers = notifiers
        self._clock = clock
        self._rng = rng
        self._download_limiter = FairLimiter(MAX_CONCURRENT)
        self._copy_limiter = FairLimiter(MAX_CONCURRENT)
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._seen_at: datetime | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Look after events as they come and as they fall due, until *stop*; a download under way is broken off."""
        wake = self._notifiers.events.subscribe()
        try:
            while not stop.is_set():
                wake.clear()
                until = await self._start_due_jobs(wake)
                await self._clock.wait(wake, until=until)
        finally:
            self._notifiers.events.unsubscribe(wake)
            visits = list(self._jobs.values())
            for visit in visits:
                visit.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    async def _start_due_jobs(self, wake: asyncio.Event) -> datetime | None:
        """Begin with every event that is due, as far as there is room; tell when the next is."""
        now = self._clock.now()
        try:
            await self._make_due_after_restart(now)
            room = _MAX_EVENTS - len(self._jobs)
            for event in await self._store.due_events(now=now, exclude=[*self._jobs], limit=room) if room else ():
                self._start_job(event, wake)
            if len(self._jobs) >= _MAX_EVENTS:
                return None
            return await self._store.next_due(exclude=[*self._jobs])
        except StoreUnavailable as exc:
            log.warning("archive.delayed", reason=exc.message)
            return now + _RETRY_DELAY

    async def _make_due_after_restart(self, now: datetime) -> None:
        """Let nothing wait for a former process, nor for a moment planned by a clock that was set back since."""
        if self._seen_at is None or now < self._seen_at - _SET_BACK:
            await self._store.make_all_due(now=now)
        self._seen_at = now

    def _start_job(self, event: Event, wake: asyncio.Event) -> None:
        visit = asyncio.create_task(self._process(event))
        self._jobs[event.id] = visit

        def done(_: "asyncio.Task[None]") -> None:
            del self._jobs[event.id]
            wake.set()

        visit.add_done_callback(done)

    async def _process(self, event: Event) -> None:
        """Look after one event; whatever goes wrong, it is looked after again, and not at once."""
        try:
            await self._archive(event)
        except StoreUnavailable as exc:
            log.warning("archive.delayed", event_id=event.id, reason=exc.message)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _RETRY_DELAY)
        except Exception:  # one event must not end the others
            log.exception("archive.failed", event_id=event.id)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _FAULT_DELAY)

    async def _archive(self, event: Event) -> None:
        """Try what is missing of an event, and decide what follows."""
        if event.archiving is None:
            return
        errand = ArchiveJob.from_event(event, self._folder)
        missing = await self._fetch_all(errand, errand.missing(require_copy=self._copy_target is not None))
        if self._age(event) >= REFUSAL_GRACE:
            missing = await self._retry_with_fresh_urls(errand, missing)
        await self._conclude(errand, decide(event.archiving, missing, age=self._age(event), rng=self._rng), missing)

    def _age(self, event: Event) -> timedelta:
        """Tell how old an event is; one that lies ahead, for the clock was set back since, counts as old as that is."""
        return abs(self._clock.now() - event.created_at)

    async def _fetch_all(self, job: ArchiveJob, results: Sequence[ResultFile]) -> Sequence[MissingResult]:
        """Try results, and give those that are missing all the same."""
        tries = (self._fetch_one(job, result) for result in results)
        tried = await asyncio.gather(*tries, return_exceptions=True)  # none is left behind when another one breaks
        for fault in tried:
            if isinstance(fault, BaseException):
                raise fault
        return [result for result in tried if isinstance(result, MissingResult)]

    async def _retry_with_fresh_urls(
        self, job: ArchiveJob, missing: Sequence[MissingResult]
    ) -> Sequence[MissingResult]:
        """Try what was refused by the URLs that Kling tells of today; while it cannot say, nothing of that is lost."""
        refused = {result.number for result in missing if result.url_refused}
        try:
            fresh = await self._refreshed_urls(job) if refused else {}
        except NoResponse as exc:
            log.warning("urls.not_refreshed", event_id=job.event.id, task=job.event.task_id, reason=exc.message)
            return [replace(result, is_permanent=result.is_permanent and not result.url_refused) for result in missing]
        again = [
            ResultFile(number=number, url=url, fetch_url=fresh[url])
            for number, url in enumerate(job.urls)
            if number in refused and fresh.get(url, url) != url
        ]
        numbers = {result.number for result in again}
        others = [result for result in missing if result.number not in numbers]
        return sorted([*others, *await self._fetch_all(job, again)], key=lambda result: result.number)

    async def _refreshed_urls(self, job: ArchiveJob) -> Mapping[str, str]:
        task_id = job.event.task_id
        task = None if task_id is None else await self._store.task(task_id)
        result = {} if task is None or self._refresher is None else await self._refresher.refresh(task)
        return match_refreshed_urls(job.result, result)

    async def _fetch_one(self, job: ArchiveJob, result: ResultFile) -> MissingResult | None:
        """Bring one result home and write it down, or say why it is missing."""
        async with self._download_limiter.slot(job.event.id):
            began = time.perf_counter()
            brought = await self._fetcher.fetch(job.folder, result)
        if isinstance(brought, Asset) and self._copy_target is not None:
            brought = await self._copy(job, brought, self._copy_target)
        seconds = round(time.perf_counter() - began, 3)
        about = {"event_id": job.event.id, "task": job.event.task_id, "number": result.number, "seconds": seconds}
        if isinstance(brought, MissingResult):
            log.warning("asset.failed", **about, reason=brought.reason, is_dead=brought.is_permanent)
            return brought
        await self._save(job, brought)
        what = {"bytes": brought.size, "content_type": brought.content_type, "storage": brought.storage}
        log.info("asset.archived", **about, **what)
        return None

    async def _copy(self, job: ArchiveJob, asset: Asset, target: CopyTarget) -> Asset | MissingResult:
        """Copy what is here to the storage, in a turn of its own: what hangs must not keep others from coming here."""
        if not target.remove_local and asset.number not in job.assets:
            await self._save(job, asset)  # should the copy take too long, routes are told of the file
        file = Path(str(asset.path))
        try:
            async with self._copy_limiter.slot(job.event.id):
                storage = await target.storage.put(file, "/".join(file.parts[-_KEY_PARTS:]), asset)
        except FileNotStored as exc:
            return MissingResult(number=asset.number, url=asset.url, reason=str(exc), path=asset.path)
        return replace(asset, storage=storage, path=None if target.remove_local else asset.path)

    async def _save(self, job: ArchiveJob, asset: Asset) -> None:
        """Keep what is home by now, whatever may become of the rest: after a crash the event is due at once."""
        event = job.event
        async with job.save_lock:
            job.assets[asset.number] = asset
            await self._store.save(
                ArchiveUpdate(
                    event_id=event.id,
                    envelope=job.envelope(),
                    assets=[asset],
                    archiving=event.archiving,
                    archive_at=self._clock.now(),
                )
            )

    async def _conclude(self, job: ArchiveJob, decision: ArchiveDecision, missing: Sequence[MissingResult]) -> None:
        event, now = job.event, self._clock.now()
        await self._clean_up(job, missing if decision.archiving is None else ())
        ours = await self._store.save(
            ArchiveUpdate(
                event_id=event.id,
                envelope=job.envelope(),
                archiving=decision.archiving,
                archive_at=None if decision.wait is None else now + decision.wait,
                deliver_at=now if decision.deliver else None,
                alerts=await self._alerts_for(job, decision, missing),
            )
        )
        log.info(
            "event.archived" if decision.archiving is None else "event.archive_delayed",
            event_id=event.id,
            task=event.task_id,
            home=len(job.assets),
            missing=len(missing),
            wait_s=None if decision.wait is None else round(decision.wait.total_seconds()),
            recorded=ours,
        )
        if decision.deliver or decision.alert is not None:
            self._notifiers.deliveries.notify()
        if decision.alert is not None:
            self._notifiers.events.notify()
        if decision.deliver:
            self._notifiers.batches.notify()

    async def _alerts_for(
        self, job: ArchiveJob, decision: ArchiveDecision, missing: Sequence[MissingResult]
    ) -> Sequence[RoutedEvent]:
        if decision.alert is None:
            return ()
        event = job.event
        task = None if event.task_id is None else await self._store.task(event.task_id)
        goes_on = decision.archiving is not None
        told: list[Json] = [
            {"number": result.number, "url": result.url, "reason": result.reason, "still_tried": goes_on}
            | ({} if result.path is None else {"path": result.path})
            for result in missing
        ]
        message = alert_text(decision.alert, missing, total=len(job.urls), still_tried=goes_on)
        return [self._alert_factory.archive_alert(decision.alert.value, message, event, task, told)]

    async def _clean_up(self, job: ArchiveJob, missing: Sequence[MissingResult]) -> None:
        """Leave nothing of what did not come whole, nor of what has left for the storage."""
        try:
            for result in missing:
                await PartialFile(job.folder, result.number).discard()
            for number, asset in job.assets.items():
                if asset.path is None:
                    await PartialFile(job.folder, number).remove()
        except ReceiverError as exc:
            log.warning("asset.not_removed", event_id=job.event.id, reason=exc.message)
        remove_empty_folder(job.folder)


async def abandon(store: ArchiveStore, *, clock: Clock) -> None:
    """Where results are not to be brought home any more, tell the routes that still waited for some."""
    if count := await store.abandon_all(now=clock.now()):
        log.warning("archive.abandoned", events=count)
