"""`kling-receiver batches`: tasks that are told of together, and how they stand."""

import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.options import PAGING, READING, Paging, Reading, duration, typed
from receiver.client import Batch, BatchNotOver, SyncClient
from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json

BatchName: TypeAlias = Annotated[str, Parameter(help="The batch's name.")]

batches = App(name="batches", help="List, show, wait for and close batches of tasks.")


class BatchNotSucceeded(ReceiverError):
    """A batch that was waited for, and not all of whose tasks succeeded."""

    code = "batch_not_succeeded"


def _counts(batch: Json) -> str:
    return ", ".join(f"{number} {state}" for state, number in (batch.get("counts") or {}).items())


_OTHERWISE = "--state failed --state rejected --state expired"
_MOMENTS = ("created_at", "closed_at", "finished_at")

_COLUMNS = (
    render.identity("name", "name"),
    render.state("state"),
    render.Column(title="tasks", of=lambda batch: f"{batch['tasks']} of {batch['size'] or '?'}"),
    render.Column(title="they are", of=_counts),
    render.moment("created_at", "created"),
    render.moment("finished_at", "finished"),
)


@batches.command(name="list")
def list_(
    *,
    state: Annotated[list[str] | None, Parameter(help="open, closed or finished; many times for several.")] = None,
    paging: Paging = PAGING,
    reading: Reading = READING,
) -> int:
    """List batches, newest first."""
    with typed(), SyncClient(config=reading.config) as client:
        found = client.batches(state=state or (), limit=paging.size, cursor=paging.cursor)
    render.page(_COLUMNS, found.raw, as_json_too=reading.json, empty="No batches.")
    return OK


@batches.command
def show(name: BatchName, /, *, reading: Reading = READING) -> int:
    """Show one batch, and how many of its tasks are in which state."""
    with SyncClient(config=reading.config) as client:
        return _tell(client.batch(name), reading)


@batches.command
def close(
    name: BatchName,
    /,
    *,
    why: Annotated[str, Parameter(help="Why, for the record.")] = "",
    reading: Reading = READING,
) -> int:
    """Close a batch: it takes no more tasks, and batch.finished follows when those it has are over."""
    with SyncClient(config=reading.config) as client:
        return _tell(client.close_batch(name, why=why), reading)


@batches.command
def wait(
    name: BatchName,
    /,
    *,
    timeout: Annotated[str | None, Parameter(help="Stop waiting after so long: 90s, 10m, 2h.")] = None,
    reading: Reading = READING,
) -> int:
    """Wait until a batch is finished; ends with 0 if all its tasks succeeded."""
    limit = duration("--timeout", timeout) if timeout else None
    with SyncClient(config=reading.config) as client:
        sightings = client.follow_batch(name, timeout=limit)
        batch = _watch(sightings) if render.is_terminal(sys.stderr) else _report(sightings)
    if reading.json:
        render.as_json(batch.raw)
        return OK if batch.succeeded else FAILED
    if not batch.is_over:
        raise BatchNotOver(batch)
    if not batch.succeeded:
        raise BatchNotSucceeded(
            f"Batch {name} is finished: {batch.told}.",
            remedy=f"See which: kling-receiver tasks list --batch {name} {_OTHERWISE}",
        )
    render.line(f"Batch {name} is finished: {batch.told}.")
    return OK


def _watch(sightings: Iterator[Batch]) -> Batch:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        shown = progress.add_task("", total=None)
        for batch in sightings:
            total = batch.size or batch.tasks
            progress.update(shown, description=f"{batch.name}: {batch.told}", completed=batch.over, total=total)
    return batch


def _report(sightings: Iterator[Batch]) -> Batch:
    started = perf_counter()
    for batch in sightings:
        render.note(f"{batch.name}  {perf_counter() - started:.1f} s  {batch.state}: {batch.told}")
    return batch


def _tell(batch: Batch, reading: Reading) -> int:
    if reading.json:
        render.as_json(batch.raw)
        return OK
    told = batch.raw
    moments = [(name.replace("_", " "), render.when(told.get(name))) for name in _MOMENTS]
    facts = [("name", batch.name), ("state", batch.state), ("size", batch.size), ("tasks", batch.tasks)]
    render.fields([*facts, *batch.counts.items(), *moments, ("event", batch.event_id)])
    return OK
