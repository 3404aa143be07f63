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
from receiver.cli.job_file import ALL_IN, Job
from receiver.cli.task_table import duration
from receiver.cli.task_wait import NO_REASON
from receiver.client import Client, Event, Task
from receiver.client.models import OVER
from receiver.domain.errors import ReceiverError
from receiver.domain.model import TaskState

INTERRUPTED = 130

_AT_ONCE = 16
_NOTES = 10
_ENDS = ("task.succeed", "task.failed", "task.rejected", "task.expired")

Progress: TypeAlias = Callable[[int, str], None]
"""Shows that so many are done, and a few words about it."""

COLUMNS = (render.identity("id", "id"), render.state("state"), render.key("label", rank=2), render.key("message"))


class NotAllHandedIn(ReceiverError):
    """Many jobs that were not all taken."""

    code = "not_all_handed_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a task ended, and why."""

    state: str
    message: str


@dataclass(slots=True)
class Handed:
    """What has been taken so far: how many were there already, and how each task stands."""

    total: int
    taken: int = 0
    known: int = 0
    tasks: dict[str, Task] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)  # by the task's id, also of those not heard of yet

    def take(self, task: Task) -> None:
        """Note a job that was taken."""
        self.taken += 1
        self.known += bool(task.raw.get("existing"))
        self.tasks[task.id] = task

    def state(self, task_id: str) -> str:
        """Tell how a task stands by the last that was heard of it."""
        return self.end(task_id).state

    def end(self, task_id: str) -> End:
        """Tell the last that was heard of a task, and why it is so."""
        task = self.tasks[task_id]
        return self.ends.get(task_id) or End(state=task.state, message=task.message)

    @property
    def over(self) -> Counter[str]:
        """The ends of those that are over."""
        return Counter(state for state in map(self.state, self.tasks) if state in OVER)

    def told(self) -> str:
        """Say how many were taken."""
        there = f", {self.known} of them were there already" if self.known else ""
        return f"{self.taken} of {self.total} jobs handed in{there}."


def hand_in(jobs: Sequence[Job], *, config: Path | None, close: Sequence[str] = (), wait: bool, as_json: bool) -> int:
    """Hand jobs in, *close* these batches then, and wait for the jobs' ends if asked to; give the exit code.

    Raises NotAllHandedIn where it came to a stop.
    """
    handed = Handed(total=len(jobs))
    try:
        asyncio.run(_all(jobs, handed, config=config, close=close, wait=wait, as_json=as_json))
    except KeyboardInterrupt:
        render.note(f"{handed.told()} {_GO_ON}")
        return INTERRUPTED
    except ReceiverError as exc:
        raise NotAllHandedIn(f"{exc.message} {handed.told()}", remedy=f"{exc.remedy or ''} {_GO_ON}".strip()) from exc
    if not wait:
        rejected = [task for task in handed.tasks.values() if task.state == TaskState.REJECTED]
        return FAILED if rejected else OK
    return _judged(handed)


_GO_ON = "The same command again goes on where this ended."


async def _all(
    jobs: Sequence[Job], handed: Handed, *, config: Path | None, close: Sequence[str], wait: bool, as_json: bool
) -> None:
    async with Client(config=config) as client:
        listening = asyncio.create_task(_listen(client, handed)) if wait else None
        try:
            if listening is not None:
                await client.tasks(limit=1)  # so that the listener is there before the first job is over
            with _progress("handed in", len(jobs)) as show:
                await _hand_in(client, jobs, handed, show, as_json=as_json)
            render.note(handed.told())
            for name in close:
                await client.close_batch(name, why=ALL_IN)
            if listening is not None:
                with _progress("over", len(handed.tasks)) as show:
                    await _until_over(client, handed, listening, show)
        finally:
            if listening is not None:
                listening.cancel()
                with suppress(asyncio.CancelledError, ReceiverError):
                    await listening


async def _hand_in(client: Client, jobs: Sequence[Job], handed: Handed, show: Progress, *, as_json: bool) -> None:
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            task = await client.submit(
                job.endpoint.path,
                job.filled(),
                label=job.label,
                tags=job.tags,
                batch=job.batch,
                priority=job.priority,
                idempotency_key=job.key,
                wait=False,
            )
            handed.take(task)
            if as_json:
                render.as_json_line(task.raw)
            elif not render.is_terminal():
                render.line(task.id)
            show(handed.taken, "")

    workers = [asyncio.create_task(work()) for _ in range(min(_AT_ONCE, len(jobs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _listen(client: Client, handed: Handed) -> None:
    """Take down the end of every task there is, ours or not."""

    def hear(event: Event) -> None:
        task = event.data.get("task") or {}
        if event.type in _ENDS and "id" in task:
            end = End(state=event.type.removeprefix("task."), message=event.data.get("message") or "")
            handed.ends[task["id"]] = end

    async for event in client.events(types=_ENDS):
        hear(event)


async def _until_over(client: Client, handed: Handed, listening: "asyncio.Task[None]", show: Progress) -> None:
    began, had = perf_counter(), handed.over.total()
    await _look(client, handed)
    while (done := handed.over).total() < len(handed.tasks):
        if listening.done():
            listening.result()
        seconds, left = perf_counter() - began, len(handed.tasks) - done.total()
        rate = (done.total() - had) / seconds if seconds else 0.0
        time_left = f", {duration(left / rate)} left" if rate else ""
        show(done.total(), f"{done[TaskState.SUCCEED]} succeed, {_others(done)} failed, {left} to come{time_left}")
        await asyncio.sleep(0.5)
    show(done.total(), "")


async def _look(client: Client, handed: Handed) -> None:
    """Ask about those that may have ended before anybody listened: what was there already when it was handed in."""
    for task_id, task in list(handed.tasks.items()):
        if task.raw.get("existing") and handed.state(task_id) not in OVER:
            handed.tasks[task_id] = await client.task(task_id)


def _judged(handed: Handed) -> int:
    done = handed.over
    render.note(f"{done[TaskState.SUCCEED]} succeeded, {_others(done)} did not.")
    ends = ((task, handed.end(task.id)) for task in handed.tasks.values())
    bad = [
        task.raw | {"state": end.state, "message": end.message or NO_REASON}
        for task, end in ends
        if end.state != TaskState.SUCCEED
    ]
    if bad:
        render.table(COLUMNS, bad, empty="")
    return FAILED if bad else OK


def _others(done: Counter[str]) -> int:
    return done.total() - done[TaskState.SUCCEED]


@contextmanager
def _progress(what: str, total: int) -> Iterator[Progress]:
    """Show a bar on a terminal, and a line for each tenth in a pipe."""
    if not render.is_terminal(sys.stderr):
        told = 0

        def note(done: int, more: str) -> None:
            nonlocal told
            if done * _NOTES // total > told:
                told = done * _NOTES // total
                render.note(f"{done}/{total} {what}" + (f": {more}" if more else ""))

        yield note
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, TimeRemainingColumn(), console=render.console(sys.stderr), transient=True) as bar:
        shown = bar.add_task("", total=total)

        def move(done: int, more: str) -> None:
            bar.update(shown, completed=done, description=more)

        yield move
