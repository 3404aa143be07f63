"""Hands many jobs in, each under its key, so that what is broken off can be begun again and nothing is asked twice."""

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
"""Shows that so many are done, and a few words about it."""

COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.column("label", rank=2),
    render.column("message"),
)


class IncompleteSubmit(ReceiverError):
    """Many jobs that were not all taken."""

    code = "not_all_handed_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended, and why."""

    state: str
    message: str


@dataclass(slots=True)
class BulkProgress:
    """What has been taken so far: how many were there already, and how each task stands."""

    total: int
    accepted: int = 0
    existing: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    ends: dict[str, TaskEnd] = field(default_factory=dict)  # by the task's id, also of those not heard of yet

    def record(self, task: Task) -> None:
        """Note a job that was taken."""
        self.accepted += 1
        self.existing += bool(task.raw.get("existing"))
        self.tasks[task.id] = task

    def state(self, task_id: str) -> str:
        """Tell how a task stands by the last that was heard of it."""
        return self.end(task_id).state

    def end(self, task_id: str) -> TaskEnd:
        """Tell the last that was heard of a task, and why it is so."""
        task = self.tasks[task_id]
        return self.ends.get(task_id) or TaskEnd(state=task.state, message=task.message)

    @property
    def finished(self) -> Counter[str]:
        """The ends of those that are over."""
        return Counter(state for state in map(self.state, self.tasks) if state in FINAL_STATES)

    def summary(self) -> str:
        """Say how many were taken."""
        there = f", {self.existing} of them were there already" if self.existing else ""
        return f"{self.accepted} of {self.total} jobs handed in{there}."


def submit_all(
    jobs: Sequence[Job], *, config: Path | None, close_batches: Sequence[str] = (), wait: bool, as_json: bool
) -> int:
    """Hand jobs in, *close* these batches then, and wait for the jobs' ends if asked to; give the exit code.

    Raises NotAllHandedIn where it came to a stop.
    """
    handed = BulkProgress(total=len(jobs))
    try:
        asyncio.run(_run(jobs, handed, config=config, close_batches=close_batches, wait=wait, as_json=as_json))
    except KeyboardInterrupt:
        render.notice(f"{handed.summary()} {_RESUME_HINT}")
        return INTERRUPTED
    except ReceiverError as exc:
        raise IncompleteSubmit(
            f"{exc.message} {handed.summary()}", remedy=f"{exc.remedy or ''} {_RESUME_HINT}".strip()
        ) from exc
    if not wait:
        rejected = [task for task in handed.tasks.values() if task.state == TaskState.REJECTED]
        return FAILED if rejected else OK
    return _report_ends(handed)


_RESUME_HINT = "The same command again goes on where this ended."


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
        listening = asyncio.create_task(_record_ends(client, progress)) if wait else None
        try:
            if listening is not None:
                await client.tasks(limit=1)  # so that the listener is there before the first job is over
            with _progress_display("handed in", len(jobs)) as show:
                await _submit_jobs(client, jobs, progress, show, as_json=as_json)
            render.notice(progress.summary())
            for name in close_batches:
                await client.close_batch(name, why=BATCH_CLOSE_REASON)
            if listening is not None:
                with _progress_display("over", len(progress.tasks)) as show:
                    await _wait_until_finished(client, progress, listening, show)
        finally:
            if listening is not None:
                listening.cancel()
                with suppress(asyncio.CancelledError, ReceiverError):
                    await listening


async def _submit_jobs(
    client: Client, jobs: Sequence[Job], progress: BulkProgress, show: ShowProgress, *, as_json: bool
) -> None:
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            task = await client.submit(
                job.endpoint.path,
                job.body_with_images(),
                label=job.label,
                tags=job.tags,
                batch=job.batch,
                priority=job.priority,
                idempotency_key=job.key,
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
    """Take down the end of every task there is, ours or not."""

    def hear(event: Event) -> None:
        task = event.data.get("task") or {}
        if event.type in _END_EVENTS and "id" in task:
            end = TaskEnd(state=event.type.removeprefix("task."), message=event.data.get("message") or "")
            progress.ends[task["id"]] = end

    async for event in client.events(types=_END_EVENTS):
        hear(event)


async def _wait_until_finished(
    client: Client, progress: BulkProgress, listener: "asyncio.Task[None]", show: ShowProgress
) -> None:
    began, had = perf_counter(), progress.finished.total()
    await _refresh_existing(client, progress)
    while (done := progress.finished).total() < len(progress.tasks):
        if listener.done():
            listener.result()
        seconds, left = perf_counter() - began, len(progress.tasks) - done.total()
        rate = (done.total() - had) / seconds if seconds else 0.0
        time_left = f", {format_duration(left / rate)} left" if rate else ""
        show(
            done.total(),
            f"{done[TaskState.SUCCEED]} succeed, {_count_unsuccessful(done)} failed, {left} to come{time_left}",
        )
        await asyncio.sleep(0.5)
    show(done.total(), "")


async def _refresh_existing(client: Client, progress: BulkProgress) -> None:
    """Ask about those that may have ended before anybody listened: what was there already when it was handed in."""
    for task_id, task in list(progress.tasks.items()):
        if task.raw.get("existing") and progress.state(task_id) not in FINAL_STATES:
            progress.tasks[task_id] = await client.task(task_id)


def _report_ends(progress: BulkProgress) -> int:
    done = progress.finished
    render.notice(f"{done[TaskState.SUCCEED]} succeeded, {_count_unsuccessful(done)} did not.")
    ends = ((task, progress.end(task.id)) for task in progress.tasks.values())
    bad = [
        task.raw | {"state": end.state, "message": end.message or NO_REASON}
        for task, end in ends
        if end.state != TaskState.SUCCEED
    ]
    if bad:
        render.table(COLUMNS, bad, empty="")
    return FAILED if bad else OK


def _count_unsuccessful(finished: Counter[str]) -> int:
    return finished.total() - finished[TaskState.SUCCEED]


@contextmanager
def _progress_display(label: str, total: int) -> Iterator[ShowProgress]:
    """Show a bar on a terminal, and a line for each tenth in a pipe."""
    if not render.is_terminal(sys.stderr):
        told = 0

        def note(done: int, more: str) -> None:
            nonlocal told
            if done * _NOTICE_COUNT // total > told:
                told = done * _NOTICE_COUNT // total
                render.notice(f"{done}/{total} {label}" + (f": {more}" if more else ""))

        yield note
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, TimeRemainingColumn(), console=render.console(sys.stderr), transient=True) as bar:
        shown = bar.add_task("", total=total)

        def move(done: int, more: str) -> None:
            bar.update(shown, completed=done, description=more)

        yield move
