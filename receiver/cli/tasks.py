"""`kling-receiver tasks`: what was submitted, and how it stands."""

from contextlib import closing
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import PAGING, READING, Paging, Reading, duration, listed_by, pairs, typed, within
from receiver.client import SyncClient, Task

TaskRef: TypeAlias = Annotated[str, Parameter(help="Our id, Kling's, or the external one.")]

tasks = App(name="tasks", help="List, show, wait for, watch and cancel tasks, and sum what they cost.")

COLUMNS = (
    render.identity("id", "id"),
    render.state("state"),
    render.key("endpoint", rank=2),
    render.key("label", rank=3),
    render.Column(
        title="tags", of=lambda task: ",".join(f"{k}={v}" for k, v in (task.get("tags") or {}).items()), rank=5
    ),
    render.identity("kling_id", "kling id", rank=6),
    render.moment("created_at", "created", rank=4),
    render.key("message", rank=1),
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
    reading: Reading = READING,
) -> int:
    """List tasks, newest first."""
    tags, limit, cursor = pairs("--tag", tag or ()), paging.size, paging.cursor
    with typed(), SyncClient(config=reading.config) as client:
        found = client.tasks(
            state=state or (),
            endpoint=endpoint,
            label=label,
            tags=tags,
            batch=batch,
            limit=limit,
            cursor=cursor,
        )
    render.page(COLUMNS, found.raw, as_json_too=reading.json, empty="No tasks.")
    return OK


@tasks.command
def show(task: TaskRef, /, *, reading: Reading = READING) -> int:
    """Show one task and its results."""
    with listed_by("tasks list"), SyncClient(config=reading.config) as client:
        found = client.task(task)
    if reading.json:
        render.as_json(found.raw)
    else:
        render.fields(_facts(found))
    return OK


@tasks.command
def wait(
    task: TaskRef,
    /,
    *,
    timeout: Annotated[str | None, Parameter(help="Stop waiting after so long: 90s, 10m, 2h.")] = None,
    reading: Reading = READING,
) -> int:
    """Wait until a task is over, and print where its results are."""
    from receiver.cli.task_wait import wait as wait_for

    limit = duration("--timeout", timeout) if timeout else None
    with SyncClient(config=reading.config) as client:
        return wait_for(client, task, timeout=limit, as_json=reading.json)


@tasks.command
def watch(
    *,
    limit: Annotated[int, Parameter(help="How many of the newest tasks to keep in sight.")] = 20,
    tag: Annotated[list[str] | None, Parameter(help="Only tasks with this tag, key=value.")] = None,
    batch: Annotated[str | None, Parameter(help="Only tasks of this batch.")] = None,
    reading: Reading = READING,
) -> int:
    """Watch tasks as they change, until Ctrl-C. In a pipe or with --json: a line for each change."""
    from receiver.cli.task_table import Wanted, changes, live, note

    wanted = Wanted(tags=pairs("--tag", tag or []), batch=batch, limit=within("--limit", limit))
    with typed(), SyncClient(config=reading.config) as client, closing(changes(client, wanted)) as sightings:
        if render.is_terminal() and not reading.json:
            live(sightings, COLUMNS)
        for page in note(sightings):
            for task in page.changed:
                if reading.json:
                    render.as_json_line(task.raw)
                else:
                    render.line(task.raw["updated_at"], *(column.of(task.raw) for column in COLUMNS))
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
    reading: Reading = READING,
) -> int:
    """Cancel tasks that wait to be sent, for good. What Kling has already goes on: Kling takes nothing back."""
    from receiver.cli.cancel import Chosen
    from receiver.cli.cancel import cancel as cancel_them

    chosen = Chosen(endpoint=endpoint, label=label, tags=pairs("--tag", tag or ()), batch=batch)
    return cancel_them(task or (), chosen, why=why, dry_run=dry_run, reading=reading)


@tasks.command
def cost(
    *,
    by: Annotated[str, Parameter(help="tag:NAME, endpoint, day (UTC), label or batch.")] = "endpoint",
    from_: Annotated[
        str | None,
        Parameter(name="--from", help="Only tasks that ended then or later: 2026-11-01 (that day in UTC), or 30d ago."),
    ] = None,
    to: Annotated[str | None, Parameter(help="Only tasks that ended before then: 2026-12-01 (UTC), or 1d ago.")] = None,
    reading: Reading = READING,
) -> int:
    """Sum what Kling took for tasks, as far as it said so, exactly."""
    from receiver.cli.cost import cost as tell

    return tell(by, since=from_, until=to, reading=reading)


def _facts(found: Task) -> list[tuple[str, object]]:
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
        (name.replace("_", " "), render.when(task.get(name))) for name in ("created_at", "updated_at", "expires_at")
    ]
    facts += [("cost", f"{amount} {unit}") for unit, amount in ((task.get("cost") or {}).get("charges") or {}).items()]
    facts += [("result", place) for place in found.places]
    return facts
