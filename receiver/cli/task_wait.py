"""What `submit --wait` and `tasks wait` show while a task runs, and how they end."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from time import perf_counter

from receiver.cli import FAILED, OK, render
from receiver.client import SyncClient, Task
from receiver.domain.errors import ReceiverError
from receiver.domain.model import TaskState

NO_REASON = "Kling gave no reason"


class TaskNotSucceeded(ReceiverError):
    """A task that was waited for, and ended otherwise or not yet."""

    code = "task_not_succeeded"


def wait(client: SyncClient, ref: str, *, timeout: timedelta | None, as_json: bool) -> int:
    """Wait until a task is over, and print its results.

    Progress goes to stderr, so that stdout holds the results alone: a moving line for a person, plain lines
    for a log.
    """
    started = perf_counter()
    sightings = client.follow(ref, timeout=timeout)
    task = _show_progress(sightings) if render.is_terminal(sys.stderr) else _print_progress(sightings, started)
    if as_json:
        render.print_json(task.raw)
        return OK if task.succeeded else FAILED
    if not task.succeeded:
        raise failure_message(task, perf_counter() - started)
    for place in task.result_locations:
        render.print_line(place)
    return OK


def _show_progress(snapshots: Iterator[Task]) -> Task:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.fields[id]}"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        task = next(snapshots)
        shown = progress.add_task(_status_text(task), id=task.id, total=None)
        for task in snapshots:
            progress.update(shown, description=_status_text(task))
    return task


def _print_progress(snapshots: Iterator[Task], started_at: float) -> Task:
    for task in snapshots:
        render.notice(f"{task.id}  {perf_counter() - started_at:.1f} s  {_status_text(task)}")
    return task


def _status_text(task: Task) -> str:
    if task.is_archiving:
        return f"{task.state}, bringing its results home"
    return render.clean(task.state) + (f" ({render.clean(task.message)})" if task.message else "")


def failure_message(task: Task, seconds: float) -> TaskNotSucceeded:
    """Say how a task is that has not succeeded after so many seconds, and what can be done."""
    if not task.is_finished:
        return TaskNotSucceeded(
            f"Task {task.id} is still {task.state} after {seconds:.0f} s.",
            remedy=f"It goes on by itself; wait again with `kling-receiver tasks wait {task.id}`.",
        )
    reason = render.clean(task.message or NO_REASON).rstrip(".")
    return TaskNotSucceeded(f"Task {task.id} {_END_TEXT[TaskState(task.state)]}: {reason}.")


_END_TEXT = {
    TaskState.FAILED: "failed",
    TaskState.REJECTED: "was rejected",
    TaskState.EXPIRED: "has expired",
}
