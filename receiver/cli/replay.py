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
from receiver.cli.options import (
    OUTPUT,
    PAGING,
    OutputOptions,
    Paging,
    UsageError,
    not_found_hint,
    parse_time,
    usage_errors,
)
from receiver.client import SyncClient
from receiver.domain.errors import InvalidRequest, ServiceUnreachable
from receiver.domain.model import Json

replay = App(name="replay", help="Bring out again what died, or what a new route is to have.")

_POLL_SECONDS = 0.5
_MAX_LISTED = 3

COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.Column(title="out", value=lambda each: f"{each['created']} of {each['total']}"),
    render.column("pace", rank=4),
    render.Column(title="what", value=lambda each: _selection_text(each["selection"]), rank=2),
    render.time_column("created_at", "asked", rank=3),
    render.column("actor", "by", rank=5),
    render.column("why", rank=5),
)
_COUNT_COLUMNS = (
    render.id_column("route", "route"),
    render.state_column("status"),
    render.column("count"),
    render.time_column("oldest_at", "oldest", rank=2),
    render.time_column("newest_at", "newest", rank=2),
)
_SAMPLE_COLUMNS = (
    render.id_column("event_id", "event"),
    render.column("event_type", "type"),
    render.id_column("task_id", "task", rank=2),
    render.column("route", "to"),
    render.id_column("replay_of", "again after", rank=4),
    render.time_column("created_at", "created", rank=3),
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
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
            "from": parse_time("--from", self.from_) if self.from_ else None,
            "to": parse_time("--to", self.to) if self.to else None,
            "to_route": self.to_route,
        }
        return {name: value for name, value in members.items() if value}


_NO_OPTIONS = ReplayOptions()


