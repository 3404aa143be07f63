"""`kling-receiver replay`: starts replays of stored events, and shows their progress.

The service runs the replay. The command only starts and watches it, and may end before the replay does.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    CLIENT,
    PAGING,
    ClientOptions,
    Paging,
    Reason,
    ReplayId,
    SpanEnd,
    SpanStart,
    UsageError,
    not_found_hint,
    parse_time,
    usage_errors,
)
from receiver.cli.value_kinds import DELIVERY_ID, DELIVERY_STATUS, EVENT_ID, RATE, ROUTE, TASK_ID
from receiver.client import SyncClient
from receiver.domain.errors import ServiceUnreachable, UnknownRoute
from receiver.domain.model import Json

replay = App(name="replay", help="Redeliver dead deliveries, or send past events to a new route.")

_POLL_SECONDS = 0.5
_MAX_LISTED = 3

COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.Column(title="created", value=lambda each: f"{each['created']} of {each['total']}"),
    render.column("pace", rank=4),
    render.Column(title="selection", value=lambda each: _selection_text(each["selection"]), rank=2),
    render.time_column("created_at", "started", rank=3),
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
    render.id_column("replay_of", "replay of", rank=4),
    render.time_column("created_at", "created", rank=3),
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Filters for deliveries or events; an item must match all that are set."""

    route: Annotated[str | None, ROUTE, Parameter(help="Only deliveries to this route.")] = None
    status: Annotated[
        list[str] | None, DELIVERY_STATUS, Parameter(help="Only dead, delivered or cancelled ones. May be repeated.")
    ] = None
    task: Annotated[str | None, TASK_ID, Parameter(help="Only of this task, by any of its ids.")] = None
    event: Annotated[list[str] | None, EVENT_ID, Parameter(help="Only this event. May be repeated.")] = None
    delivery: Annotated[list[str] | None, DELIVERY_ID, Parameter(help="Only this delivery. May be repeated.")] = None
    from_: SpanStart = None
    to: SpanEnd = None
    to_route: Annotated[
        str | None,
        ROUTE,
        Parameter(
            name="--to-route",
            help="Target route. With only a time, task or event: all past events that this route matches.",
        ),
    ] = None

    def body(self) -> Json:
        """Return the options as members of the API's request."""
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
    pace: Annotated[str | None, RATE, Parameter(help='Maximum rate: "5/s", "100/m".')] = None,
    dry_run: Annotated[bool, Parameter(help="Only show what would be replayed.")] = False,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Replay events: each is sent once to each route, as a new delivery. Past deliveries do not change.

    The service continues a replay after this command ends, and after a crash. See `replay list` and `replay cancel`.
    """
    if options == ReplayOptions(to_route=options.to_route):
        raise UsageError(
            "Nothing is selected to replay.",
            remedy="Add at least one of --route, --status, --task, --event, --delivery and --from.",
        )
    body = options.body() | {name: value for name, value in (("pace", pace), ("why", why)) if value}
    with usage_errors(), output.connect() as client:
        preview = _preview(client, options, body)
        if dry_run or not preview["total"]:
            _print_preview(preview, as_json=output.json)
            return OK
        _print_summary(preview)
        finished = _follow(client, client.post("/api/replays", body))
    _print(finished, output)
    return OK


def _preview(client: SyncClient, options: ReplayOptions, body: Json) -> Json:
    """Return what would be replayed. Raises UsageError if a named route does not exist."""
    try:
        return client.post("/api/replays", body | {"dry_run": True})
    except UnknownRoute as exc:
        option, name = ("--to-route", options.to_route) if options.to_route else ("--route", options.route)
        other = "" if options.to_route else ", or set another target with --to-route"
        raise UsageError(
            f"{option} {name}: this route is not in the configuration.",
            remedy=f"Choose one from `kling-receiver routes list`{other}.",
        ) from exc


@replay.command(name="list")
def list_(*, paging: Paging = PAGING, output: ClientOptions = CLIENT) -> int:
    """List replays, newest first."""
    with usage_errors(), output.connect() as client:
        answer = client.get("/api/replays", dict(paging.query()))
    render.page(COLUMNS, answer, as_json=output.json, empty="No replays.")
    return OK


@replay.command
def show(id_: ReplayId, /, *, output: ClientOptions = CLIENT) -> int:
    """Show one replay and its progress."""
    with not_found_hint("replay list"), output.connect() as client:
        found = client.get(f"/api/replays/{quote(id_, safe='')}")
    _print(found, output)
    return OK


@replay.command
def cancel(
    id_: ReplayId,
    /,
    *,
    why: Reason = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Cancel a replay; the deliveries that it already created continue."""
    with not_found_hint("replay list"), output.connect() as client:
        cancelled = client.post(f"/api/replays/{quote(id_, safe='')}/cancel", {"why": why} if why else {})
    _print(cancelled, output)
    return OK


def _print_preview(preview: Json, *, as_json: bool) -> None:
    if as_json:
        render.print_json(preview)
        return
    render.table(_COUNT_COLUMNS, preview["by"], empty="Nothing matches, so there is nothing to replay.")
    if preview["total"] and render.is_terminal():
        render.console().print()
        render.table(_SAMPLE_COLUMNS, preview["sample"], empty="")
        if preview["total"] > len(preview["sample"]):
            render.notice(f"... and {preview['total'] - len(preview['sample'])} more. Nothing was replayed.")


def _print_summary(preview: Json) -> None:
    parts = [f"{each['route']} ({each['count']} {each['status'] or 'events'})" for each in preview["by"]]
    render.notice(f"{preview['total']} to replay: {', '.join(parts)}")


def _follow(client: SyncClient, started: Json) -> Json:
    """Show the progress of a replay until it is finished."""
    snapshots = _poll(client, started)
    try:
        return (
            _show_progress(snapshots, started)
            if render.is_terminal(sys.stderr)
            else _print_progress(snapshots, started)
        )
    except KeyboardInterrupt:
        render.notice(f"The replay continues in the service. To stop it: kling-receiver replay cancel {started['id']}")
        raise


def _poll(client: SyncClient, started: Json) -> Iterator[Json]:
    """Yield the replay's state at each poll until it is finished."""
    found = started
    while found["state"] == "running":
        time.sleep(_POLL_SECONDS)
        try:
            found = client.get(f"/api/replays/{started['id']}")
        except ServiceUnreachable as exc:
            remedy = f"The replay continues when the service runs again: `kling-receiver replay show {started['id']}`"
            raise ServiceUnreachable(exc.message, remedy=remedy) from exc
        yield found


def _show_progress(snapshots: Iterator[Json], started: Json) -> Json:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
    """Return a short text of a selection, as name=value pairs."""
    pairs = []
    for name, value in selection.items():
        if value and isinstance(value, list):
            pairs.append(f"{name}={','.join(value) if len(value) <= _MAX_LISTED else len(value)}")
        elif value:
            pairs.append(f"{name}={value}")
    return " ".join(pairs)


def _print(found: Json, output: ClientOptions) -> None:
    if output.json:
        render.print_json(found)
    else:
        render.details(_details(found))


def _details(found: Json) -> list[tuple[str, object]]:
    return [
        ("id", found["id"]),
        ("state", found["state"]),
        ("created", f"{found['created']} of {found['total']}"),
        ("selection", _selection_text(found["selection"])),
        ("pace", found.get("pace")),
        ("by", found.get("actor")),
        ("why", found.get("why")),
        ("created at", found.get("created_at")),
        ("finished at", found.get("finished_at")),
    ]
