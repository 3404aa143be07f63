"""`kling-receiver tasks`: what was submitted, and how it stands."""

from contextlib import closing
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    OUTPUT,
    PAGING,
    OutputOptions,
    Paging,
    check_limit,
    duration,
    key_values,
    not_found_hint,
    usage_errors,
)
from receiver.client import SyncClient, Task

TaskRef: TypeAlias = Annotated[str, Parameter(help="Our id, Kling's, or the external one.")]

tasks = App(name="tasks", help="List, show, wait for, watch and cancel tasks, and sum what they cost.")

COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.column("endpoint", rank=2),
    render.column("label", rank=3),
    render.Column(
        title="tags", value=lambda task: ",".join(f"{k}={v}" for k, v in (task.get("tags") or {}).items()), rank=5
    ),
    render.id_column("kling_id", "kling id", rank=6),
    render.time_column("created_at", "created", rank=4),
    render.column("message", rank=1),
)


@tasks.command(name="list")
def list_(
    *,
    state: Annotated[list[str] | None, Parameter(help="Only tasks in this state; many times for several.")] = None,
    endpoint: Annotated[str | None, Parameter(help="Only tasks of this endpoint.")] = None,
    label: Annotated[str | None, Parameter(help="Only tasks of this label.")] = None,
    tag: Annotated[list[str] | None, Parameter(help="Only tasks with this tag, key=value.")] = None,
    batch: Annotated[str | None, Parameter(help="Only tasks of this batch.")] = None,
    paging: Paging = PAGING,
    output: OutputOptions = OUTPUT,
) -> int:
    """List tasks, newest first."""
    tags, limit, cursor = key_values("--tag", tag or ()), paging.size, paging.cursor
    with usage_errors(), SyncClient(config=output.config) as client:
        found = client.tasks(
            state=state or (),
            endpoint=endpoint,
            label=label,
            tags=tags,
            batch=batch,
            limit=limit,
            cursor=cursor,
        )
    render.page(COLUMNS, found.raw, as_json=output.json, empty="No tasks.")
    return OK


@tasks.command
def show(task: TaskRef, /, *, output: OutputOptions = OUTPUT) -> int:
    """Show one task and its results."""
    with not_found_hint("tasks list"), SyncClient(config=output.config) as client:
        found = client.task(task)
    if output.json:
        render.print_json(found.raw)
    else:
        render.details(_details(found))
    return OK


@tasks.command
def wait(
    task: TaskRef,
    /,
    *,
    timeout: Annotated[str | None, Parameter(help="Stop waiting after so long: 90s, 10m, 2h.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Wait until a task is over, and print where its results are."""
    from receiver.cli.task_wait import wait as wait_for

    limit = duration("--timeout", timeout) if timeout else None
    with SyncClient(config=output.config) as client:
        return wait_for(client, task, timeout=limit, as_json=output.json)


@tasks.command
def watch(
    *,
    limit: Annotated[int, Parameter(help="How many of the newest tasks to keep in sight.")] = 20,
    tag: Annotated[list[str] | None, Parameter(help="Only tasks with this tag, key=value.")] = None,
    batch: Annotated[str | None, Parameter(help="Only tasks of this batch.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Watch tasks as they change, until Ctrl-C. In a pipe or with --json: a line for each change."""
    from receiver.cli.task_table import TaskFilter, show_live, task_snapshots, with_notices

    wanted = TaskFilter(tags=key_values("--tag", tag or []), batch=batch, limit=check_limit("--limit", limit))
    with (
        usage_errors(),
        SyncClient(config=output.config) as client,
        closing(task_snapshots(client, wanted)) as sightings,
    ):
        if render.is_terminal() and not output.json:
            show_live(sightings, COLUMNS)
        for page in with_notices(sightings):
            for task in page.changed:
                if output.json:
                    render.print_json_line(task.raw)
                else:
                    render.print_line(task.raw["updated_at"], *(column.value(task.raw) for column in COLUMNS))
    return OK


@tasks.command
def cancel(
    task: Annotated[list[str] | None, Parameter(help="Our ids, Kling's, or the external ones.")] = None,
    /,
    *,
    endpoint: Annotated[str | None, Parameter(help="All that wait for this endpoint.")] = None,
    label: Annotated[str | None, Parameter(help="All that wait with this label.")] = None,
    tag: Annotated[list[str] | None, Parameter(help="All that wait with this tag, key=value.")] = None,
    batch: Annotated[str | None, Parameter(help="All that wait of this batch.")] = None,
    why: Annotated[str, Parameter(help="Why, for the record.")] = "",
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what would be cancelled.")] = False,
    output: OutputOptions = OUTPUT,
) -> int:
    """Cancel tasks that wait to be sent, for good. What Kling has already goes on: Kling takes nothing back."""
    from receiver.cli.cancel import TaskSelection
    from receiver.cli.cancel import cancel as cancel_them

    chosen = TaskSelection(endpoint=endpoint, label=label, tags=key_values("--tag", tag or ()), batch=batch)
    return cancel_them(task or (), chosen, why=why, dry_run=dry_run, output=output)


@tasks.command
def cost(
    *,
    by: Annotated[str, Parameter(help="tag:NAME, endpoint, day (UTC), label or batch.")] = "endpoint",
    from_: Annotated[
        str | None,
        Parameter(name="--from", help="Only tasks that ended then or later: 2026-11-01 (that day in UTC), or 30d ago."),
    ] = None,
    to: Annotated[str | None, Parameter(help="Only tasks that ended before then: 2026-12-01 (UTC), or 1d ago.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Sum what Kling took for tasks, as far as it said so, exactly."""
    from receiver.cli.cost import cost as tell

    return tell(by, since=from_, until=to, output=output)


def _details(found: Task) -> list[tuple[str, object]]:
    task = found.raw
    facts: list[tuple[str, object]] = [
        (name.replace("_", " "), task.get(name))
        for name in (
            "id",
            "state",
            "message",
            "verified",
            "endpoint",
            "label",
            "batch",
            "kling_id",
            "external_task_id",
            "origin",
        )
    ]
    facts += [(f"tag {key}", value) for key, value in (task.get("tags") or {}).items()]
    facts += [
        (name.replace("_", " "), render.local_time(task.get(name)))
        for name in ("created_at", "updated_at", "expires_at")
    ]
    facts += [("cost", f"{amount} {unit}") for unit, amount in ((task.get("cost") or {}).get("charges") or {}).items()]
    facts += [("result", place) for place in found.result_locations]
    return facts
