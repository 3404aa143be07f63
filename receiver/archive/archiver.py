"""Archive results before their events are delivered: Kling's URLs expire, archived files do not.

The store marks an event whose results must be archived, and its deliveries wait. Each round downloads the missing
files. Every archived file is stored at once, in one transaction with the event's new envelope, so a crash loses only
downloads in flight. Deliveries start when all files are archived, none can be, or the maximum wait is over. Files that
are still missing are then retried in the background.

With an object store, each file is also copied there, and counts as archived once the copy exists.

If a URL is refused, Kling is asked for a fresh one before the file is given up: the signature in a URL may expire
before the file does.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol

import msgspec
import structlog
from msgspec.structs import replace

from receiver.archive.fair_limiter import FairLimiter
from receiver.archive.fetcher import Fetcher, ResultFile
from receiver.archive.job import ArchiveJob, alert_text
from receiver.archive.partial_file import PartialFile, remove_empty_folder
from receiver.archive.retry import REFUSAL_GRACE, ArchiveDecision, MissingResult, decide
from receiver.domain.clock import Clock
from receiver.domain.clock_watch import ClockWatch
from receiver.domain.errors import FileNotStored, NoResponse, ReceiverError, StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.domain.model import Asset, Event, Json, Task
from receiver.domain.notifier import Notifiers
from receiver.domain.tracing import NO_TRACER, Tracer
from receiver.domain.worker import TaskSet, run_worker
from receiver.events.factory import RoutedEvent
from receiver.events.payload import match_refreshed_urls
from receiver.store.interfaces import ArchiveStore, ArchiveUpdate, Catalog, StoredResult

log = structlog.get_logger()

MAX_CONCURRENT = 4
"""The most downloads at once, and the most copies at once, over all events."""

_MAX_EVENTS = 256
_KEY_PARTS = 3  # the last parts of a file's path: task, event, file name
_RETRY_DELAY = timedelta(seconds=5)
_FAULT_DELAY = timedelta(minutes=1)


class ArchiveAlerts(Protocol):
    """Makes the alerts about results."""

    def archive_alert(
        self, name: str, message: str, event: Event, task: Task | None, results: Sequence[Json]
    ) -> RoutedEvent:
        """Return the alert about an event's results."""
        ...


class UrlRefresher(Protocol):
    """Queries Kling for fresh URLs of results."""

    async def refresh(self, task: Task) -> Mapping[str, Sequence[Json]]:
        """Return a task's current result; empty if Kling has none. Raises NoResponse: try again later."""
        ...


class ObjectStore(Protocol):
    """Keeps copies of archived files."""

    async def put(self, file: Path, name: str, asset: Asset) -> str:
        """Copy *file*, described by *asset*, to *name* and return its URL. Raises FileNotStored."""
        ...


class PreviewRequests(Protocol):
    """Makes thumbnails of archived pictures."""

    def request(self, result: StoredResult) -> None:
        """Have a thumbnail made soon; return at once."""
        ...


class CopyTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where results are copied to. With ``remove_local`` the local file is removed after the copy."""

    storage: ObjectStore
    remove_local: bool = False


class Archiver:
    """Downloads the results of events, a few at a time, then lets their deliveries start."""

    def __init__(
        self,
        store: ArchiveStore,
        catalog: Catalog,
        fetcher: Fetcher,
        folder: Path,
        *,
        refresher: UrlRefresher | None,
        copy_target: CopyTarget | None = None,
        alerts: ArchiveAlerts,
        notifiers: Notifiers,
        clock: Clock,
        rng: Random,
        metrics: Metrics | None = None,
        previews: PreviewRequests | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._fetcher = fetcher
        self._folder = folder
        self._refresher = refresher
        self._copy_target = copy_target
        self._alert_factory = alerts
        self._notifiers = notifiers
        self._clock = clock
        self._rng = rng
        self._metrics = metrics or Metrics()
        self._previews = previews
        self._tracer = tracer
        self._download_limiter = FairLimiter(MAX_CONCURRENT)
        self._copy_limiter = FairLimiter(MAX_CONCURRENT)
        self._jobs = TaskSet("archive.failed")
        self._in_progress: set[str] = set()  # the IDs of the events that have a job
        self._clock_watch = ClockWatch()

    async def run(self, stop: asyncio.Event) -> None:
        """Archive the results of due events until *stop*. Downloads in flight are then cancelled and resume later."""
        wake, self._clock_watch = self._notifiers.events.subscribe(), ClockWatch()
        try:
            await run_worker(
                partial(self._start_due_jobs, wake),
                wake=wake,
                stop=stop,
                clock=self._clock,
                name="archive",
                retry_delay=_RETRY_DELAY,
            )
        finally:
            self._notifiers.events.unsubscribe(wake)
            self._jobs.cancel()
            await self._jobs.drain()

    async def _start_due_jobs(self, wake: asyncio.Event) -> datetime | None:
        """Start a job for every due event, up to the limit. Return when the next event is due, or None."""
        now = self._clock.now()
        await self._make_due_after_restart(now)
        capacity = _MAX_EVENTS - len(self._jobs)
        for event in (
            await self._store.due_events(now=now, exclude=[*self._in_progress], limit=capacity) if capacity else ()
        ):
            self._start_job(event, wake)
        if len(self._jobs) >= _MAX_EVENTS:
            return None
        return await self._store.next_due(exclude=[*self._in_progress])

    async def _make_due_after_restart(self, now: datetime) -> None:
        """Make all events due after a restart, and after the clock was set back."""
        if self._clock_watch.needs_catch_up(now):
            await self._store.make_all_due(now=now)
        self._clock_watch.record(now)

    def _start_job(self, event: Event, wake: asyncio.Event) -> None:
        self._in_progress.add(event.id)

        def done() -> None:
            self._in_progress.remove(event.id)
            wake.set()

        self._jobs.spawn(self._process(event), on_done=done, event_id=event.id)

    async def _process(self, event: Event) -> None:
        """Archive one event. After an error, wait so that the retry is not immediate."""
        try:
            await self._archive(event)
        except StoreUnavailable as exc:
            log.warning("archive.delayed", event_id=event.id, reason=exc.message)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _RETRY_DELAY)
        except Exception:  # one event must not end the others
            log.exception("archive.failed", event_id=event.id)
            await self._clock.wait(asyncio.Event(), until=self._clock.now() + _FAULT_DELAY)

    async def _archive(self, event: Event) -> None:
        """Download the missing results of an event, and act on the decision."""
        if event.archiving is None:
            return
        job = ArchiveJob.from_event(event, self._folder)
        missing = await self._fetch_all(job, job.missing(require_copy=self._copy_target is not None))
        if self._age(event) >= REFUSAL_GRACE:
            missing = await self._retry_with_fresh_urls(job, missing)
        await self._conclude(job, decide(event.archiving, missing, age=self._age(event), rng=self._rng), missing)

    def _age(self, event: Event) -> timedelta:
        """Return an event's age. A creation time in the future (the clock was set back) counts by its distance."""
        return abs(self._clock.now() - event.created_at)

    async def _fetch_all(self, job: ArchiveJob, results: Sequence[ResultFile]) -> Sequence[MissingResult]:
        """Download results and return those still missing."""
        downloads = (self._fetch_one(job, result) for result in results)
        outcomes = await asyncio.gather(*downloads, return_exceptions=True)  # one's error must not leave others running
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, MissingResult)]

    async def _retry_with_fresh_urls(
        self, job: ArchiveJob, missing: Sequence[MissingResult]
    ) -> Sequence[MissingResult]:
        """Retry refused downloads with fresh URLs. If Kling does not answer, no refusal counts as permanent yet."""
        refused = {result.number for result in missing if result.url_refused}
        try:
            fresh = await self._refreshed_urls(job) if refused else {}
        except NoResponse as exc:
            log.warning("urls.not_refreshed", event_id=job.event.id, task=job.event.task_id, reason=exc.message)
            return [replace(result, is_permanent=result.is_permanent and not result.url_refused) for result in missing]
        retries = [
            ResultFile(number=number, url=url, fetch_url=fresh[url])
            for number, url in enumerate(job.urls)
            if number in refused and fresh.get(url, url) != url
        ]
        numbers = {result.number for result in retries}
        others = [result for result in missing if result.number not in numbers]
        return sorted([*others, *await self._fetch_all(job, retries)], key=lambda result: result.number)

    async def _refreshed_urls(self, job: ArchiveJob) -> Mapping[str, str]:
        task_id = job.event.task_id
        task = None if task_id is None else await self._catalog.task(task_id)
        result = {} if task is None or self._refresher is None else await self._refresher.refresh(task)
        return match_refreshed_urls(job.result, result)

    async def _fetch_one(self, job: ArchiveJob, result: ResultFile) -> MissingResult | None:
        """Archive one result and store it. Return the missing result with its reason if that fails."""
        async with self._download_limiter.slot(job.event.id):
            began = time.perf_counter()
            async with self._tracer.span("download", job.event.task_id, number=result.number):
                fetched = await self._fetcher.fetch(job.folder, result)
        if isinstance(fetched, Asset) and self._copy_target is not None:
            fetched = await self._copy(job, fetched, self._copy_target)
        seconds = round(time.perf_counter() - began, 3)
        fields = {"event_id": job.event.id, "task": job.event.task_id, "number": result.number, "seconds": seconds}
        if isinstance(fetched, MissingResult):
            self._metrics.assets.add("failed")
            log.warning("asset.failed", **fields, reason=fetched.reason, is_permanent=fetched.is_permanent)
            return fetched
        await self._save(job, fetched)
        details = {"bytes": fetched.size, "content_type": fetched.content_type, "storage": fetched.storage}
        log.info("asset.archived", **fields, **details)
        self._metrics.assets.add("archived")
        self._metrics.asset_bytes.add(amount=fetched.size)
        if self._previews is not None and job.event.task_id is not None:
            self._previews.request(StoredResult(task_id=job.event.task_id, event_id=job.event.id, asset=fetched))
        return None

    async def _copy(self, job: ArchiveJob, asset: Asset, target: CopyTarget) -> Asset | MissingResult:
        """Copy a file to the object store, under its own limit: a slow copy must not block downloads."""
        if not target.remove_local and asset.number not in job.assets:
            await self._save(job, asset)  # if the copy takes too long, the event is delivered with the local file
        file = Path(str(asset.path))
        try:
            async with self._copy_limiter.slot(job.event.id):
                storage = await target.storage.put(file, "/".join(file.parts[-_KEY_PARTS:]), asset)
        except FileNotStored as exc:
            return MissingResult(number=asset.number, url=asset.url, reason=str(exc), path=asset.path)
        return msgspec.structs.replace(asset, storage=storage, path=None if target.remove_local else asset.path)

    async def _save(self, job: ArchiveJob, asset: Asset) -> None:
        """Store an archived file at once. After a crash the event is due immediately and continues from there."""
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
        recorded = await self._store.save(
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
            archived=len(job.assets),
            missing=len(missing),
            wait_s=None if decision.wait is None else round(decision.wait.total_seconds()),
            recorded=recorded,
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
        task = None if event.task_id is None else await self._catalog.task(event.task_id)
        still_tried = decision.archiving is not None
        results: list[Json] = [
            {"number": result.number, "url": result.url, "reason": result.reason, "still_tried": still_tried}
            | ({} if result.path is None else {"path": result.path})
            for result in missing
        ]
        message = alert_text(decision.alert, missing, total=len(job.urls), still_tried=still_tried)
        return [self._alert_factory.archive_alert(decision.alert.value, message, event, task, results)]

    async def _clean_up(self, job: ArchiveJob, missing: Sequence[MissingResult]) -> None:
        """Remove partial files, and local files that were copied to the object store."""
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
    """Start the deliveries that still wait for results, after the archive was turned off."""
    if count := await store.abandon_all(now=clock.now()):
        log.warning("archive.abandoned", events=count)
