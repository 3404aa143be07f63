"""`kling-receiver tasks cancel`: what waits to be sent, taken out of the line."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from receiver.cli import FAILED, OK, render
from receiver.cli.options import OutputOptions, UsageError, usage_errors
from receiver.client import SyncClient, Task
from receiver.domain.errors import Conflict
from receiver.domain.model import TaskState

_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSelection:
    """Which of the tasks that wait are meant; all that is given must hold."""

    endpoint: str | None
    label: str | None
    tags: Mapping[str, str]
    batch: str | None

    def __bool__(self) -> bool:
        return bool(self.endpoint or self.label or self.tags or self.batch)


def cancel(refs: Sequence[str], selection: TaskSelection, *, why: str, dry_run: bool, output: OutputOptions) -> int:
    """Cancel the tasks that are named, or all that are chosen and wait; 1 where one that is named cannot be."""
    if bool(refs) == bool(selection):
        raise UsageError(
            "Say which tasks, in one of two ways.",
            remedy="Name them, or choose among those that wait by --batch, --tag, --label or --endpoint.",
        )
    with usage_errors(), SyncClient(config=output.config) as client:
        found = [client.task(ref) for ref in refs] if refs else _queued_tasks(client, selection)
        if dry_run:
            waiting = [task for task in found if task.state == TaskState.QUEUED]
            render.notice(f"{_count_text(waiting)} would be cancelled.")
            return _print_tasks(waiting, output)
        cancelled, left = _cancel_each(client, found, why)
    code = _print_tasks(cancelled, output)
    too_late = (
        f" {_count_text(left)} had gone to Kling, or ended: {', '.join(task.id for task in left)}." if left else ""
    )
    render.notice(f"{_count_text(cancelled)} cancelled.{too_late}")
    return FAILED if refs and left else code


def _queued_tasks(client: SyncClient, selection: TaskSelection) -> list[Task]:
    """Find all that wait; all of it first, for the list changes as they are cancelled."""
    found: list[Task] = []
    cursor: str | None = None
    while True:
        page = client.tasks(
            state=TaskState.QUEUED,
            endpoint=selection.endpoint,
            label=selection.label,
            tags=selection.tags,
            batch=selection.batch,
            limit=_PAGE_SIZE,
            cursor=cursor,
        )
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


def _cancel_each(client: SyncClient, tasks: Sequence[Task], why: str) -> tuple[list[Task], list[Task]]:
    """Cancel tasks, the newest first: what goes out meanwhile is what was to go next. Give those that were too late."""
    from rich.progress import track

    cancelled: list[Task] = []
    left: list[Task] = []
    hidden = not render.is_terminal(sys.stderr)
    for task in track(tasks, "Cancelling", console=render.console(sys.stderr), transient=True, disable=hidden):
        try:
            cancelled.append(client.cancel(task.id, why=why))
        except Conflict:
            left.append(client.task(task.id))
    return cancelled, left


def _print_tasks(tasks: Sequence[Task], output: OutputOptions) -> int:
    from receiver.cli.tasks import COLUMNS

    items = [task.raw for task in tasks]
    if output.json:
        render.print_json({"items": items, "next": None})
    elif items:
        render.table(COLUMNS, items, empty="")
    return OK


def _count_text(tasks: Sequence[Task]) -> str:
    return f"{len(tasks)} task" if len(tasks) == 1 else f"{len(tasks)} tasks"
