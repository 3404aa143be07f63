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
from receiver.cli.options import READING, Reading, UsageError, moment
from receiver.client import Client, Event
from receiver.client.event_cursor import BEFORE_ALL
from receiver.delivery.senders.sender import Parcel, Sender
from receiver.domain.clock import Ids, SystemClock, first_id
from receiver.domain.model import Accepted, Json, Outcome, Verified
from receiver.domain.model import Event as StoredEvent
from receiver.events.routing import Candidate, compile_routes
from receiver.settings import RouteSettings
from receiver.settings.secrets import Surroundings, is_reference, resolve

_PATIENCE = timedelta(hours=1)  # a person is there, who may end it
_WEBHOOK, _SCRIPT, _SHOWN = "webhook", "script", "shown"
_OPTIONS = {
    "on": "--on",
    "endpoints": "--endpoints",
    "where": "--where",
    "url": "--forward-to",
    "secret": "--secret",
    "command": "the command",
}
_LONGEST_WORDS = 200


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which events are wanted, and from which service."""

    on: Annotated[list[str] | None, Parameter(help="Only these: succeed, failed, alert, ... (default: all).")] = None
    endpoints: Annotated[list[str] | None, Parameter(help='Only of these endpoints, as globs: "images/*".')] = None
    where: Annotated[str | None, Parameter(help="Only those for whose data this JMESPath expression is true.")] = None
    since: Annotated[
        str | None, Parameter(help='Begin after this event, or so long ago: evt_..., "1h", "2026-11-22 10:00".')
    ] = None
    url: Annotated[str | None, Parameter(help="The service's admin listener, if it is on another machine.")] = None
    token: Annotated[str | None, Parameter(help="Its token, or where it is kept: env:NAME, file:PATH.")] = None

    def rule(self) -> Json:
        """Give the keys of a route that wants these events."""
        keys = {"on": self.on or ["*"], "endpoints": self.endpoints, "where": self.where}
        return {name: value for name, value in keys.items() if value}


_CHOICE = Choice()


def listen(
    *command: Annotated[str, Parameter(help="After --: a program and its arguments, run once for each event.")],
    forward_to: Annotated[str | None, Parameter(help="Post each event there: http://127.0.0.1:3000/hook.")] = None,
    exec_: Annotated[
        str | None, Parameter(name="--exec", help="The program in one word: './publish --fast'; no shell is between.")
    ] = None,
    secret: Annotated[str | None, Parameter(help="Sign with this, or env:NAME; else with one made and shown.")] = None,
    choice: Choice = _CHOICE,
    reading: Reading = READING,
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
    routes = _routes(choice.rule(), forward_to, signed_with, program)
    _see_that_it_can_work(routes)
    token = _secret("--token", choice.token) if choice.token else None
    client = Client(choice.url, token, config=reading.config, patience=_PATIENCE)
    if forward_to and not secret:
        render.note(f"Signed with {signed_with}, made for this run; --secret keeps to one of yours.")
    with suppress(asyncio.CancelledError):
        asyncio.run(_Relay(client, routes, as_json=reading.json).run(choice.since))
    return INTERRUPTED


@dataclass(slots=True)
class _Tally:
    """How many events came, how their deliveries went, and which event was the last."""

    events: int = 0
    taken: int = 0
    failed: int = 0
    newest: str = ""
    last: str = ""  # that all got who were to have it

    def count(self, event: Event, outcome: Outcome | None = None) -> None:
        """Count an event that was handed on, once for all who got it, and how one of them took it."""
        self.events += event.id != self.newest
        self.newest = event.id
        self.taken += isinstance(outcome, Accepted)
        self.failed += outcome is not None and not isinstance(outcome, Accepted)

    def __str__(self) -> str:
        went = f", {self.taken} taken, {self.failed} not" if self.taken or self.failed else ""
        more = f" Go on from here with --since {self.last}" if self.last else ""
        return f"{self.events} {'event' if self.events == 1 else 'events'}{went}.{more}"


class _Relay:
    """Hands events on, one after the other, and tells how each was taken."""

    def __init__(self, client: Client, routes: Sequence[RouteSettings], *, as_json: bool) -> None:
        self._client = client
        self._routes = routes
        self._routing = compile_routes(routes)
        self._as_json = as_json
        self._clock = SystemClock()
        self._ids = Ids(self._clock)
        self._tally = _Tally()

    async def run(self, since: str | None) -> None:
        """Hand on what happens, until somebody ends it."""
        me = asyncio.current_task()
        if me is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
        async with self._client, _senders(self._routes) as senders:
            after = await self._start(since)
            render.note(f"Listening to {self._client.url}. End with Ctrl-C.")
            try:
                async for event in self._client.events(after=after):
                    await self._hand_on(event, senders)
            finally:
                render.note(str(self._tally))

    async def _start(self, since: str | None) -> str:
        """Tell after which event to begin; without a wish, after the newest."""
        if since is None:
            newest = (await self._client.history(limit=1)).items
            return newest[0].id if newest else BEFORE_ALL
        if since.startswith("evt_"):
            return since
        return first_id("evt", datetime.fromisoformat(moment("--since", since)))

    async def _hand_on(self, event: Event, senders: Mapping[str, Sender]) -> None:
        wanted = [decision.route for decision in self._routing.decide(_candidate(event)) if decision.wanted]
        if not wanted:
            return
        for name in wanted:
            if (sender := senders.get(name)) is None:
                self._tally.count(event)
                self._show(event)
                continue
            parcel = await self._parcel(event)
            started = perf_counter()
            outcome = await sender.send(parcel)
            self._tally.count(event, outcome)
            self._tell(event, name, outcome, timedelta(seconds=perf_counter() - started))
        self._tally.last = event.id

    async def _parcel(self, event: Event) -> Parcel:
        """Pack an event as the service would, in the very bytes it would send."""
        stored = StoredEvent(
            id=event.id,
            type=event.type,
            envelope=await self._client.event_body(event.id),
            body=b"",
            verified=Verified.NONE,
            created_at=datetime.fromisoformat(event.timestamp),
            task_id=event.task_id,
        )
        return Parcel(delivery_id=self._ids.new("dlv"), event=stored, attempt=1, at=self._clock.now())

    def _show(self, event: Event) -> None:
        if self._as_json:
            render.as_json_line(event.raw)
        else:
            render.line(*_facts(event), event.data.get("message"))

    def _tell(self, event: Event, name: str, outcome: Outcome, duration: timedelta) -> None:
        from receiver.web import serializers

        told = serializers.outcome(outcome, duration=duration)
        if self._as_json:
            ids = {"event_id": event.id, "type": event.type, "task_id": event.task_id, "to": name}
            render.as_json_line(ids | told)
            return
        words = (told["reason"] or told["excerpt"].strip())[:_LONGEST_WORDS]
        code = "" if told["code"] is None else f"({told['code']})"
        render.line(*_facts(event), name, f"{told['outcome']} {code}".strip(), f"{told['duration_ms']:.0f} ms", words)


def _facts(event: Event) -> tuple[object, ...]:
    return render.when(event.timestamp), event.type, event.id, event.task_id


def _candidate(event: Event) -> Candidate:
    """Ask as the service does, but for trust: what it could not confirm is shown to a developer as well."""
    endpoint = (event.data.get("task") or {}).get("endpoint")
    return Candidate(type=event.type, endpoint=endpoint, trusted=True, data=lambda: event.data)


@asynccontextmanager
async def _senders(routes: Sequence[RouteSettings]) -> AsyncIterator[Mapping[str, Sender]]:
    """Open the senders that the service would have for such routes."""
    from receiver import __version__
    from receiver.net.http_client import Outbound
    from receiver.service.bootstrap import make_sender

    async with AsyncExitStack() as stack:
        outbound = Outbound(user_agent=f"kling-receiver/{__version__}")
        stack.push_async_callback(outbound.aclose)
        yield {route.name: make_sender(route, outbound) for route in routes if route.name != _SHOWN}


def _routes(rule: Json, forward_to: str | None, secret: str, program: Sequence[str]) -> Sequence[RouteSettings]:
    """Make the routes that the service would have for this; one that leads to the screen, if nothing is asked for."""
    wanted: list[Json] = []
    if forward_to:
        url = forward_to if "://" in forward_to or is_reference(forward_to) else f"http://{forward_to}"
        wanted.append({"name": _WEBHOOK, "webhook": {"url": url, "secret": [secret]}})
    if program or not forward_to:
        name = _SCRIPT if program else _SHOWN
        wanted.append({"name": name, "script": {"command": program or ["true"]}})  # what only shows runs nothing
    around = Surroundings(environ=os.environ, folder=Path.cwd())
    try:
        return [RouteSettings.model_validate(each | rule, context=around) for each in wanted]
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        option = next((_OPTIONS[step] for step in error["loc"] if step in _OPTIONS), "")
        raise UsageError(f"{option}: {error.get('ctx', {}).get('error') or error['msg']}.") from exc


def _see_that_it_can_work(routes: Sequence[RouteSettings]) -> None:
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


def _secret(option: str, text: str) -> str:
    try:
        return resolve(text, Surroundings(environ=os.environ, folder=Path.cwd()))
    except ValueError as exc:
        raise UsageError(f"{option}: {exc}.") from exc
