"""`kling-receiver routes`: where events go, and whether they get there."""

from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.options import READING, Reading, listed_by
from receiver.client import SyncClient

routes = App(name="routes", help="List, test, hold and release routes.")

_COLUMNS = (
    render.identity("name", "name"),
    render.key("kind", rank=4),
    render.key("destination", rank=2),
    render.Column(title="on", of=lambda route: ",".join(route.get("on") or ()), rank=3),
    render.Column(title="endpoints", of=lambda route: ",".join(route.get("endpoints") or ()), rank=6),
    render.key("where", rank=6),
    render.key("pending"),
    render.moment("oldest_pending_at", "oldest", rank=4),
    render.key("failures", rank=4),
    render.Column(
        title="state",
        of=lambda route: "held" if route.get("held_at") else "open",
        stateful=True,
        whole=True,
        rank=0,
    ),
    render.key("held_by", "by", rank=5),
    render.key("held_why", "why"),
)


@routes.command(name="list")
def list_(*, reading: Reading = READING) -> int:
    """List routes, and what waits in each."""
    with SyncClient(config=reading.config) as client:
        answer = client.get("/api/routes")
    render.page(_COLUMNS, answer, as_json_too=reading.json, empty="No routes. Add a [[routes]] table to config.toml.")
    return OK


@routes.command
def hold(
    name: Annotated[str, Parameter(help="Its name.")],
    /,
    *,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    reading: Reading = READING,
) -> int:
    """Hold a route: its events wait, and nothing goes out, until it is released."""
    return _change(name, "hold", why=why, reading=reading)


@routes.command
def release(
    name: Annotated[str, Parameter(help="Its name.")],
    /,
    *,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    reading: Reading = READING,
) -> int:
    """Let a route go on, whatever held it; what waits goes out oldest first."""
    return _change(name, "release", why=why, reading=reading)


def _change(name: str, verb: str, *, why: str | None, reading: Reading) -> int:
    with listed_by("routes list"), SyncClient(config=reading.config) as client:
        answer = client.post(f"/api/routes/{quote(name, safe=':')}/{verb}", {"why": why} if why else {})
    if reading.json:
        render.as_json(answer)
    else:
        render.table(_COLUMNS, [answer], empty="")
    return OK


@routes.command(name="test")
def try_out(name: Annotated[str, Parameter(help="Its name.")], /, *, reading: Reading = READING) -> int:
    """Send a made-up succeed through a route, once; nothing is stored."""
    with listed_by("routes list"), SyncClient(config=reading.config) as client:
        answer = client.post(f"/api/routes/{quote(name, safe=':')}/test", {})
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
