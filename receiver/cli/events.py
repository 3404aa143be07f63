"""`kling-receiver events`: what was accepted as having happened."""

import re
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import PAGING, READING, Paging, Reading, UsageError, listed_by, typed
from receiver.client import SyncClient
from receiver.domain.model import Json

events = App(name="events", help="List and show events.")


_ALERT = re.compile(r"alert\.[a-z_]+")
_STATES = ("submitted", "processing", "succeed", "failed", "rejected", "expired")
_TYPES = (*(f"task.{state}" for state in _STATES), "batch.finished")
_ALL = f"There are {', '.join(_TYPES)}, and alert. with what is wrong, such as alert.route_held"


def _check(types: Sequence[str]) -> None:
    """Refuse a type that no event has: nothing would ever be found. Raises UsageError."""
    for name in (each for given in types for each in given.split(",")):
        if name not in _TYPES and not _ALERT.fullmatch(name):
            raise UsageError(f"--type {name}: no event is of this type.", remedy=f"{_ALL}.")


def _data(event: Json) -> Json:
    data: Json = event.get("data") or {}
    return data


def _task(event: Json) -> Json:
    task: Json = _data(event).get("task") or {}
    return task


COLUMNS = (
    render.Column(title="id", of=lambda event: _data(event).get("event_id"), whole=True, rank=0),
    render.Column(title="type", of=lambda event: event.get("type"), whole=True, rank=0),
    render.moment("timestamp", "at", rank=2),
    render.Column(title="task", of=lambda event: _task(event).get("id"), whole=True, rank=1),
    render.Column(title="endpoint", of=lambda event: _task(event).get("endpoint"), rank=4),
    render.Column(title="source", of=lambda event: _data(event).get("source"), rank=6),
    render.Column(title="verified", of=lambda event: _data(event).get("verified"), rank=5),
    render.Column(title="message", of=lambda event: _data(event).get("message"), rank=3),
)


@events.command(name="list")
def list_(
    *,
    type_: Annotated[
        list[str] | None, Parameter(name="--type", help="Only events of this type, such as task.succeed.")
    ] = None,
    task: Annotated[str | None, Parameter(help="Only events of this task.")] = None,
    batch: Annotated[str | None, Parameter(help="Only events of the tasks of this batch.")] = None,
    after: Annotated[str | None, Parameter(help="Only events newer than this one, oldest first.")] = None,
    paging: Paging = PAGING,
    reading: Reading = READING,
) -> int:
    """List events, newest first."""
    _check(type_ or ())
    limit, cursor = paging.size, paging.cursor
    with typed(), SyncClient(config=reading.config) as client:
        found = client.history(types=type_ or (), task=task, batch=batch, after=after, limit=limit, cursor=cursor)
    render.page(COLUMNS, found.raw, as_json_too=reading.json, empty="No events.")
    return OK


@events.command
def show(event: Annotated[str, Parameter(help="Its id.")], /, *, reading: Reading = READING) -> int:
    """Show one event as destinations receive it."""
    with listed_by("events list"), SyncClient(config=reading.config) as client:
        found = client.event(event).raw
    if reading.json or not render.is_terminal():
        render.as_json(found)
        return OK
    from rich.json import JSON

    render.console().print(JSON.from_data(found))
    return OK
