"""Waiting for a task in `submit --wait` and `tasks wait`: the progress, the results, and the exit code."""

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from time import perf_counter

from receiver.cli import FAILED, INTERRUPTED, OK, render
from receiver.client import SyncClient, Task
from receiver.domain.errors import ReceiverError
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ArchiveState

_ASSET_ALERTS = ("alert.asset_lost", "alert.asset_expiring")
NO_REASON = "Kling gave no reason"


class TaskNotSucceeded(ReceiverError):
    """The task did not succeed, or is not finished yet."""

    code = "task_not_succeeded"


def wait(client: SyncClient, ref: str, *, timeout: timedelta | None, as_json: bool) -> int:
    """Wait until a task is finished, print its results, and return the exit code.

    Progress goes to stderr, so that stdout contains only the results. It is one live line on a terminal, else
    plain lines.
    """
    started_at = perf_counter()
    snapshots = client.follow(ref, timeout=timeout)
    try:
        task = _show_progress(snapshots) if render.is_terminal(sys.stderr) else _print_progress(snapshots, started_at)
    except KeyboardInterrupt:
        render.notice(f"Task {ref} continues. Wait again with `kling-receiver tasks wait {ref}`.")
        return INTERRUPTED
    if as_json:
        render.print_json(task.raw)
    elif not task.succeeded:
        raise not_succeeded_error(task, perf_counter() - started_at)
    else:
        for location in task.result_locations:
            render.print_line(location)
    if task.succeeded:
        _say_what_is_not_archived(client, task)
    return OK if task.succeeded else FAILED


def _say_what_is_not_archived(client: SyncClient, task: Task) -> None:
    """Print which results the archive does not have, and why, as its newest alert says."""
    archived = {asset["url"] for asset in task.assets}
    if not any(entry.get("url") not in archived for entries in task.result.values() for entry in entries):
        return
    is_tried = task.archiving in (ArchiveState.LATE, ArchiveState.EXPIRING)
    reasons = _reasons(client, task, archived)
    for url, reason in reasons.items():
        what = "is still tried" if is_tried else "was given up"
        render.notice(f"The download of {url.partition('?')[0]} {what}: {reason}")
    if is_tried and not reasons:
        render.notice(f"Some results are not archived yet. The reason: kling-receiver explain {task.id}")


def _reasons(client: SyncClient, task: Task, archived: set[str]) -> Mapping[str, str]:
    """Return why results are not archived, by URL, as the newest alert about the task says."""
    try:
        alerts = client.list_events(types=_ASSET_ALERTS, task=task.id, limit=1).items
    except ReceiverError:
        return {}  # the task itself has succeeded
    results = alerts[0].data.get("results") or () if alerts else ()
    return {each["url"]: each["reason"] for each in results if each["url"] not in archived}


def _show_progress(snapshots: Iterator[Task]) -> Task:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.fields[id]} {task.description}", markup=False)
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
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
        return f"{task.state}, archiving its results"
    return render.clean(task.state) + (f" ({render.clean(task.message)})" if task.message else "")


def not_succeeded_error(task: Task, seconds: float) -> TaskNotSucceeded:
    """Return the error for a task that has not succeeded after *seconds*."""
    if not task.is_finished:
        return TaskNotSucceeded(
            f"Task {task.id} is still {task.state} after {seconds:.0f} s.",
            remedy=f"The task continues; wait again with `kling-receiver tasks wait {task.id}`.",
        )
    reason = render.clean(task.message or NO_REASON).rstrip(".")
    return TaskNotSucceeded(f"Task {task.id} {_END_TEXT[ListedState(task.state)]}: {reason}.")


_END_TEXT = {
    ListedState.FAILED: "failed",
    ListedState.REJECTED: "was rejected",
    ListedState.CANCELLED: "was cancelled",
    ListedState.EXPIRED: "has expired",
}
