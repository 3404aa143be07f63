"""The live table of `tasks watch`: task counts, throughput, time left, and the newest tasks."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from time import perf_counter

from receiver.cli import render
from receiver.client import SyncClient, Task
from receiver.client.models import FINAL_STATES
from receiver.client.outage_timer import is_transient
from receiver.domain.errors import NotFound, ReceiverError

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
    """The tasks to show at one time, those that changed since the last snapshot, and a summary of all tasks."""

    tasks: Sequence[Task]
    changed: Sequence[Task]
    summary: str


def task_snapshots(client: SyncClient, task_filter: TaskFilter) -> Generator[TaskSnapshot, None, None]:
    """Yield the tasks now and after each change, without end. During an outage, yield how long it has lasted."""
    watched = _Watched(client, task_filter)
    down_since: float | None = None
    with closing(client.changes()) as changes:
        for _ in changes:
            try:
                yield watched.look()
                down_since = None
            except ReceiverError as exc:
                if not is_transient(exc) or not watched.has_looked:
                    raise
                down_since = perf_counter() if down_since is None else down_since
                yield watched.during_outage(exc, perf_counter() - down_since)


class _Watched:
    """The watched tasks: the running ones first, then the newest others."""

    def __init__(self, client: SyncClient, task_filter: TaskFilter) -> None:
        self._client = client
        self._filter = task_filter
        self._known: dict[str, Task] = {}
        self._started_at = perf_counter()
        self._finished_before: int | None = None

    @property
    def has_looked(self) -> bool:
        """Whether the service has answered once."""
        return self._finished_before is not None

    def look(self) -> TaskSnapshot:
        """Return the tasks as they are now."""
        counts = self._client.counts(tags=self._filter.tags, batch=self._filter.batch)
        running = self._list(_RUNNING) if any(counts.get(state) for state in _RUNNING) else ()
        found = {task.id: task for task in [*running, *self._list(())]}
        changed = [
            task
            for task in [*self._ended(found), *reversed(found.values())]
            if (before := self._known.get(task.id)) is None or before.state != task.state
        ]
        finished = _finished_count(counts)
        if self._finished_before is None:
            self._finished_before = finished
        newly_done = finished - self._finished_before
        self._known = found
        text = summary(counts, newly_done=newly_done, seconds=perf_counter() - self._started_at)
        return TaskSnapshot(tasks=list(found.values())[: self._filter.limit], changed=changed, summary=text)

    def _ended(self, found: Mapping[str, Task]) -> Iterator[Task]:
        """Yield the tasks that were running and are among neither the running nor the newest ones any more."""
        for id_, task in self._known.items():
            if task.state in _RUNNING and id_ not in found:
                with suppress(NotFound):
                    yield self._client.task(id_)

    def during_outage(self, error: ReceiverError, seconds: float) -> TaskSnapshot:
        """Return the tasks as they were before an outage."""
        text = f"Not current: {error.message} Trying again since {format_duration(seconds)}."
        return TaskSnapshot(tasks=list(self._known.values())[: self._filter.limit], changed=(), summary=text)

    def _list(self, states: Sequence[str]) -> Sequence[Task]:
        return self._client.tasks(
            state=states, limit=self._filter.limit, tags=self._filter.tags, batch=self._filter.batch
        ).items


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
