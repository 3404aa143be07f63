"""The live table of `tasks watch`: how many run, wait and are done, how quickly, and the newest of them."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from receiver.cli import render
from receiver.client import SyncClient, Task
from receiver.client.models import FINAL_STATES

_RUNNING = ("submitting", "submitted", "processing")
_WAITING = ("awaiting", "queued")
_NOTICE_INTERVAL = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks are watched, and how many of the newest are shown."""

    tags: Mapping[str, str]
    batch: str | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """The newest tasks at a moment, those among them that changed since the one before, and how it goes with all."""

    tasks: Sequence[Task]
    changed: Sequence[Task]
    summary: str


def task_snapshots(client: SyncClient, task_filter: TaskFilter) -> Generator[TaskSnapshot, None, None]:
    """Give the newest tasks now and each time one of them changes, without end."""
    known: dict[str, str] = {}
    began, had = perf_counter(), None
    with closing(client.changes()) as rings:
        for _ in rings:
            tasks = client.tasks(limit=task_filter.limit, tags=task_filter.tags, batch=task_filter.batch).items
            counts = client.counts(tags=task_filter.tags, batch=task_filter.batch)
            had = _finished_count(counts) if had is None else had
            changed = [task for task in reversed(tasks) if known.get(task.id) != task.state]
            said = summary(counts, newly_done=_finished_count(counts) - had, seconds=perf_counter() - began)
            yield TaskSnapshot(tasks=tasks, changed=changed, summary=said)
            known = {task.id: task.state for task in tasks}


def summary(counts: Mapping[str, int], *, newly_done: int, seconds: float) -> str:
    """Say how many tasks run, wait and are done; by what was *newly_done* in so many *seconds*, how long it takes."""
    running, waiting = (sum(counts.get(state, 0) for state in states) for states in (_RUNNING, _WAITING))
    said = f"{running} running, {waiting} waiting, {_finished_count(counts)} done"
    if newly_done <= 0 or seconds <= 0:
        return said
    said += f", {60 * newly_done / seconds:.3g} a minute"
    left = counts.get("queued", 0) + running
    return said + (f", {format_duration(left * seconds / newly_done)} left" if left else "")


def format_duration(seconds: float) -> str:
    """Write how long something takes, as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def with_notices(snapshots: Iterator[TaskSnapshot]) -> Iterator[TaskSnapshot]:
    """Pass sightings on, and tell beside the output proper how it goes with all."""
    told: tuple[float, str] = (0.0, "")
    for sighting in snapshots:
        now = perf_counter()
        if sighting.summary != told[1] and now - told[0] >= _NOTICE_INTERVAL:
            told = now, sighting.summary
            render.notice(sighting.summary)
        yield sighting


def show_live(snapshots: Iterator[TaskSnapshot], columns: Sequence[render.Column]) -> None:
    """Show a table that keeps itself up to date: running first, then waiting, then done."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    terminal = render.console()
    with Live(console=terminal, auto_refresh=False, vertical_overflow="crop") as screen:
        for sighting in snapshots:
            ranked = sorted(sighting.tasks, key=_sort_rank)
            head = Text(sighting.summary, style="dim")
            laid = render.layout(columns, [task.raw for task in ranked], terminal.width)
            screen.update(Group(head, laid.grid), refresh=True)


def _finished_count(counts: Mapping[str, int]) -> int:
    return sum(count for state, count in counts.items() if state in FINAL_STATES)


def _sort_rank(task: Task) -> int:
    if task.state in _RUNNING:
        return 0
    return 2 if task.state in FINAL_STATES else 1
