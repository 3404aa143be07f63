"""`kling-receiver deliveries`: the deliveries, their attempts and the destinations' answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    CLIENT,
    PAGING,
    SPAN,
    ClientOptions,
    DeliveryId,
    Paging,
    Reason,
    Span,
    not_found_hint,
    usage_errors,
)
from receiver.cli.value_kinds import DELIVERY_STATUS, EVENT_ID, ROUTE, TASK_ID
from receiver.domain.errors import ReceiverError
from receiver.domain.model import HeldBy, Json

if TYPE_CHECKING:
    from receiver.client import SyncClient

deliveries = App(name="deliveries", help="List, show and retry deliveries.")


def _due_text(delivery: Json) -> str:
    """Return the time of the next attempt, or nothing for a finished delivery."""
    return "" if delivery.get("finished_at") else render.format_local_time(delivery.get("due_at"))


COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("status"),
    render.column("route"),
    render.column("event_type", "event", rank=3),
    render.id_column("task_id", "task", rank=2),
    render.column("attempts", rank=5),
    render.Column(title="created", value=lambda delivery: delivery.get("created_at"), short=lambda _: ""),
    render.Column(
        title="due", value=lambda delivery: delivery.get("due_at"), short=_due_text, no_wrap=True, is_time=True, rank=4
    ),
    render.time_column("finished_at", "finished", rank=6),
)


_ATTEMPT_COLUMNS = (
    render.column("number", "#", rank=0),
    render.time_column("started_at", "started", rank=2),
    render.Column(title="took", value=lambda attempt: f"{attempt.get('duration_ms')} ms", rank=3),
    render.state_column("outcome"),
    render.column("code"),
    render.column("reason"),
    render.column("excerpt", "answer or output"),
)


@deliveries.command(name="list")
def list_(
    *,
    status: Annotated[
        list[str] | None,
        DELIVERY_STATUS,
        Parameter(help="Only pending, delivered, dead or cancelled ones. May be repeated."),
    ] = None,
    route: Annotated[str | None, ROUTE, Parameter(help="Only deliveries to this route.")] = None,
    task: Annotated[str | None, TASK_ID, Parameter(help="Only deliveries of this task.")] = None,
    event: Annotated[str | None, EVENT_ID, Parameter(help="Only deliveries of this event.")] = None,
    span: Span = SPAN,
    paging: Paging = PAGING,
    output: ClientOptions = CLIENT,
) -> int:
    """List deliveries, newest first."""
    with usage_errors(), output.connect() as client:
        found = client.deliveries(
            status=status or (),
            route=route,
            task=task,
            event=event,
            since=span.since,
            until=span.until,
            limit=paging.size,
            cursor=paging.cursor,
        )
    render.page(COLUMNS, found.raw, as_json=output.json, empty="No deliveries.")
    return OK


@deliveries.command
def show(delivery: DeliveryId, /, *, output: ClientOptions = CLIENT) -> int:
    """Show one delivery, with the answer or output of each attempt."""
    with not_found_hint("deliveries list"), output.connect() as client:
        found = client.delivery(delivery)
    if output.json:
        render.print_json(found)
        return OK
    render.details(_details(found))
    attempts = found.get("attempts_made") or []
    if attempts and render.is_terminal():
        render.console().print()
        render.table(_ATTEMPT_COLUMNS, attempts, empty="")
    else:
        for attempt in attempts:
            render.print_line("attempt", *(column.value(attempt) for column in _ATTEMPT_COLUMNS))
    return OK


_WHEN_SENT: Mapping[str | None, str] = {
    HeldBy.FAILURES: "The delivery is sent with the next probe, within a minute.",
    HeldBy.OPERATOR: "The delivery waits until the route is released: `kling-receiver routes release {route}`.",
}


@deliveries.command
def retry(
    delivery: DeliveryId,
    /,
    *,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Attempt a pending delivery now, or replay a finished one as a new delivery.

    On a route that is held because of failures, it is sent with the next probe, within a minute.
    """
    with not_found_hint("deliveries list"), output.connect() as client:
        retried = client.post(f"/api/deliveries/{quote(delivery, safe='')}/retry", {"why": why} if why else {})
        held_by = None if output.json else _held_by(client, str(retried["route"]))
    if output.json:
        render.print_json(retried)
        return OK
    render.details(_details(retried))
    if held_by in _WHEN_SENT:
        render.notice(f"Route {retried['route']} is held. {_WHEN_SENT[held_by].format(route=retried['route'])}")
    return OK


def _held_by(client: "SyncClient", name: str) -> str | None:
    """Return what holds a route, if anything. A list that cannot be read says nothing: the retry was accepted."""
    try:
        routes = client.get("/api/routes")["items"]
    except ReceiverError:
        return None
    return next((route.get("held_by") for route in routes if route["name"] == name), None)


def _details(delivery: Json) -> list[tuple[str, object]]:
    names = ("id", "status", "route", "event_type", "event_id", "task_id", "replay_of")
    times = ("created_at", "due_at", "finished_at")
    fields: list[tuple[str, object]] = [(name.replace("_", " "), delivery.get(name)) for name in names]
    fields += [(name.replace("_", " "), render.local_time(delivery.get(name))) for name in times]
    return fields + ([("in flight", "yes")] if delivery.get("in_flight") else [])
