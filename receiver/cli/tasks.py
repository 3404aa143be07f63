"""`kling-receiver tasks`: the submitted tasks and their states."""

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    CLIENT,
    PAGING,
    SPAN,
    BatchFilter,
    ClientOptions,
    Paging,
    Reason,
    Span,
    TagFilter,
    TaskRef,
    Timeout,
    check_limit,
    duration,
    key_values,
    not_found_hint,
    usage_errors,
)
from receiver.cli.task_columns import TASK_COLUMNS
from receiver.cli.value_kinds import BATCH, ENDPOINT, GROUPING, KEY_VALUE, LABEL, NUMBER, STATE, TASK_ID, TIME
from receiver.domain.quantity_text import amount_text

if TYPE_CHECKING:
    from receiver.client import Task

tasks = App(name="tasks", help="List, wait for, watch, cancel, retry and delete tasks, and sum their costs.")

_TEXT_FIELDS = (
    "message", "verified", "endpoint", "label", "batch", "kling_id", "external_task_id", "origin",
)  # fmt: skip
_TIME_FIELDS = {"created_at": "created at", "updated_at": "updated at", "expires_at": "callback URL expires at"}


@tasks.command(name="list")
def list_(
    *,
    state: Annotated[list[str] | None, STATE, Parameter(help="Only tasks in this state. May be repeated.")] = None,
    endpoint: Annotated[str | None, ENDPOINT, Parameter(help="Only tasks of this endpoint.")] = None,
    label: Annotated[str | None, LABEL, Parameter(help="Only tasks with this label.")] = None,
    tag: TagFilter = None,
    batch: BatchFilter = None,
    span: Span = SPAN,
    paging: Paging = PAGING,
    output: ClientOptions = CLIENT,
) -> int:
    """List tasks, newest first."""
    tags, limit, cursor = key_values("--tag", tag or ()), paging.size, paging.cursor
    with usage_errors(), output.connect() as client:
        found = client.tasks(
            state=state or (),
            endpoint=endpoint,
            label=label,
            tags=tags,
            batch=batch,
            since=span.since,
            until=span.until,
            limit=limit,
            cursor=cursor,
        )
        listed = found.raw
        if output.json:
            listed = found.raw | {"items": [each.raw for each in client.details(found.items)]}
    render.page(TASK_COLUMNS, listed, as_json=output.json, empty="No tasks.")
    return OK


@tasks.command
def show(task: TaskRef, /, *, output: ClientOptions = CLIENT) -> int:
    """Show one task and its results."""
    with not_found_hint("tasks list"), output.connect() as client:
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
    timeout: Timeout = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Wait until a task is finished, and print where its results are."""
    from receiver.cli.task_wait import wait as wait_for

    limit = duration("--timeout", timeout) if timeout else None
    with output.connect() as client:
        return wait_for(client, task, timeout=limit, as_json=output.json)


@tasks.command
def watch(
    *,
    limit: Annotated[int, NUMBER, Parameter(help="Number of tasks to show, running ones first (default: 20).")] = 20,
    tag: TagFilter = None,
    batch: BatchFilter = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Watch tasks change, until Ctrl-C. In a pipe or with --json, print a line per change."""
    from receiver.cli.watch_table import TaskFilter, show_live, task_snapshots, with_notices

    task_filter = TaskFilter(tags=key_values("--tag", tag or []), batch=batch, limit=check_limit("--limit", limit))
    with (
        usage_errors(),
        output.connect(outage_tolerance=timedelta()) as client,  # an outage is shown, not waited for in silence
        closing(task_snapshots(client, task_filter)) as snapshots,
    ):
        if batch is not None:
            client.batch(batch)  # an unknown batch would show an empty list for ever
        if render.is_terminal() and not output.json:
            show_live(snapshots, TASK_COLUMNS)
        for snapshot in with_notices(snapshots):
            for task in snapshot.changed:
                if output.json:
                    render.print_json_line(task.raw)
                else:
                    render.print_line(task.raw["updated_at"], *(column.value(task.raw) for column in TASK_COLUMNS))
    return OK