@replay.default
def start(
    *,
    options: ReplayOptions = _NO_OPTIONS,
    pace: Annotated[str | None, Parameter(help='No quicker than this: "5/s", "100/m".')] = None,
    dry_run: Annotated[bool, Parameter(help="Only say what would go out.")] = False,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Say what would go out again, and do it. Each event goes once to each route; what was stays as it was.

    It goes on in the service if this command is ended, and after a crash: see `replay list` and `replay cancel`.
    """
    if options == ReplayOptions(to_route=options.to_route):
        raise UsageError("Replay what?", remedy="Say it with --route, --status, --task, --event, --delivery or --from.")
    body = options.body() | {name: value for name, value in (("pace", pace), ("why", why)) if value}
    with usage_errors(), SyncClient(config=output.config) as client:
        outline = _preview(client, options, body)
        if dry_run or not outline["total"]:
            _print_preview(outline, as_json=output.json)
            return OK
        _print_summary(outline)
        done = _follow(client, client.post("/api/replays", body))
    if output.json:
        render.print_json(done)
    else:
        render.details(_details(done))
    return OK


def _preview(client: SyncClient, options: ReplayOptions, body: Json) -> Json:
    """Ask what would go out. Raises UsageError where what is asked for leads nowhere."""
    try:
        return client.post("/api/replays", body | {"dry_run": True})
    except InvalidRequest as exc:
        for option, name in (("--route", options.route), ("--to-route", options.to_route)):
            if name and f"There is no route {name!r}" in exc.message:
                other = "" if options.to_route else ", or say with --to-route where its events go"
                raise UsageError(
                    f"{option} {name}: the configuration has no such route.",
                    remedy=f"Name one that `kling-receiver routes list` shows{other}.",
                ) from exc
        raise


@replay.command(name="list")
def list_(*, paging: Paging = PAGING, output: OutputOptions = OUTPUT) -> int:
    """List replays, newest first."""
    with usage_errors(), SyncClient(config=output.config) as client:
        answer = client.get("/api/replays", dict(paging.query()))
    render.page(COLUMNS, answer, as_json=output.json, empty="No replays.")
    return OK


@replay.command
def show(id_: Annotated[str, Parameter(help="Its id.")], /, *, output: OutputOptions = OUTPUT) -> int:
    """Show one replay, and how far it has come."""
    with not_found_hint("replay list"), SyncClient(config=output.config) as client:
        found = client.get(f"/api/replays/{id_}")
    if output.json:
        render.print_json(found)
    else:
        render.details(_details(found))
    return OK


@replay.command
def cancel(
    id_: Annotated[str, Parameter(help="Its id.")],
    /,
    *,
    why: Annotated[str | None, Parameter(help="Why, for the record.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Stop a replay; what it has brought out already goes on."""
    with not_found_hint("replay list"), SyncClient(config=output.config) as client:
        cancelled = client.post(f"/api/replays/{id_}/cancel", {"why": why} if why else {})
    if output.json:
        render.print_json(cancelled)
    else:
        render.details(_details(cancelled))
    return OK


def _print_preview(preview: Json, *, as_json: bool) -> None:
    if as_json:
        render.print_json(preview)
        return
    render.table(_COUNT_COLUMNS, preview["by"], empty="Nothing matches: there is nothing to bring out again.")
    if preview["total"] and render.is_terminal():
        render.console().print()
        render.table(_SAMPLE_COLUMNS, preview["sample"], empty="")
        if preview["total"] > len(preview["sample"]):
            render.notice(f"... and {preview['total'] - len(preview['sample'])} more. Nothing was done.")


def _print_summary(preview: Json) -> None:
    parts = [f"{each['count']} {each['status'] or 'events'} to {each['route']}" for each in preview["by"]]
    render.notice(f"{preview['total']} go out again: {', '.join(parts)}")


def _follow(client: SyncClient, started: Json) -> Json:
    """Show how far a replay has come until it is over."""
    sightings = _poll(client, started)
    try:
        return (
            _show_progress(sightings, started)
            if render.is_terminal(sys.stderr)
            else _print_progress(sightings, started)
        )
    except KeyboardInterrupt:
        render.notice(f"It goes on in the service. To stop it: kling-receiver replay cancel {started['id']}")
        raise


def _poll(client: SyncClient, started: Json) -> Iterator[Json]:
    """Give the replay again and again until it is over, through a restart of the service too."""
    found = started
    while found["state"] == "running":
        time.sleep(_POLL_SECONDS)
        try:
            found = client.get(f"/api/replays/{started['id']}")
        except ServiceUnreachable as exc:
            remedy = f"The replay goes on when it runs again: kling-receiver replay show {started['id']}"
            raise ServiceUnreachable(exc.message, remedy=remedy) from exc
        yield found


def _show_progress(snapshots: Iterator[Json], started: Json) -> Json:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found = started
    with Progress(*columns, console=render.console(sys.stderr), transient=True) as progress:
        shown = progress.add_task(started["id"], total=started["total"])
        for found in snapshots:
            progress.update(shown, completed=found["created"])
    return found


def _print_progress(snapshots: Iterator[Json], started: Json) -> Json:
    before = found = started
    for found in snapshots:
        if found["created"] != before["created"]:
            render.notice(f"{found['id']}  {found['created']} of {found['total']}")
        before = found
    return found


def _selection_text(selection: Json) -> str:
    """Put a selection into a few words, as the options that ask for it."""
    words = []
    for name, value in selection.items():
        if value and isinstance(value, list):
            words.append(f"{name}={','.join(value) if len(value) <= _MAX_LISTED else len(value)}")
        elif value:
            words.append(f"{name}={value}")
    return " ".join(words)


def _details(found: Json) -> list[tuple[str, object]]:
    return [
        ("id", found["id"]),
        ("state", found["state"]),
        ("out", f"{found['created']} of {found['total']}"),
        ("what", _selection_text(found["selection"])),
        ("pace", found.get("pace")),
        ("by", found.get("actor")),
        ("why", found.get("why")),
        ("created at", found.get("created_at")),
        ("finished at", found.get("finished_at")),
    ]
