"""`kling-receiver batches`: tasks that finish with one common event."""

import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import FAILED, INTERRUPTED, OK, render
from receiver.cli.open_batches import open_batches_note
from receiver.cli.options import (
    CLIENT,
    PAGING,
    BatchName,
    ClientOptions,
    Paging,
    Reason,
    Timeout,
    duration,
    usage_errors,
)
from receiver.cli.value_kinds import BATCH_STATE, FOLDER
from receiver.client import Batch, BatchNotFinished, SyncClient, Task
from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json

batches = App(name="batches", help="List, show, wait for, close and export batches of tasks.")


class BatchNotSucceeded(ReceiverError):
    """The batch finished, but some of its tasks did not succeed."""

    code = "batch_not_succeeded"


def _counts_text(batch: Json) -> str:
    return ", ".join(f"{number} {state}" for state, number in (batch.get("counts") or {}).items())


def _size_text(batch: Json) -> str:
    unknown = "?" if batch["state"] == "open" else None  # a closed batch accepts no more tasks
    size = batch["size"] or unknown
    return f"{batch['tasks']} of {size}" if size else str(batch["tasks"])


_UNSUCCESSFUL = "--state failed --state rejected --state expired"
_TIME_FIELDS = ("created_at", "closed_at", "finished_at")

_COLUMNS = (
    render.id_column("name", "name"),
    render.state_column("state"),
    render.Column(title="tasks", value=_size_text),
    render.Column(title="states", value=_counts_text),
    render.time_column("created_at", "created"),
    render.time_column("finished_at", "finished"),
)


@batches.command(name="list")
def list_(
    *,
    state: Annotated[
        list[str] | None, BATCH_STATE, Parameter(help="Only open, closed or finished ones. May be repeated.")
    ] = None,
    paging: Paging = PAGING,
    output: ClientOptions = CLIENT,
) -> int:
    """List batches, newest first."""
    with usage_errors(), output.connect() as client:
        found = client.batches(state=state or (), limit=paging.size, cursor=paging.cursor)
    render.page(_COLUMNS, found.raw, as_json=output.json, empty="No batches.")
    return OK


@batches.command
def show(name: BatchName, /, *, output: ClientOptions = CLIENT) -> int:
    """Show one batch, with the number of its tasks in each state."""
    with output.connect() as client:
        batch = client.batch(name)
        if output.json:
            items = [task.raw for task in client.details(_tasks_of(client, name))]
            render.print_json(batch.raw | {"items": items})
            return OK
    return _print_batch(batch, output)


@batches.command
def export(
    name: BatchName,
    /,
    *,
    to: Annotated[Path, FOLDER, Parameter(help="Folder for the files and the manifest; created if it is missing.")],
    output: ClientOptions = CLIENT,
) -> int:
    """Write a batch's results into a folder, named by label, with manifest.csv and manifest.json."""
    from receiver.cli.export import export as export_tasks

    with output.connect() as client:
        client.batch(name)
        tasks = client.details(_tasks_of(client, name))
    return export_tasks(tasks, to, output)


def _tasks_of(client: SyncClient, name: str) -> list[Task]:
    """Return the tasks of a batch, oldest first."""
    from receiver.cli.cancel import TaskSelection, all_tasks

    selection = TaskSelection(endpoint=None, label=None, tags={}, batch=name)
    return all_tasks(client, selection, ())[::-1]


@batches.command
def close(
    name: BatchName,
    /,
    *,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Close a batch to new tasks; batch.finished follows when its tasks are finished."""
    with output.connect() as client:
        return _print_batch(client.close_batch(name, why=why), output)


@batches.command
def wait(
    name: BatchName,
    /,
    *,
    timeout: Timeout = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Wait until a batch is finished; exit 0 if all its tasks succeeded."""
    limit = duration("--timeout", timeout) if timeout else None
    with output.connect() as client:
        snapshots = _with_note(client.follow_batch(name, timeout=limit))
        try:
            batch = _show_progress(snapshots) if render.is_terminal(sys.stderr) else _print_progress(snapshots)
        except KeyboardInterrupt:
            render.notice(f"The tasks of batch {name} continue. Wait again with `kling-receiver batches wait {name}`.")
            return INTERRUPTED
    if output.json:
        render.print_json(batch.raw)
        return OK if batch.succeeded else FAILED
    if not batch.is_finished:
        raise BatchNotFinished(batch)
    if not batch.succeeded:
        raise BatchNotSucceeded(
            f"Batch {name} is finished: {batch.summary}.",
            remedy=f"List them: `kling-receiver tasks list --batch {name} {_UNSUCCESSFUL}`.",
        )
    render.print_line(f"Batch {name} is finished: {batch.summary}.")
    return OK


def _with_note(snapshots: Iterator[Batch]) -> Iterator[Batch]:
    """Return the snapshots. Print once that the batch is open although its tasks have ended: it waits to be closed."""
    is_noted = False
    for batch in snapshots:
        if not is_noted and batch.finished_count == batch.tasks and (note := open_batches_note([batch])):
            render.notice(note)
            is_noted = True
        yield batch


def _show_progress(snapshots: Iterator[Batch]) -> Batch:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        shown = progress.add_task("", total=None)
        for batch in snapshots:
            total = batch.size or batch.tasks
            progress.update(
                shown, description=f"{batch.name}: {batch.summary}", completed=batch.finished_count, total=total
            )
    return batch


def _print_progress(snapshots: Iterator[Batch]) -> Batch:
    started = perf_counter()
    for batch in snapshots:
        render.notice(f"{batch.name}  {perf_counter() - started:.1f} s  {batch.state}: {batch.summary}")
    return batch


def _print_batch(batch: Batch, output: ClientOptions) -> int:
    if output.json:
        render.print_json(batch.raw)
        return OK
    times = [(name.replace("_", " "), render.local_time(batch.raw.get(name))) for name in _TIME_FIELDS]
    fields = [("name", batch.name), ("state", batch.state), ("size", batch.size), ("tasks", batch.tasks)]
    render.details([*fields, *batch.counts.items(), *times, ("event", batch.event_id)])
    return OK
