"""Submits many jobs, each with its own idempotency key.

After an interruption the same command resumes, and no job is submitted twice.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from receiver.cli import FAILED, OK, render
from receiver.cli.job_file import BATCH_CLOSE_REASON, Job
from receiver.cli.task_table import format_duration
from receiver.cli.task_wait import NO_REASON
from receiver.client import Client, Event, Task
from receiver.client.models import FINAL_STATES
from receiver.domain.errors import ReceiverError
from receiver.domain.model import TaskState

INTERRUPTED = 130

_MAX_CONCURRENT = 16
_NOTICE_COUNT = 10
_END_EVENTS = ("task.succeed", "task.failed", "task.rejected", "task.expired")

ShowProgress: TypeAlias = Callable[[int, str], None]
"""Shows the number of finished items and a short note."""

COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.column("label", rank=2),
    render.column("message"),
)


class IncompleteSubmit(ReceiverError):
    """Not all jobs were submitted."""

    code = "not_all_handed_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended, and why."""

    state: str
    message: str


@dataclass(slots=True)
class BulkProgress:
    """The submitted jobs so far, how many of them existed before, and the state of each task."""

    total: int
    accepted: int = 0
    existing: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    ends: dict[str, TaskEnd] = field(default_factory=dict)  # by task id; may include tasks not submitted here

    def record(self, task: Task) -> None:
        """Record a submitted job."""
        self.accepted += 1
        self.existing += bool(task.raw.get("existing"))
        self.tasks[task.id] = task

    def state(self, task_id: str) -> str:
        """Return the latest known state of a task."""
        return self.end(task_id).state

    def end(self, task_id: str) -> TaskEnd:
        """Return the latest known state of a task, with its message."""
        task = self.tasks[task_id]
        return self.ends.get(task_id) or TaskEnd(state=task.state, message=task.message)

    @property
    def finished(self) -> Counter[str]:
        """The number of finished tasks in each final state."""
        return Counter(state for state in map(self.state, self.tasks) if state in FINAL_STATES)

    def summary(self) -> str:
        """Return a sentence with the number of submitted jobs."""
        existing = f", {self.existing} of them already existed" if self.existing else ""
        return f"{self.accepted} of {self.total} jobs submitted{existing}."


def submit_all(
    jobs: Sequence[Job], *, config: Path | None, close_batches: Sequence[str] = (), wait: bool, as_json: bool
) -> int:
    """Submit all jobs, then close these batches and optionally wait for the tasks. Return the exit code.

    Raises IncompleteSubmit if an error stops it.
    """
    progress = BulkProgress(total=len(jobs))
    try:
        asyncio.run(_run(jobs, progress, config=config, close_batches=close_batches, wait=wait, as_json=as_json))
    except KeyboardInterrupt:
        render.notice(f"{progress.summary()} {_RESUME_HINT}")
        return INTERRUPTED
    except ReceiverError as exc:
        raise IncompleteSubmit(
            f"{exc.message} {progress.summary()}", remedy=f"{exc.remedy or ''} {_RESUME_HINT}".strip()
        ) from exc
    if not wait:
        rejected = [task for task in progress.tasks.values() if task.state == TaskState.REJECTED]
        return FAILED if rejected else OK
    return _report_ends(progress)


_RESUME_HINT = "Run the same command again to resume."


async def _run(
    jobs: Sequence[Job],
    progress: BulkProgress,
    *,
    config: Path | None,
    close_batches: Sequence[str],
    wait: bool,
    as_json: bool,
) -> None:
    async with Client(config=config) as client:
        listener = asyncio.create_task(_record_ends(client, progress)) if wait else None
        try:
            if listener is not None:
                await client.tasks(limit=1)  # lets the listener connect before the first task can finish
            with _progress_display("submitted", len(jobs)) as show:
                await _submit_jobs(client, jobs, progress, show, as_json=as_json)
            render.notice(progress.summary())
            for name in close_batches:
                await client.close_batch(name, why=BATCH_CLOSE_REASON)
            if listener is not None:
                with _progress_display("finished", len(progress.tasks)) as show:
                    await _wait_until_finished(client, progress, listener, show)
        finally:
            if listener is not None:
                listener.cancel()
                with suppress(asyncio.CancelledError, ReceiverError):
                    await listener


async def _submit_jobs(
    client: Client, jobs: Sequence[Job], progress: BulkProgress, show: ShowProgress, *, as_json: bool
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
                wait=False,
            )
            progress.record(task)
            if as_json:
                render.print_json_line(task.raw)
            elif not render.is_terminal():
                render.print_line(task.id)
            show(progress.accepted, "")

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


def _report_ends(progress: BulkProgress) -> int:
    done = progress.finished
    render.notice(f"{done[TaskState.SUCCEED]} succeeded, {_count_unsuccessful(done)} did not.")
    ends = ((task, progress.end(task.id)) for task in progress.tasks.values())
    unsuccessful = [
        task.raw | {"state": end.state, "message": end.message or NO_REASON}
        for task, end in ends
        if end.state != TaskState.SUCCEED
    ]
    if unsuccessful:
        render.table(COLUMNS, unsuccessful, empty="")
    return FAILED if unsuccessful else OK


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
