"""`kling-receiver replay`: has events go out again, and shows how far that has come.

The service does it, from what it has stored: the command only asks for it and watches, and may go away.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import PAGING, READING, Paging, Reading, UsageError, listed_by, moment, typed
from receiver.client import SyncClient
from receiver.domain.errors import InvalidRequest, ServiceUnreachable
from receiver.domain.model import Json

replay = App(name="replay", help="Bring out again what died, or what a new route is to have.")

_ASK_SECONDS = 0.5
_FEW = 3

COLUMNS = (
    render.identity("id", "id"),
    render.state("state"),
    render.Column(title="out", of=lambda each: f"{each['created']} of {each['total']}"),
    render.key("pace", rank=4),
    render.Column(title="what", of=lambda each: _words(each["selection"]), rank=2),
    render.moment("created_at", "asked", rank=3),
    render.key("actor", "by", rank=5),
    render.key("why", rank=5),
)
_TALLIES = (
    render.identity("route", "route"),
    render.state("status"),
    render.key("count"),
    render.moment("oldest_at", "oldest", rank=2),
    render.moment("newest_at", "newest", rank=2),
)
_SAMPLE = (
    render.identity("event_id", "event"),
    render.key("event_type", "type"),
    render.identity("task_id", "task", rank=2),
    render.key("route", "to"),
    render.identity("replay_of", "again after", rank=4),
    render.moment("created_at", "created", rank=3),
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to go out again; all that is given must hold."""

    route: Annotated[str | None, Parameter(help="What went to this route.")] = None
    status: Annotated[list[str] | None, Parameter(help="dead, delivered or cancelled; many times for several.")] = None
    task: Annotated[str | None, Parameter(help="Of this task, by any of its ids.")] = None
    event: Annotated[list[str] | None, Parameter(help="This event; many times for several.")] = None
    delivery: Annotated[list[str] | None, Parameter(help="This delivery; many times for several.")] = None
    from_: Annotated[
        str | None, Parameter(name="--from", help='Made since then: "2026-11-22 10:00", or "2h" for two hours ago.')
    ] = None
    to: Annotated[str | None, Parameter(help="Made before then.")] = None
    to_route: Annotated[
        str | None,
        Parameter(
            name="--to-route",
            help="Bring it to this route instead. Alone with a time, task or event: all that this route asks for.",
        ),
    ] = None

    def body(self) -> Json:
        """Give the options as the API's members."""
        members = {
            "route": self.route,
            "status": self.status,
            "task": self.task,
            "events": self.event,
            "deliveries": self.delivery,
            "from": moment("--from", self.from_) if self.from_ else None,
            "to": moment("--to", self.to) if self.to else None,
            "to_route": self.to_route,
        }
        return {name: value for name, value in members.items() if value}


_WISH = Wish()


@replay.default
def start(
    *,
    wish: Wish = _WISH,
    pace: Annotated[str | None, Parameter(help='No quicker than this: "5/s", "100/m".')] = None,
    dry_run: Annotated[bool, Parameter(help="Only say what would go out.")] = False,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    reading: Reading = READING,
) -> int:
    """Say what would go out again, and do it. Each event goes once to each route; what was stays as it was.

    It goes on in the service if this command is ended, and after a crash: see `replay list` and `replay cancel`.
    """
    if wish == Wish(to_route=wish.to_route):
        raise UsageError("Replay what?", remedy="Say it with --route, --status, --task, --event, --delivery or --from.")
    body = wish.body() | {name: value for name, value in (("pace", pace), ("why", why)) if value}
    with typed(), SyncClient(config=reading.config) as client:
        outline = _outline(client, wish, body)
        if dry_run or not outline["total"]:
            _show_outline(outline, as_json=reading.json)
            return OK
        _foretell(outline)
        done = _follow(client, client.post("/api/replays", body))
    if reading.json:
        render.as_json(done)
    else:
        render.fields(_facts(done))
    return OK


def _outline(client: SyncClient, wish: Wish, body: Json) -> Json:
    """Ask what would go out. Raises UsageError where what is asked for leads nowhere."""
    try:
        return client.post("/api/replays", body | {"dry_run": True})
    except InvalidRequest as exc:
        for option, name in (("--route", wish.route), ("--to-route", wish.to_route)):
            if name and f"There is no route {name!r}" in exc.message:
                other = "" if wish.to_route else ", or say with --to-route where its events go"
                raise UsageError(
                    f"{option} {name}: the configuration has no such route.",
                    remedy=f"Name one that `kling-receiver routes list` shows{other}.",
                ) from exc
        raise