@tasks.command
def cancel(
    task: Annotated[
        list[str] | None, TASK_ID, Parameter(help="IDs of the tasks: the receiver's, Kling's or external.")
    ] = None,
    /,
    *,
    endpoint: Annotated[str | None, ENDPOINT, Parameter(help="All queued tasks of this endpoint.")] = None,
    label: Annotated[str | None, LABEL, Parameter(help="All queued tasks with this label.")] = None,
    tag: Annotated[
        list[str] | None, KEY_VALUE, Parameter(help="All queued tasks with this tag, key=value. May be repeated.")
    ] = None,
    batch: Annotated[str | None, BATCH, Parameter(help="All queued tasks of this batch.")] = None,
    why: Reason = "",
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what would be cancelled.")] = False,
    output: ClientOptions = CLIENT,
) -> int:
    """Cancel queued tasks for good. A task already sent to Kling continues: Kling cannot cancel tasks."""
    from receiver.cli.cancel import TaskSelection
    from receiver.cli.cancel import cancel as cancel_tasks

    selection = TaskSelection(endpoint=endpoint, label=label, tags=key_values("--tag", tag or ()), batch=batch)
    return cancel_tasks(task or (), selection, why=why, dry_run=dry_run, output=output)


@tasks.command
def retry(
    task: Annotated[
        list[str] | None, TASK_ID, Parameter(help="IDs of the tasks: the receiver's, Kling's or external.")
    ] = None,
    /,
    *,
    failed: Annotated[bool, Parameter(negative=(), help="All failed and rejected tasks of a selection.")] = False,
    endpoint: Annotated[str | None, ENDPOINT, Parameter(help="With --failed: only tasks of this endpoint.")] = None,
    label: Annotated[str | None, LABEL, Parameter(help="With --failed: only tasks with this label.")] = None,
    tag: TagFilter = None,
    batch: BatchFilter = None,
    why: Reason = "",
    yes: Annotated[bool, Parameter(negative=(), help="Submit without asking.")] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what would be submitted again.")] = False,
    output: ClientOptions = CLIENT,
) -> int:
    """Submit failed tasks again as new tasks, linked to the old ones by the tag retry_of. Kling charges for them."""
    from receiver.cli.cancel import TaskSelection
    from receiver.cli.retry import retry as retry_tasks

    selection = TaskSelection(endpoint=endpoint, label=label, tags=key_values("--tag", tag or ()), batch=batch)
    return retry_tasks(task or (), selection, failed=failed, why=why, yes=yes, dry_run=dry_run, output=output)


@tasks.command
def delete(
    task: Annotated[list[str], Parameter(help="IDs of the tasks: the receiver's, Kling's or external.")],
    /,
    *,
    results: Annotated[bool, Parameter(negative=(), help="Remove the archived files and objects too.")] = False,
    why: Reason = "",
    yes: Annotated[bool, Parameter(negative=(), help="Delete without asking.")] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what would be deleted.")] = False,
    output: ClientOptions = CLIENT,
) -> int:
    """Delete ended tasks for good: bodies, pushes, events and deliveries. Their costs stay in the sums."""
    from receiver.cli.delete import delete as delete_tasks

    return delete_tasks(task, results=results, why=why, yes=yes, dry_run=dry_run, output=output)


@tasks.command
def cost(
    *,
    by: Annotated[
        str, GROUPING, Parameter(help="Group by tag:NAME, endpoint, day (UTC), label or batch.")
    ] = "endpoint",
    from_: Annotated[
        str | None,
        TIME,
        Parameter(name=("--from", "--since"), help="Only tasks that ended at or after: 2026-11-01 (UTC), or 30d ago."),
    ] = None,
    to: Annotated[
        str | None,
        TIME,
        Parameter(name=("--to", "--until"), help="Only tasks that ended before: 2026-12-01 (UTC), or 1d ago."),
    ] = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Sum the exact costs that Kling reported for tasks."""
    from receiver.cli.cost import cost as print_cost

    return print_cost(by, since=from_, until=to, output=output)


def _details(found: "Task") -> list[tuple[str, object]]:
    task = found.raw
    charges = (task.get("cost") or {}).get("charges") or {}
    fields: list[tuple[str, object]] = [("id", task.get("id")), ("state", task.get("state"))]
    fields += [(name.replace("_", " "), task.get(name)) for name in _TEXT_FIELDS]
    fields += [(f"tag {key}", value) for key, value in (task.get("tags") or {}).items()]
    fields += [(title, render.local_time(task.get(name))) for name, title in _TIME_FIELDS.items()]
    fields += [("cost", amount_text(amount, unit)) for unit, amount in charges.items()]
    fields += [("result", location) for location in found.result_locations]
    return fields
