"""The live table of `tasks watch`: task counts, throughput, time left, and the newest tasks."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from receiver.cli import render
from receiver.client import SyncClient, Task
from receiver.client.models import FINAL_STATES

_RUNNING = ("submitting", "submitted", "processing")
_QUEUED = ("awaiting", "queued")
_NOTICE_INTERVAL = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Filters for the watched tasks, and the number of newest tasks to show."""

    tags: Mapping[str, str]
    batch: str | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """The newest tasks at one time, those that changed since the last snapshot, and a summary of all tasks."""

    tasks: Sequence[Task]
    changed: Sequence[Task]
    summary: str


def task_snapshots(client: SyncClient, task_filter: TaskFilter) -> Generator[TaskSnapshot, None, None]:
    """Yield the newest tasks now and after each change, without end."""
    known: dict[str, str] = {}
    started_at, finished_before = perf_counter(), None
    with closing(client.changes()) as changes:
        for _ in changes:
            tasks = client.tasks(limit=task_filter.limit, tags=task_filter.tags, batch=task_filter.batch).items
            counts = client.counts(tags=task_filter.tags, batch=task_filter.batch)
            finished = _finished_count(counts)
            finished_before = finished if finished_before is None else finished_before
            changed = [task for task in reversed(tasks) if known.get(task.id) != task.state]
            text = summary(counts, newly_done=finished - finished_before, seconds=perf_counter() - started_at)
            yield TaskSnapshot(tasks=tasks, changed=changed, summary=text)
            known = {task.id: task.state for task in tasks}


def summary(counts: Mapping[str, int], *, newly_done: int, seconds: float) -> str:
    """Return task counts as text, with throughput and time left if *newly_done* tasks finished in *seconds*."""
    running, waiting = (sum(counts.get(state, 0) for state in states) for states in (_RUNNING, _QUEUED))
    text = f"{running} running, {waiting} waiting, {_finished_count(counts)} done"
    if newly_done <= 0 or seconds <= 0:
        return text
    text += f", {60 * newly_done / seconds:.3g} a minute"
    left = counts.get("queued", 0) + running
    return text + (f", {format_duration(left * seconds / newly_done)} left" if left else "")


def format_duration(seconds: float) -> str:
    """Format a number of seconds in hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def with_notices(snapshots: Iterator[TaskSnapshot]) -> Iterator[TaskSnapshot]:
    """Yield the snapshots, and print changed summaries to stderr, at most one every 5 s."""
    printed: tuple[float, str] = (0.0, "")
    for snapshot in snapshots:
        now = perf_counter()
        if snapshot.summary != printed[1] and now - printed[0] >= _NOTICE_INTERVAL:
            printed = now, snapshot.summary
            render.notice(snapshot.summary)
        yield snapshot


def show_live(snapshots: Iterator[TaskSnapshot], columns: Sequence[render.Column]) -> None:
    """Show a live table: running tasks first, then queued, then finished ones."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    terminal = render.console()
    with Live(console=terminal, auto_refresh=False, vertical_overflow="crop") as screen:
        for snapshot in snapshots:
            ranked = sorted(snapshot.tasks, key=_sort_rank)
            head = Text(snapshot.summary, style="dim")
            table = render.layout(columns, [task.raw for task in ranked], terminal.width)
            screen.update(Group(head, table.grid), refresh=True)


def _finished_count(counts: Mapping[str, int]) -> int:
    return sum(count for state, count in counts.items() if state in FINAL_STATES)


def _sort_rank(task: Task) -> int:
    if task.state in _RUNNING:
        return 0
    return 2 if task.state in FINAL_STATES else 1
