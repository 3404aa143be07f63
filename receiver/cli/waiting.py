"""What `submit --wait` and `tasks wait` show while a task runs, and how they end."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from time import perf_counter

from receiver.cli import FAILED, OK, render
from receiver.cli.connection import Connection
from receiver.cli.follow import OVER, awaits_files, follow
from receiver.errors import ReceiverError
from receiver.model import Json, TaskState


class TaskNotSucceeded(ReceiverError):
    """A task that was waited for, and ended otherwise or not yet."""

    code = "task_not_succeeded"


def wait(connection: Connection, ref: str, *, timeout: timedelta | None, as_json: bool) -> int:
    """Wait until a task is over, and print its results.

    Progress goes to stderr, so that stdout holds the results alone: a moving line for a person, plain lines
    for a log.
    """
    started = perf_counter()
    sightings = follow(connection, ref, timeout=timeout)
    task = _watch(sightings) if render.is_terminal(sys.stderr) else _report(sightings, started)
    if as_json:
        render.as_json(task)
        return OK if task["state"] == TaskState.SUCCEED else FAILED
    if task["state"] != TaskState.SUCCEED:
        raise disappointment(task, perf_counter() - started)
    for place in places(task):
        render.line(place)
    return OK


def places(task: Json) -> list[str]:
    """Tell where a task's results are: the files brought home, and Kling's URLs of what was not."""
    home = {asset.get("url"): asset.get("path") for asset in task.get("assets") or ()}
    result = task.get("result") or {}
    urls = [entry["url"] for entries in result.values() for entry in entries if entry.get("url")]
    return list(dict.fromkeys(str(home.get(url) or url) for url in [*urls, *home]))


def _watch(sightings: Iterator[Json]) -> Json:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.fields[id]}"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        task = next(sightings)
        shown = progress.add_task(_word(task), id=task["id"], total=None)
        for task in sightings:
            progress.update(shown, description=_word(task))
    return task


def _report(sightings: Iterator[Json], started: float) -> Json:
    for task in sightings:
        render.note(f"{task['id']}  {perf_counter() - started:.1f} s  {_word(task)}")
    return task


def _word(task: Json) -> str:
    if awaits_files(task):
        return f"{task['state']}, bringing its results home"
    return render.clean(task["state"]) + (f" ({render.clean(task['message'])})" if task.get("message") else "")


def disappointment(task: Json, seconds: float) -> TaskNotSucceeded:
    """Say how a task is that has not succeeded after so many seconds, and what can be done."""
    if task["state"] not in OVER:
        return TaskNotSucceeded(
            f"Task {task['id']} is still {task['state']} after {seconds:.0f} s.",
            remedy=f"It goes on by itself; wait again with `kling-receiver tasks wait {task['id']}`.",
        )
    reason = render.clean(task.get("message") or "Kling gave no reason").rstrip(".")
    return TaskNotSucceeded(f"Task {task['id']} {_ENDINGS[task['state']]}: {reason}.")


_ENDINGS = {
    TaskState.FAILED: "failed",
    TaskState.REJECTED: "was rejected",
    TaskState.EXPIRED: "has expired",
}
