"""`kling-receiver listen`: events brought to a program under development, signed and shaped as a route would.

It is only a listener: nothing is marked as delivered, and what fails is told and not tried again.
"""

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from pydantic import ValidationError

from receiver.cli import INTERRUPTED, render
from receiver.cli.options import OUTPUT, OutputOptions, UsageError, parse_time
from receiver.client import Client, Event
from receiver.client.event_cursor import BEFORE_ALL
from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.clock import Ids, SystemClock, first_id
from receiver.domain.model import Accepted, Json, Outcome, Verification
from receiver.domain.model import Event as StoredEvent
from receiver.events.routing import Candidate, compile_routes
from receiver.settings import RouteSettings
from receiver.settings.secrets import LoadContext, is_reference, resolve

_OUTAGE_TOLERANCE = timedelta(hours=1)  # a person is there, who may end it
_WEBHOOK, _SCRIPT, _SHOWN = "webhook", "script", "shown"
_OPTIONS = {
    "on": "--on",
    "endpoints": "--endpoints",
    "where": "--where",
    "url": "--forward-to",
    "secret": "--secret",
    "command": "the command",
}
_MAX_TEXT = 200


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """Which events are wanted, and from which service."""

    on: Annotated[list[str] | None, Parameter(help="Only these: succeed, failed, alert, ... (default: all).")] = None
    endpoints: Annotated[list[str] | None, Parameter(help='Only of these endpoints, as globs: "images/*".')] = None
    where: Annotated[str | None, Parameter(help="Only those for whose data this JMESPath expression is true.")] = None
    since: Annotated[
        str | None, Parameter(help='Begin after this event, or so long ago: evt_..., "1h", "2026-11-22 10:00".')
    ] = None
    url: Annotated[str | None, Parameter(help="The service's admin listener, if it is on another machine.")] = None
    token: Annotated[str | None, Parameter(help="Its token, or where it is kept: env:NAME, file:PATH.")] = None

    def route_keys(self) -> Json:
        """Give the keys of a route that wants these events."""
        keys = {"on": self.on or ["*"], "endpoints": self.endpoints, "where": self.where}
        return {name: value for name, value in keys.items() if value}


_ALL_EVENTS = EventOptions()


def listen(
    *command: Annotated[str, Parameter(help="After --: a program and its arguments, run once for each event.")],
    forward_to: Annotated[str | None, Parameter(help="Post each event there: http://127.0.0.1:3000/hook.")] = None,
    exec_: Annotated[
        str | None, Parameter(name="--exec", help="The program in one word: './publish --fast'; no shell is between.")
    ] = None,
    secret: Annotated[str | None, Parameter(help="Sign with this, or env:NAME; else with one made and shown.")] = None,
    options: EventOptions = _ALL_EVENTS,
    output: OutputOptions = OUTPUT,
) -> int:
    """Bring events to a URL or a program while you develop it, or just show them, until Ctrl-C.

    Body, headers, signature and variables are those of a real delivery, but for results that are brought home: an
    event comes when it happens, before its files are there (no assets, KLING_ASSET_DIR empty). Nothing is marked as
    delivered.
    """
    program = [*command, *(shlex.split(exec_) if exec_ else ())]
    if command and exec_:
        raise UsageError("The program is named twice.", remedy="Give --exec, or the program behind --.")
    signed_with = secret or f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
    routes = _build_routes(options.route_keys(), forward_to, signed_with, program)
    _check_targets(routes)
    token = _resolve_secret("--token", options.token) if options.token else None
    client = Client(options.url, token, config=output.config, outage_tolerance=_OUTAGE_TOLERANCE)
    if forward_to and not secret:
        render.notice(f"Signed with {signed_with}, made for this run; --secret keeps to one of yours.")
    with suppress(asyncio.CancelledError):
        asyncio.run(_Forwarder(client, routes, as_json=output.json).run(options.since))
    return INTERRUPTED


@dataclass(slots=True)
class _Summary:
    """How many events came, how their deliveries went, and which event was the last."""

    events: int = 0
    accepted: int = 0
    failed: int = 0
    newest: str = ""
    last_forwarded: str = ""  # that all got who were to have it

    def count(self, event: Event, outcome: Outcome | None = None) -> None:
        """Count an event that was handed on, once for all who got it, and how one of them took it."""
        self.events += event.id != self.newest
        self.newest = event.id
        self.accepted += isinstance(outcome, Accepted)
        self.failed += outcome is not None and not isinstance(outcome, Accepted)

    def __str__(self) -> str:
        went = f", {self.accepted} taken, {self.failed} not" if self.accepted or self.failed else ""
        more = f" Go on from here with --since {self.last_forwarded}" if self.last_forwarded else ""
        return f"{self.events} {'event' if self.events == 1 else 'events'}{went}.{more}"


