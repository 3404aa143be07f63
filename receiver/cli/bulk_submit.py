"""Submits many jobs, each with its own idempotency key.

After an interruption the same command resumes, and no job is submitted twice.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TypeAlias

from receiver.cli import FAILED, INTERRUPTED, OK, render
from receiver.cli.bulk_progress import BulkProgress, TaskEnd, print_results
from receiver.cli.job_file import BATCH_CLOSE_REASON, Job
from receiver.cli.open_batches import open_batches_note
from receiver.cli.options import ClientOptions
from receiver.cli.watch_table import format_duration
from receiver.client import Client, Event
from receiver.client.models import FINAL_STATES
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, ReceiverError, RequestFailed
from receiver.domain.listed_state import ListedState
from receiver.domain.model import TaskState

_MAX_CONCURRENT = 16
_NOTICE_COUNT = 10
_MAX_CHECKED = 20  # batches that may be open
_END_EVENTS = ("task.succeed", "task.failed", "task.rejected", "task.expired")

ShowProgress: TypeAlias = Callable[[int, str], None]
"""Shows the number of finished items and a short note."""


class IncompleteSubmit(ReceiverError):
    """Not all jobs were submitted."""

    code = "not_all_handed_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """How to submit many jobs. ``run`` is the name of a new run, which ``submit --new`` resumes by its key."""

    output: ClientOptions
    wait: bool = False
    batches: Sequence[str] = ()
    close_batches: bool = False
    run: str = ""

    @property
    def resume_hint(self) -> str:
        """How to resume after an interruption."""
        if self.run:
            return f"To resume, run the same command with --new --idempotency-key {self.run}."
        return "Run the same command again to resume."


def submit_all(jobs: Sequence[Job], options: BulkOptions) -> int:
    """Submit all jobs, then close the batches and optionally wait for the tasks. Return the exit code.

    Raises IncompleteSubmit if an error stops it.
    """
    progress = BulkProgress(total=len(jobs))
    try:
        asyncio.run(_run(jobs, progress, options))
    except KeyboardInterrupt:
        _print_results(jobs, progress, options)
        render.notice(f"{progress.summary()} {progress.continuing()}{options.resume_hint}")
        return INTERRUPTED
    except ReceiverError as exc:
        _print_results(jobs, progress, options)
        hint = _error_hint(exc, progress, options)
        raise IncompleteSubmit(
            f"{exc.message} {progress.summary()}", remedy=f"{exc.remedy or ''} {hint}".strip()
        ) from exc
    _print_results(jobs, progress, options)
    if not options.wait:
        rejected = [
            task for task in progress.tasks.values() if task.state in (ListedState.REJECTED, ListedState.CANCELLED)
        ]
        return FAILED if rejected else OK
    done = progress.finished
    render.notice(f"{done[TaskState.SUCCEED]} succeeded, {_count_unsuccessful(done)} did not.")
    return FAILED if _count_unsuccessful(done) else OK


def _error_hint(error: ReceiverError, progress: BulkProgress, options: BulkOptions) -> str:
    """Return how to resume after an error, or an empty string if the same command would only repeat the error."""
    if not _is_repeated(error):
        return options.resume_hint
    # Some jobs may be submitted: without the same keys they would be submitted and paid for twice.
    return f"Correct the cause first. {options.resume_hint}" if progress.accepted or options.run else ""


def _is_repeated(error: ReceiverError) -> bool:
    """Return whether the service refuses the same request each time: any 4xx except 429."""
    if isinstance(error, RequestFailed):
        status = error.status or 0
        is_client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        return is_client_error and status != HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(error, (InvalidRequest, NotFound, Conflict))


def _print_results(jobs: Sequence[Job], progress: BulkProgress, options: BulkOptions) -> None:
    """Print the submitted jobs in the order of the file: JSON lines, or after waiting a table."""
    if options.output.json or options.wait:
        print_results([(job.line, progress.task(job)) for job in jobs if job.line in progress.by_line], options.output)


async def _run(jobs: Sequence[Job], progress: BulkProgress, options: BulkOptions) -> None:
    async with options.output.connect_async() as client:
        listener = asyncio.create_task(_record_ends(client, progress)) if options.wait else None
        try:
            if listener is not None:
                await client.tasks(limit=1)  # lets the listener connect before the first task can finish
            with _progress_display("jobs", len(jobs)) as show:
                print_ids = not (options.wait or options.output.json or render.is_terminal())
                await _submit_jobs(client, jobs, progress, show, print_ids=print_ids)
            render.notice(progress.summary())
            await _close_batches(client, options)
            if listener is not None:
                with _progress_display("finished", len(progress.tasks)) as show:
                    await _wait_until_finished(client, progress, listener, show)
                await _fetch_results(client, progress)
        finally:
            if listener is not None:
                listener.cancel()
                with suppress(asyncio.CancelledError, ReceiverError):
                    await listener


async def _close_batches(client: Client, options: BulkOptions) -> None:
    """Close the batches of the jobs, or print how to close those that stay open."""
    if options.close_batches:
        for name in options.batches:
            await client.close_batch(name, why=BATCH_CLOSE_REASON)
    elif note := open_batches_note([await client.batch(name) for name in options.batches[:_MAX_CHECKED]]):
        render.notice(note)


async def _fetch_results(client: Client, progress: BulkProgress) -> None:
    """Replace the tasks by their last state, with results. Waits for files that are still being archived."""
    for task in await client.details(list(progress.tasks.values())):
        progress.tasks[task.id] = await client.wait(task.id) if task.is_archiving else task


async def _submit_jobs(
    client: Client, jobs: Sequence[Job], progress: BulkProgress, show: ShowProgress, *, print_ids: bool
) -> None:
    remaining = iter(jobs)  # shared by the workers

    async def work() -> None:
        for job in remaining:
            task = await client.submit(
                job.endpoint.path,
                job.body_with_images(),
                label=job.label,
                tags=job.tags,
                batch=job.batch,
                priority=job.priority,
                idempotency_key=job.key,
                reuse=job.reuse,
                reply=job.reply,
                wait=False,
            )
            progress.record(job, task)
            if print_ids:
                render.print_line(task.id)
            show(progress.accepted, progress.counts())

    workers = [asyncio.create_task(work()) for _ in range(min(_MAX_CONCURRENT, len(jobs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _record_ends(client: Client, progress: BulkProgress) -> None:
    """Record the final state of every task, including tasks that this command did not submit."""

    def record(event: Event) -> None:
        task = event.data.get("task") or {}
        if event.type in _END_EVENTS and "id" in task:
            end = TaskEnd(state=event.type.removeprefix("task."), message=event.data.get("message") or "")
            progress.ends[task["id"]] = end

    async for event in client.events(types=_END_EVENTS):
        record(event)


async def _wait_until_finished(
    client: Client, progress: BulkProgress, listener: "asyncio.Task[None]", show: ShowProgress
) -> None:
    started_at, finished_before = perf_counter(), progress.finished.total()
    await _refresh_existing(client, progress)
    while (done := progress.finished).total() < len(progress.tasks):
        if listener.done():
            listener.result()
        seconds, left = perf_counter() - started_at, len(progress.tasks) - done.total()
        rate = (done.total() - finished_before) / seconds if seconds else 0.0
        time_left = f", {format_duration(left / rate)} left" if rate else ""
        show(
            done.total(),
            f"{done[TaskState.SUCCEED]} succeeded, {_count_unsuccessful(done)} did not, {left} remaining{time_left}",
        )
        await asyncio.sleep(0.5)
    show(done.total(), "")


async def _refresh_existing(client: Client, progress: BulkProgress) -> None:
    """Query tasks that existed before: they may have finished before the listener connected."""
    for task_id, task in list(progress.tasks.items()):
        if task.raw.get("existing") and progress.state(task_id) not in FINAL_STATES:
            progress.tasks[task_id] = await client.task(task_id)


def _count_unsuccessful(finished: Counter[str]) -> int:
    return finished.total() - finished[TaskState.SUCCEED]


@contextmanager
def _progress_display(label: str, total: int) -> Iterator[ShowProgress]:
    """Show a progress bar on a terminal; in a pipe, print a line for each 10 %."""
    if not render.is_terminal(sys.stderr):
        printed = 0

        def print_progress(done: int, more: str) -> None:
            nonlocal printed
            if done * _NOTICE_COUNT // total > printed:
                printed = done * _NOTICE_COUNT // total
                render.notice(f"{done}/{total} {label}" + (f": {more}" if more else ""))

        yield print_progress
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    label_column, note = TextColumn(label, markup=False), TextColumn("{task.description}", markup=False)
    columns = (label_column, BarColumn(), MofNCompleteColumn(), note)
    with Bar(*columns, console=render.console(sys.stderr), transient=True) as bar:
        shown = bar.add_task("", total=total)

        def move(done: int, more: str) -> None:
            bar.update(shown, completed=done, description=more)

        yield move