@replay.command(name="list")
def list_(*, paging: Paging = PAGING, reading: Reading = READING) -> int:
    """List replays, newest first."""
    with typed(), SyncClient(config=reading.config) as client:
        answer = client.get("/api/replays", dict(paging.query()))
    render.page(COLUMNS, answer, as_json_too=reading.json, empty="No replays.")
    return OK


@replay.command
def show(id_: Annotated[str, Parameter(help="Its id.")], /, *, reading: Reading = READING) -> int:
    """Show one replay, and how far it has come."""
    with listed_by("replay list"), SyncClient(config=reading.config) as client:
        found = client.get(f"/api/replays/{id_}")
    if reading.json:
        render.as_json(found)
    else:
        render.fields(_facts(found))
    return OK


@replay.command
def cancel(
    id_: Annotated[str, Parameter(help="Its id.")],
    /,
    *,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    reading: Reading = READING,
) -> int:
    """Stop a replay; what it has brought out already goes on."""
    with listed_by("replay list"), SyncClient(config=reading.config) as client:
        cancelled = client.post(f"/api/replays/{id_}/cancel", {"why": why} if why else {})
    if reading.json:
        render.as_json(cancelled)
    else:
        render.fields(_facts(cancelled))
    return OK


def _show_outline(outline: Json, *, as_json: bool) -> None:
    if as_json:
        render.as_json(outline)
        return
    render.table(_TALLIES, outline["by"], empty="Nothing matches: there is nothing to bring out again.")
    if outline["total"] and render.is_terminal():
        render.console().print()
        render.table(_SAMPLE, outline["sample"], empty="")
        if outline["total"] > len(outline["sample"]):
            render.note(f"... and {outline['total'] - len(outline['sample'])} more. Nothing was done.")


def _foretell(outline: Json) -> None:
    parts = [f"{each['count']} {each['status'] or 'events'} to {each['route']}" for each in outline["by"]]
    render.note(f"{outline['total']} go out again: {', '.join(parts)}")


def _follow(client: SyncClient, started: Json) -> Json:
    """Show how far a replay has come until it is over."""
    sightings = _sightings(client, started)
    try:
        return _watch(sightings, started) if render.is_terminal(sys.stderr) else _report(sightings, started)
    except KeyboardInterrupt:
        render.note(f"It goes on in the service. To stop it: kling-receiver replay cancel {started['id']}")
        raise


def _sightings(client: SyncClient, started: Json) -> Iterator[Json]:
    """Give the replay again and again until it is over, through a restart of the service too."""
    found = started
    while found["state"] == "running":
        time.sleep(_ASK_SECONDS)
        try:
            found = client.get(f"/api/replays/{started['id']}")
        except ServiceUnreachable as exc:
            remedy = f"The replay goes on when it runs again: kling-receiver replay show {started['id']}"
            raise ServiceUnreachable(exc.message, remedy=remedy) from exc
        yield found


def _watch(sightings: Iterator[Json], started: Json) -> Json:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found = started
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        shown = progress.add_task(started["id"], total=started["total"])
        for found in sightings:
            progress.update(shown, completed=found["created"])
    return found


def _report(sightings: Iterator[Json], started: Json) -> Json:
    before = found = started
    for found in sightings:
        if found["created"] != before["created"]:
            render.note(f"{found['id']}  {found['created']} of {found['total']}")
        before = found
    return found


def _words(selection: Json) -> str:
    """Put a selection into a few words, as the options that ask for it."""
    words = []
    for name, value in selection.items():
        if value and isinstance(value, list):
            words.append(f"{name}={','.join(value) if len(value) <= _FEW else len(value)}")
        elif value:
            words.append(f"{name}={value}")
    return " ".join(words)


def _facts(found: Json) -> list[tuple[str, object]]:
    return [
        ("id", found["id"]),
        ("state", found["state"]),
        ("out", f"{found['created']} of {found['total']}"),
        ("what", _words(found["selection"])),
        ("pace", found.get("pace")),
        ("by", found.get("actor")),
        ("why", found.get("why")),
        ("created at", found.get("created_at")),
        ("finished at", found.get("finished_at")),
    ]
