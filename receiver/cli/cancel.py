"""`kling-receiver tasks cancel`: removes queued tasks before they are sent to Kling."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from receiver.cli import FAILED, OK, render
from receiver.cli.options import ClientOptions, UsageError, usage_errors
from receiver.cli.task_columns import TASK_COLUMNS
from receiver.client import SyncClient, Task
from receiver.domain.errors import Conflict
from receiver.domain.model import TaskState
from receiver.domain.quantity_text import counted

_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSelection:
    """Filters for tasks; a task must match all that are set."""

    endpoint: str | None
    label: str | None
    tags: Mapping[str, str]
    batch: str | None

    def __bool__(self) -> bool:
        return bool(self.endpoint or self.label or self.tags or self.batch)


def cancel(refs: Sequence[str], selection: TaskSelection, *, why: str, dry_run: bool, output: ClientOptions) -> int:
    """Cancel the named tasks, or all queued tasks of a selection. Return 1 if a named task cannot be cancelled."""
    if bool(refs) == bool(selection):
        raise UsageError(
            "Both task ids and a selection are given." if refs else "No tasks are selected.",
            remedy="Give either task ids, or --batch, --tag, --label or --endpoint to select queued tasks.",
        )
    with usage_errors(), output.connect() as client:
        tasks = [client.task(ref) for ref in refs] if refs else all_tasks(client, selection, [TaskState.QUEUED])
        if not tasks:
            return report_no_match(client, selection, "cancelled", output)
        if dry_run:
            queued = [task for task in tasks if task.state == TaskState.QUEUED]
            render.notice(f"{count_text(queued)} would be cancelled.")
            return print_tasks(queued, output)
        cancelled, too_late = _cancel_each(client, tasks, why)
    code = print_tasks(cancelled, output)
    names = ", ".join(task.id for task in too_late)
    note = f" {count_text(too_late)} already sent to Kling or finished: {names}." if too_late else ""
    render.notice(f"{count_text(cancelled)} cancelled.{note}")
    return FAILED if refs and too_late else code


def all_tasks(client: SyncClient, selection: TaskSelection, states: Sequence[str]) -> list[Task]:
    """Return all tasks of the selection in these states, read before the first change of the list."""
    tasks: list[Task] = []
    cursor: str | None = None
    while True:
        page = client.tasks(
            state=states,
            endpoint=selection.endpoint,
            label=selection.label,
            tags=selection.tags,
            batch=selection.batch,
            limit=_PAGE_SIZE,
            cursor=cursor,
        )
        tasks += page.items
        cursor = page.next
        if cursor is None:
            return tasks


def report_no_match(client: SyncClient, selection: TaskSelection, verb: str, output: ClientOptions) -> int:
    """Print that the selection has no task. Raises NotFound if its batch does not exist."""
    if selection.batch is not None:
        client.batch(selection.batch)
    render.notice(f"No task matches; nothing was {verb}.")
    return print_tasks((), output)


def _cancel_each(client: SyncClient, tasks: Sequence[Task], why: str) -> tuple[list[Task], list[Task]]:
    """Cancel tasks, newest first, because the oldest are sent next. Return those cancelled and those too late."""
    from rich.progress import track

    cancelled: list[Task] = []
    too_late: list[Task] = []
    hidden = not render.is_terminal(sys.stderr)
    for task in track(tasks, "Cancelling", console=render.console(sys.stderr), transient=True, disable=hidden):
        try:
            cancelled.append(client.cancel(task.id, why=why))
        except Conflict:
            too_late.append(client.task(task.id))
    return cancelled, too_late


def print_tasks(tasks: Sequence[Task], output: ClientOptions) -> int:
    """Print tasks as a table, or as a page of the API."""
    items = [task.raw for task in tasks]
    if output.json:
        render.print_json({"items": items, "next": None})
    elif items:
        render.table(TASK_COLUMNS, items, empty="")
    return OK


def count_text(tasks: Sequence[Task]) -> str:
    """Return the number of tasks as text."""
    return counted(len(tasks), "task")
