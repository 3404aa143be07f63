"""`kling-receiver events`: the accepted changes of tasks, and alerts."""

import re
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    CLIENT,
    PAGING,
    SPAN,
    ClientOptions,
    EventId,
    Paging,
    Span,
    UsageError,
    not_found_hint,
    usage_errors,
)
from receiver.cli.value_kinds import BATCH, EVENT_ID, EVENT_TYPE, TASK_ID
from receiver.domain.model import Json

events = App(name="events", help="List and show events.")


_ALERT = re.compile(r"alert\.[a-z_]+")
STATES = ("submitted", "processing", "succeed", "failed", "rejected", "expired")
TYPES = (*(f"task.{state}" for state in STATES), "batch.finished", "report.daily")
_TYPES_TEXT = f"Expected: {', '.join(TYPES)}, or an alert such as alert.route_held"


def _check_types(types: Sequence[str]) -> None:
    """Raise UsageError for a type that no event has, because it would never match."""
    for name in (each for given in types for each in given.split(",")):
        if name not in TYPES and not _ALERT.fullmatch(name):
            raise UsageError(f"--type {name}: unknown event type.", remedy=f"{_TYPES_TEXT}.")


def _data(event: Json) -> Json:
    data: Json = event.get("data") or {}
    return data


def _task(event: Json) -> Json:
    task: Json = _data(event).get("task") or {}
    return task


COLUMNS = (
    render.Column(title="id", value=lambda event: _data(event).get("event_id"), no_wrap=True, rank=0),
    render.Column(title="type", value=lambda event: event.get("type"), no_wrap=True, rank=0),
    render.time_column("timestamp", "at", rank=2),
    render.Column(title="task", value=lambda event: _task(event).get("id"), no_wrap=True, rank=1),
    render.Column(title="endpoint", value=lambda event: _task(event).get("endpoint"), rank=4),
    render.Column(title="source", value=lambda event: _data(event).get("source"), rank=6),
    render.Column(title="verified", value=lambda event: _data(event).get("verified"), rank=5),
    render.Column(title="message", value=lambda event: _data(event).get("message"), rank=3),
)


@events.command(name="list")
def list_(
    *,
    type_: Annotated[
        list[str] | None,
        EVENT_TYPE,
        Parameter(name="--type", help="Only this type, such as task.succeed. May be repeated."),
    ] = None,
    task: Annotated[str | None, TASK_ID, Parameter(help="Only events of this task.")] = None,
    batch: Annotated[str | None, BATCH, Parameter(help="Only events of tasks in this batch.")] = None,
    after: Annotated[str | None, EVENT_ID, Parameter(help="Only events newer than this one, oldest first.")] = None,
    span: Span = SPAN,
    paging: Paging = PAGING,
    output: ClientOptions = CLIENT,
) -> int:
    """List events, newest first."""
    _check_types(type_ or ())
    with usage_errors(), output.connect() as client:
        found = client.list_events(
            types=type_ or (),
            task=task,
            batch=batch,
            after=after,
            since=span.since,
            until=span.until,
            limit=paging.size,
            cursor=paging.cursor,
        )
    render.page(COLUMNS, found.raw, as_json=output.json, empty="No events.")
    return OK


@events.command
def show(event: EventId, /, *, output: ClientOptions = CLIENT) -> int:
    """Show one event as it is delivered."""
    with not_found_hint("events list"), output.connect() as client:
        found = client.event(event).raw
    if output.json or not render.is_terminal():
        render.print_json(found)
        return OK
    from rich.highlighter import JSONHighlighter

    render.console().print(JSONHighlighter()(render.to_json(found, indent=2)), soft_wrap=True)
    return OK