class _Forwarder:
    """Hands events on, one after the other, and tells how each was taken."""

    def __init__(self, client: Client, routes: Sequence[RouteSettings], *, as_json: bool) -> None:
        self._client = client
        self._routes = routes
        self._route_table = compile_routes(routes)
        self._as_json = as_json
        self._clock = SystemClock()
        self._ids = Ids(self._clock)
        self._summary = _Summary()

    async def run(self, since: str | None) -> None:
        """Hand on what happens, until somebody ends it."""
        me = asyncio.current_task()
        if me is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
        async with self._client, _open_senders(self._routes) as senders:
            after = await self._start_after(since)
            render.notice(f"Listening to {self._client.url}. End with Ctrl-C.")
            try:
                async for event in self._client.events(after=after):
                    await self._forward(event, senders)
            finally:
                render.notice(str(self._summary))

    async def _start_after(self, since: str | None) -> str:
        """Tell after which event to begin; without a wish, after the newest."""
        if since is None:
            newest = (await self._client.list_events(limit=1)).items
            return newest[0].id if newest else BEFORE_ALL
        if since.startswith("evt_"):
            return since
        return first_id("evt", datetime.fromisoformat(parse_time("--since", since)))

    async def _forward(self, event: Event, senders: Mapping[str, Sender]) -> None:
        wanted = [decision.route for decision in self._route_table.decide(_candidate(event)) if decision.wanted]
        if not wanted:
            return
        for name in wanted:
            if (sender := senders.get(name)) is None:
                self._summary.count(event)
                self._print_event(event)
                continue
            parcel = await self._delivery_request(event)
            started = perf_counter()
            outcome = await sender.send(parcel)
            self._summary.count(event, outcome)
            self._print_outcome(event, name, outcome, timedelta(seconds=perf_counter() - started))
        self._summary.last_forwarded = event.id

    async def _delivery_request(self, event: Event) -> DeliveryRequest:
        """Pack an event as the service would, in the very bytes it would send."""
        stored = StoredEvent(
            id=event.id,
            type=event.type,
            envelope=await self._client.event_body(event.id),
            body=b"",
            verified=Verification.NONE,
            created_at=datetime.fromisoformat(event.timestamp),
            task_id=event.task_id,
        )
        return DeliveryRequest(delivery_id=self._ids.new("dlv"), event=stored, attempt=1, at=self._clock.now())

    def _print_event(self, event: Event) -> None:
        if self._as_json:
            render.print_json_line(event.raw)
        else:
            render.print_line(*_event_cells(event), event.data.get("message"))

    def _print_outcome(self, event: Event, name: str, outcome: Outcome, duration: timedelta) -> None:
        from receiver.web import serializers

        told = serializers.outcome_json(outcome, duration=duration)
        if self._as_json:
            ids = {"event_id": event.id, "type": event.type, "task_id": event.task_id, "to": name}
            render.print_json_line(ids | told)
            return
        words = (told["reason"] or told["excerpt"].strip())[:_MAX_TEXT]
        code = "" if told["code"] is None else f"({told['code']})"
        render.print_line(
            *_event_cells(event), name, f"{told['outcome']} {code}".strip(), f"{told['duration_ms']:.0f} ms", words
        )


def _event_cells(event: Event) -> tuple[object, ...]:
    return render.local_time(event.timestamp), event.type, event.id, event.task_id


def _candidate(event: Event) -> Candidate:
    """Ask as the service does, but for trust: what it could not confirm is shown to a developer as well."""
    endpoint = (event.data.get("task") or {}).get("endpoint")
    return Candidate(type=event.type, endpoint=endpoint, trusted=True, data=lambda: event.data)


@asynccontextmanager
async def _open_senders(routes: Sequence[RouteSettings]) -> AsyncIterator[Mapping[str, Sender]]:
    """Open the senders that the service would have for such routes."""
    from receiver import __version__
    from receiver.delivery.lanes import make_sender
    from receiver.net.http_client import HttpClient

    async with AsyncExitStack() as stack:
        outbound = HttpClient(user_agent=f"kling-receiver/{__version__}")
        stack.push_async_callback(outbound.aclose)
        yield {route.name: make_sender(route, outbound) for route in routes if route.name != _SHOWN}


def _build_routes(
    route_keys: Json, forward_to: str | None, secret: str, program: Sequence[str]
) -> Sequence[RouteSettings]:
    """Make the routes that the service would have for this; one that leads to the screen, if nothing is asked for."""
    wanted: list[Json] = []
    if forward_to:
        url = forward_to if "://" in forward_to or is_reference(forward_to) else f"http://{forward_to}"
        wanted.append({"name": _WEBHOOK, "webhook": {"url": url, "secret": [secret]}})
    if program or not forward_to:
        name = _SCRIPT if program else _SHOWN
        wanted.append({"name": name, "script": {"command": program or ["true"]}})  # what only shows runs nothing
    around = LoadContext(environ=os.environ, folder=Path.cwd())
    try:
        return [RouteSettings.model_validate(each | route_keys, context=around) for each in wanted]
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        option = next((_OPTIONS[step] for step in error["loc"] if step in _OPTIONS), "")
        raise UsageError(f"{option}: {error.get('ctx', {}).get('error') or error['msg']}.") from exc


def _check_targets(routes: Sequence[RouteSettings]) -> None:
    """Refuse at once what no event could be brought to. Raises UsageError."""
    for route in routes:
        if route.webhook is not None:
            host = urlsplit(route.webhook.url).hostname or ""
            try:
                socket.getaddrinfo(host, None)
            except OSError as exc:
                raise UsageError(
                    f"--forward-to: there is no machine called {host}.",
                    remedy="Write it like http://127.0.0.1:3000/hook.",
                ) from exc
        if route.script is not None and shutil.which(route.script.command[0]) is None:
            raise UsageError(
                f"{route.script.command[0]} is no program that can be run here.",
                remedy="Check its name, and that it may be executed (chmod +x).",
            )


def _resolve_secret(option: str, text: str) -> str:
    try:
        return resolve(text, LoadContext(environ=os.environ, folder=Path.cwd()))
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}.") from exc
