"""The live table of `tasks watch`."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from receiver.cli import render
from receiver.cli.options import MOST
from receiver.client import SyncClient, Task
from receiver.client.told import OVER

_RUNNING = ("submitting", "submitted", "processing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The newest tasks at a moment, and those among them that changed since the one before."""

    tasks: Sequence[Task]
    changed: Sequence[Task]


def changes(client: SyncClient, *, limit: int) -> Generator[Sighting, None, None]:
    """Give the newest tasks now and each time one of them changes, without end."""
    known: dict[str, str] = {}
    with closing(client.rings()) as rings:
        for _ in rings:
            tasks = client.tasks(limit=max(1, min(limit, MOST))).items
            changed = [task for task in reversed(tasks) if known.get(task.id) != task.state]
            if changed or not known:
                yield Sighting(tasks=tasks, changed=changed)
            known = {task.id: task.state for task in tasks}


def live(sightings: Iterator[Sighting], columns: Sequence[render.Column]) -> None:
    """Show a table that keeps itself up to date: running first, then waiting, then done."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=render.console(), auto_refresh=False, vertical_overflow="crop") as screen:
        for sighting in sightings:
            ranked = sorted(sighting.tasks, key=_rank)
            counts = [sum(_rank(task) == rank for task in ranked) for rank in range(3)]
            head = Text("{} running, {} waiting, {} done".format(*counts), style="dim")
            screen.update(Group(head, render.grid(columns, [task.raw for task in ranked])), refresh=True)


def _rank(task: Task) -> int:
    if task.state in _RUNNING:
        return 0
    return 2 if task.state in OVER else 1
