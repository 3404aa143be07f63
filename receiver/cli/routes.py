"""`kling-receiver routes`: the configured routes, their pending deliveries and their state."""

from urllib.parse import quote

from cyclopts import App

from receiver.cli import FAILED, OK, render
from receiver.cli.options import CLIENT, ClientOptions, Reason, RouteName, not_found_hint

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


@routes.command(name="list")
def list_(*, output: ClientOptions = CLIENT) -> int:
    """List routes, with their pending deliveries."""
    with output.connect() as client:
        answer = client.get("/api/routes")
    empty = "No routes. Add a [[routes]] table to config.toml, and restart the service."
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
def send_test(name: RouteName, /, *, output: ClientOptions = CLIENT) -> int:
    """Send a sample task.succeed event to a route once; nothing is stored."""
    with not_found_hint("routes list"), output.connect() as client:
        answer = client.post(f"/api/routes/{quote(name, safe=':')}/test", {})
    if output.json:
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
