"""`kling-receiver routes`: the configured routes, their pending deliveries and their state."""

from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.options import CLIENT, ClientOptions, Reason, RouteName, UsageError, not_found_hint, usage_errors
from receiver.cli.value_kinds import EVENT_ID, EVENT_TYPE, NUMBER
from receiver.domain.model import Json

routes = App(name="routes", help="List, test, hold and release routes.")

_COLUMNS = (
    render.id_column("name", "name"),
    render.column("kind", rank=4),
    render.column("destination", rank=2),
    render.Column(title="on", value=lambda route: ",".join(route.get("on") or ()), rank=3),
    render.Column(title="endpoints", value=lambda route: ",".join(route.get("endpoints") or ()), rank=6),
    render.column("where", rank=6),
    render.column("pending"),
    render.time_column("oldest_pending_at", "oldest", rank=4),
    render.column("failures", rank=4),
    render.Column(
        title="state",
        value=lambda route: "held" if route.get("held_at") else "ok",
        is_state=True,
        no_wrap=True,
        rank=0,
    ),
    render.column("held_by", "by", rank=5),
    render.column("held_why", "why"),
)


_BACKTEST_COLUMNS = (
    render.id_column("event_id", "event"),
    render.column("type"),
    render.time_column("created_at", "created"),
    render.Column(title="wanted", value=lambda item: "yes" if item["wanted"] else "no", is_state=True, no_wrap=True),
    render.Column(title="why", value=lambda item: item["problem"] or item["reason"]),
)


@routes.command(name="list")
def list_(*, output: ClientOptions = CLIENT) -> int:
    """List routes, with their pending deliveries."""
    with output.connect() as client:
        answer = client.get("/api/routes")
    empty = "No routes. Add a [[routes]] table to config.toml, then run `kling-receiver config reload`."
    render.page(_COLUMNS, answer, as_json=output.json, empty=empty)
    return OK


@routes.command
def hold(
    name: RouteName,
    /,
    *,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Hold a route: its deliveries wait until it is released."""
    return _hold_or_release(name, "hold", why=why, output=output)


@routes.command
def release(
    name: RouteName,
    /,
    *,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Release a held route; its pending deliveries are sent, oldest first."""
    return _hold_or_release(name, "release", why=why, output=output)


def _hold_or_release(name: str, verb: str, *, why: str, output: ClientOptions) -> int:
    with not_found_hint("routes list"), output.connect() as client:
        answer = client.post(f"/api/routes/{quote(name, safe=':')}/{verb}", {"why": why} if why else {})
    if output.json:
        render.print_json(answer)
    else:
        render.table(_COLUMNS, [answer], empty="")
    return OK


@routes.command(name="test")
def send_test(
    name: RouteName,
    /,
    *,
    type_: Annotated[
        str,
        EVENT_TYPE,
        Parameter(name="--type", help="Sample event to send: failed, batch, report, alert.route_held, ..."),
    ] = "succeed",
    event: Annotated[
        str | None, EVENT_ID, Parameter(help="Send nothing: show what the route does with this event.")
    ] = None,
    last: Annotated[
        int | None, NUMBER, Parameter(help="Send nothing: show what the route does with the newest events.")
    ] = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Send a sample event to a route once, or show what it would do with stored events. Nothing is stored."""
    if event is not None and last is not None:
        raise UsageError("--event and --last exclude each other.", remedy="Use one of them.")
    path = f"/api/routes/{quote(name, safe=':')}"
    if event is not None or last is not None:
        body: Json = {"event": event} if event is not None else {"last": last}
        with not_found_hint("routes list"), usage_errors(), output.connect() as client:
            found = client.post(f"{path}/backtest", body)
        return _print_backtest(found, is_one=event is not None, as_json=output.json)
    with not_found_hint("routes list"), usage_errors(), output.connect() as client:
        answer = client.post(f"{path}/test", {} if type_ == "succeed" else {"type": type_})
    return _print_outcome(answer, as_json=output.json)


def _print_outcome(answer: Json, *, as_json: bool) -> int:
    if as_json:
        render.print_json(answer)
    else:
        render.details(
            [
                ("outcome", answer.get("outcome")),
                ("code", answer.get("code")),
                ("reason", answer.get("reason")),
                ("took", f"{answer.get('duration_ms')} ms"),
                ("answer or output", answer.get("excerpt")),
            ]
        )
    return OK if answer.get("outcome") in ("accepted", "delivered") else FAILED


def _print_backtest(found: Json, *, is_one: bool, as_json: bool) -> int:
    items = found["items"]
    if as_json:
        render.print_json(found)
    elif is_one and items:
        (item,) = items
        shown = [("event", item["event_id"]), ("type", item["type"]), ("wanted", "yes" if item["wanted"] else "no")]
        render.details([*shown, ("reason", item["reason"]), ("problem", item["problem"]), ("body", item["body"])])
    else:
        render.table(_BACKTEST_COLUMNS, items, empty="No events are stored.")
        if items:
            render.notice(f"{found['wanted']} of {len(items)} events would be delivered.")
    return FAILED if any(item["problem"] for item in items) else OK
