"""`kling-receiver listen`: forwards events to a program under development, in the form of real deliveries.

It only listens: nothing is marked as delivered, and a failure is printed, not retried.
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
from receiver.cli.options import CLIENT, ClientOptions, UsageError, parse_time
from receiver.cli.value_kinds import COMMAND, EXPRESSION, GLOB, KEY, ROUTE_EVENT, TIME, URL
from receiver.client import Client, Event
from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.clock import BEFORE_ALL_EVENTS, Ids, SystemClock, first_id
from receiver.domain.model import Accepted, Json, Outcome, Verification
from receiver.domain.model import Event as StoredEvent
from receiver.events.routing import Candidate, compile_routes
from receiver.settings import RouteSettings
from receiver.settings.secrets import LoadContext, is_reference, resolve

_OUTAGE_TOLERANCE = timedelta(hours=1)  # a developer is present and can stop it
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
    """Filters for events."""

    on: Annotated[
        list[str] | None,
        ROUTE_EVENT,
        Parameter(help="Only this kind: succeed, failed, alert, ... May be repeated."),
    ] = None
    endpoints: Annotated[
        list[str] | None, GLOB, Parameter(help='Only these endpoints, as globs: "images/*". May be repeated.')
    ] = None
    where: Annotated[
        str | None, EXPRESSION, Parameter(help="Only events for whose data this JMESPath expression is true.")
    ] = None
    since: Annotated[
        str | None, TIME, Parameter(help='Start after this event or time: evt_..., "1h" ago, "2026-11-22 10:00".')
    ] = None

    def route_keys(self) -> Json:
        """Return the keys of a route that matches these events."""
        keys = {"on": self.on or ["*"], "endpoints": self.endpoints, "where": self.where}
        return {name: value for name, value in keys.items() if value}


_ALL_EVENTS = EventOptions()


def listen(
    *command: Annotated[str, Parameter(help="After --: the program and its arguments to run for each event.")],
    forward_to: Annotated[
        str | None, URL, Parameter(help="Post each event to this URL: http://localhost:3000/hook.")
    ] = None,
    exec_: Annotated[
        str | None, COMMAND, Parameter(name="--exec", help="Run this command per event (no shell): './publish --fast'.")
    ] = None,
    secret: Annotated[
        str | None, KEY, Parameter(help="Signing secret, or env:NAME. Without one, a new secret is made and shown.")
    ] = None,
    options: EventOptions = _ALL_EVENTS,
    output: ClientOptions = CLIENT,
) -> int:
    """Forward events to a URL or a program under development, or print them, until Ctrl-C.

    Body, headers, signature and variables are those of a real delivery, with one exception: archived results.
    An event arrives before its files are archived (no assets, no KLING_ASSET_DIR).
    Nothing is marked as delivered.
    """
    program = [*command, *(shlex.split(exec_) if exec_ else ())]
    if command and exec_:
        raise UsageError("The program is given twice.", remedy="Use either --exec or the program after --.")
    signing_secret = secret or f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
    routes = _build_routes(options.route_keys(), forward_to, signing_secret, program)
    _check_targets(routes)
    client = output.connect_async(outage_tolerance=_OUTAGE_TOLERANCE)
    if forward_to and not secret:
        render.notice(f"Signed with {signing_secret}, made for this run. Use --secret to set your own.")
    with suppress(asyncio.CancelledError):
        asyncio.run(_Forwarder(client, routes, as_json=output.json).run(options.since))
    return INTERRUPTED


@dataclass(slots=True)
class _Summary:
    """Counts of events and of their deliveries, and the last event."""

    events: int = 0
    accepted: int = 0
    failed: int = 0
    newest: str = ""
    last_forwarded: str = ""  # the last event that every matching target received

    def count(self, event: Event, outcome: Outcome | None = None) -> None:
        """Count an event once, and the outcome of each of its deliveries."""
        self.events += event.id != self.newest
        self.newest = event.id
        self.accepted += isinstance(outcome, Accepted)
        self.failed += outcome is not None and not isinstance(outcome, Accepted)

    def __str__(self) -> str:
        outcomes = f", {self.accepted} accepted, {self.failed} failed" if self.accepted or self.failed else ""
        resume = f" Resume with --since {self.last_forwarded}" if self.last_forwarded else ""
        return f"{self.events} {'event' if self.events == 1 else 'events'}{outcomes}.{resume}"


class _Forwarder:
    """Forwards events in order, and prints the outcome of each."""

    def __init__(self, client: Client, routes: Sequence[RouteSettings], *, as_json: bool) -> None:
        self._client = client
        self._routes = routes
        self._route_table = compile_routes(routes)
        self._as_json = as_json
        self._clock = SystemClock()
        self._ids = Ids(self._clock)
        self._summary = _Summary()

    async def run(self, since: str | None) -> None:
        """Forward events until SIGTERM or Ctrl-C."""
        this_task = asyncio.current_task()
        if this_task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
        async with self._client, _open_senders(self._routes) as senders:
            after = await self._start_after(since)
            render.notice(f"Listening to {self._client.url}. Stop with Ctrl-C.")
            try:
                async for event in self._client.events(after=after):
                    await self._forward(event, senders)
            finally:
                render.notice(str(self._summary))

    async def _start_after(self, since: str | None) -> str:
        """Return the id of the event to start after; by default the newest."""
        if since is None:
            newest = (await self._client.list_events(limit=1)).items
            return newest[0].id if newest else BEFORE_ALL_EVENTS
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
            request = await self._delivery_request(event)
            started_at = perf_counter()
            outcome = await sender.send(request)
            self._summary.count(event, outcome)
            self._print_outcome(event, name, outcome, timedelta(seconds=perf_counter() - started_at))
        self._summary.last_forwarded = event.id

    async def _delivery_request(self, event: Event) -> DeliveryRequest:
        """Build the request of a real delivery, with exactly the bytes the service would send."""
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

        fields = serializers.outcome_json(outcome, duration=duration).to_json()
        if self._as_json:
            ids = {"event_id": event.id, "type": event.type, "task_id": event.task_id, "to": name}
            render.print_json_line(ids | fields)
            return
        text = (fields["reason"] or fields["excerpt"].strip())[:_MAX_TEXT]
        code = "" if fields["code"] is None else f"({fields['code']})"
        render.print_line(
            *_event_cells(event), name, f"{fields['outcome']} {code}".strip(), f"{fields['duration_ms']:.0f} ms", text
        )


def _event_cells(event: Event) -> tuple[object, ...]:
    return render.local_time(event.timestamp), event.type, event.id, event.task_id


def _candidate(event: Event) -> Candidate:
    """Return the routing candidate of an event. Unconfirmed events count as trusted, so that a developer sees them."""
    endpoint = (event.data.get("task") or {}).get("endpoint")
    return Candidate(type=event.type, endpoint=endpoint, trusted=True, data=lambda: event.data)


@asynccontextmanager
async def _open_senders(routes: Sequence[RouteSettings]) -> AsyncIterator[Mapping[str, Sender]]:
    """Open the same senders that the service uses for these routes."""
    from receiver import __version__
    from receiver.delivery.lane_registry import make_sender
    from receiver.net.http_client import HttpClient

    async with AsyncExitStack() as stack:
        http_client = HttpClient(user_agent=f"kling-receiver/{__version__}")
        stack.push_async_callback(http_client.aclose)
        yield {route.name: make_sender(route, http_client) for route in routes if route.name != _SHOWN}


def _build_routes(
    route_keys: Json, forward_to: str | None, secret: str, program: Sequence[str]
) -> Sequence[RouteSettings]:
    """Build a route for each target; without a target, one that only prints."""
    tables: list[Json] = []
    if forward_to:
        url = forward_to if "://" in forward_to or is_reference(forward_to) else f"http://{forward_to}"
        tables.append({"name": _WEBHOOK, "webhook": {"url": url, "secret": [secret]}})
    if program or not forward_to:
        name = _SCRIPT if program else _SHOWN
        tables.append({"name": name, "script": {"command": program or ["true"]}})  # a route that prints runs nothing
    context = LoadContext(environ=os.environ, folder=Path.cwd())
    try:
        return [RouteSettings.model_validate(table | route_keys, context=context) for table in tables]
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        option = next((_OPTIONS[step] for step in error["loc"] if step in _OPTIONS), "")
        reason = str(error.get("ctx", {}).get("error") or error["msg"])
        raise UsageError(f"{option}: {reason if reason.endswith('?') else f'{reason}.'}") from exc


def _check_targets(routes: Sequence[RouteSettings]) -> None:
    """Check at start that the targets exist. Raises UsageError."""
    for route in routes:
        if route.webhook is not None:
            host = urlsplit(route.webhook.url).hostname or ""
            try:
                socket.getaddrinfo(host, None)
            except OSError as exc:
                raise UsageError(
                    f"--forward-to: the host {host} is unknown.",
                    remedy="Write a URL such as http://127.0.0.1:3000/hook.",
                ) from exc
        if route.script is not None and shutil.which(route.script.command[0]) is None:
            raise UsageError(
                f"{route.script.command[0]} is not an executable program.",
                remedy="Check its path and its permissions (`chmod +x`).",
            )


def _resolve_secret(option: str, text: str) -> str:
    try:
        return resolve(text, LoadContext(environ=os.environ, folder=Path.cwd()))
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}.") from exc
