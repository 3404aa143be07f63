"""`kling-receiver deliveries`: what went where, and what came back."""

from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import PAGING, READING, Paging, Reading, listed_by, typed
from receiver.client import SyncClient
from receiver.domain.model import Json

deliveries = App(name="deliveries", help="List, show and retry deliveries.")


def _due(delivery: Json) -> str:
    """Say when a delivery is tried next, which is of interest while it is not over."""
    return "" if delivery.get("finished_at") else render.local(delivery.get("due_at"))


COLUMNS = (
    render.identity("id", "id"),
    render.state("status"),
    render.key("route"),
    render.key("event_type", "event", rank=3),
    render.identity("task_id", "task", rank=2),
    render.key("attempts", rank=5),
    render.Column(title="created", of=lambda delivery: delivery.get("created_at"), short=lambda _: ""),
    render.Column(title="due", of=lambda delivery: delivery.get("due_at"), short=_due, whole=True, rank=4),
    render.moment("finished_at", "finished", rank=6),
)


_ATTEMPTS = (
    render.key("number", "#", rank=0),
    render.moment("started_at", "started", rank=2),
    render.Column(title="took", of=lambda attempt: f"{attempt.get('duration_ms')} ms", rank=3),
    render.state("outcome"),
    render.key("code"),
    render.key("reason"),
    render.key("excerpt", "answer or output"),
)


@deliveries.command(name="list")
def list_(
    *,
    status: Annotated[
        list[str] | None, Parameter(help="pending, delivered, dead or cancelled; many times for several.")
    ] = None,
    route: Annotated[str | None, Parameter(help="Only deliveries to this route.")] = None,
    task: Annotated[str | None, Parameter(help="Only deliveries of this task.")] = None,
    event: Annotated[str | None, Parameter(help="Only deliveries of this event.")] = None,
    paging: Paging = PAGING,
    reading: Reading = READING,
) -> int:
    """List deliveries, newest first."""
    limit, cursor = paging.size, paging.cursor
    with typed(), SyncClient(config=reading.config) as client:
        found = client.deliveries(status=status or (), route=route, task=task, event=event, limit=limit, cursor=cursor)
    render.page(COLUMNS, found.raw, as_json_too=reading.json, empty="No deliveries.")
    return OK


@deliveries.command
def show(delivery: Annotated[str, Parameter(help="Its id.")], /, *, reading: Reading = READING) -> int:
    """Show one delivery, with each attempt and its answer or output."""
    with listed_by("deliveries list"), SyncClient(config=reading.config) as client:
        found = client.delivery(delivery)
    if reading.json:
        render.as_json(found)
        return OK
    render.fields(_facts(found))
    attempts = found.get("attempts_made") or []
    if attempts and render.is_terminal():
        render.console().print()
        render.table(_ATTEMPTS, attempts, empty="")
    else:
        for attempt in attempts:
            render.line("attempt", *(column.of(attempt) for column in _ATTEMPTS))
    return OK


@deliveries.command
def retry(
    delivery: Annotated[str, Parameter(help="Its id.")],
    /,
    *,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    reading: Reading = READING,
) -> int:
    """Try a delivery now: itself while it waits, else anew, as a delivery that points at it.

    In a route that failures hold it goes out with the next probe, within a minute.
    """
    with listed_by("deliveries list"), SyncClient(config=reading.config) as client:
        again = client.post(f"/api/deliveries/{quote(delivery, safe='')}/retry", {"why": why} if why else {})
    if reading.json:
        render.as_json(again)
    else:
        render.fields(_facts(again))
    return OK


def _facts(delivery: Json) -> list[tuple[str, object]]:
    names = ("id", "status", "route", "event_type", "event_id", "task_id", "replay_of")
    moments = ("created_at", "due_at", "finished_at")
    facts: list[tuple[str, object]] = [(name.replace("_", " "), delivery.get(name)) for name in names]
    facts += [(name.replace("_", " "), render.when(delivery.get(name))) for name in moments]
    return facts + ([("in flight", "yes")] if delivery.get("in_flight") else [])
