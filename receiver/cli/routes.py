"""`kling-receiver routes`: where events go, and whether they get there."""

from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.connection import connect
from receiver.cli.options import READING, Reading

routes = App(name="routes", help="List and test routes.")

_COLUMNS = (
    render.key("name"),
    render.key("kind"),
    render.key("destination"),
    render.Column(title="on", of=lambda route: ",".join(route.get("on") or ())),
    render.Column(title="endpoints", of=lambda route: ",".join(route.get("endpoints") or ())),
    render.key("where"),
    render.key("pending"),
    render.moment("oldest_pending_at", "oldest"),
    render.key("failures"),
    render.Column(title="state", of=lambda route: "held" if route.get("held_at") else "open", stateful=True),
    render.key("held_why", "why"),
)


@routes.command(name="list")
def list_(*, reading: Reading = READING) -> int:
    """List routes, and what waits in each."""
    with connect(reading.config) as connection:
        answer = connection.get("/api/routes")
    render.page(_COLUMNS, answer, as_json_too=reading.json, empty="No routes. Add a [[routes]] table to config.toml.")
    return OK


@routes.command(name="test")
def try_out(name: Annotated[str, Parameter(help="Its name.")], /, *, reading: Reading = READING) -> int:
    """Send a made-up succeed through a route, once; nothing is stored."""
    with connect(reading.config) as connection:
        answer = connection.post(f"/api/routes/{name}/test", {})
    if reading.json:
        render.as_json(answer)
    else:
        render.fields(
            [
                ("outcome", answer.get("outcome")),
                ("code", answer.get("code")),
                ("reason", answer.get("reason")),
                ("took", f"{answer.get('duration_ms')} ms"),
                ("answer or output", answer.get("excerpt")),
            ]
        )
    return OK if answer.get("outcome") in ("accepted", "delivered") else FAILED
