"""The values that the shell proposes. Values that only the service knows are proposed if it answers within a second."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlencode, urlsplit

from receiver.domain.errors import ReceiverError, ServiceUnreachable
from receiver.domain.listed_state import ListedState
from receiver.domain.model import TaskState

if TYPE_CHECKING:
    from cyclopts.completion._engine import CompletionContext

    from receiver.cli.fast_completion import LineContext
    from receiver.domain.model import Json

    Context: TypeAlias = CompletionContext | LineContext

_BEFORE_KLING = (TaskState.AWAITING, TaskState.QUEUED, TaskState.SUBMITTING)
_SECONDS = 1.0  # a shell waits for the candidates
_MAX_BYTES = 1 << 20
_NEWEST = "50"

Proposal: TypeAlias = str | tuple[str, str]
"""A value, or a value with its description."""


def states(_: "Context") -> Sequence[Proposal]:
    """Propose the states of a task."""
    return [*ListedState]


def reached_states(_: "Context") -> Sequence[Proposal]:
    """Propose the states that a test task can reach."""
    return [state for state in TaskState if state not in _BEFORE_KLING]


def batch_states(_: "Context") -> Sequence[Proposal]:
    """Propose the states of a batch."""
    from receiver.domain.batches import BatchState

    return [*BatchState]


def delivery_statuses(_: "Context") -> Sequence[Proposal]:
    """Propose the statuses of a delivery."""
    from receiver.domain.model import DeliveryStatus

    return [*DeliveryStatus]


def groupings(_: "Context") -> Sequence[Proposal]:
    """Propose what costs may be summed by."""
    from receiver.domain.costs import CostGrouping

    return ["tag:" if each is CostGrouping.TAG else each.value for each in CostGrouping]


def endpoints(_: "Context") -> Sequence[Proposal]:
    """Propose the listed endpoints that create tasks."""
    from receiver.kling.endpoints import CATALOGUE

    return [each.path for each in CATALOGUE.values() if each.asynchronous]


def event_types(_: "Context") -> Sequence[Proposal]:
    """Propose the types of events about tasks and batches."""
    from receiver.cli.events import TYPES

    return TYPES


def route_events(_: "Context") -> Sequence[Proposal]:
    """Propose the kinds of events that a route names."""
    from receiver.cli.events import STATES

    return [*STATES, "batch", "alert", "*"]


def tasks(context: "Context") -> Sequence[Proposal]:
    """Propose the newest tasks."""
    return [
        (each["id"], " ".join(str(each.get(name) or "") for name in ("state", "endpoint", "label")).strip())
        for each in _items(context, "/api/tasks")
    ]


def batches(context: "Context") -> Sequence[Proposal]:
    """Propose the newest batches."""
    return [(each["name"], each["state"]) for each in _items(context, "/api/batches")]


def events(context: "Context") -> Sequence[Proposal]:
    """Propose the newest events."""
    return [(each["data"]["event_id"], each["type"]) for each in _items(context, "/api/events")]


def deliveries(context: "Context") -> Sequence[Proposal]:
    """Propose the newest deliveries."""
    return [(each["id"], f"{each['status']} {each['route']}") for each in _items(context, "/api/deliveries")]


def replays(context: "Context") -> Sequence[Proposal]:
    """Propose the newest replays."""
    return [(each["id"], each["state"]) for each in _items(context, "/api/replays")]


def alerts(context: "Context") -> Sequence[Proposal]:
    """Propose the open alerts."""
    return [
        (each["id"], f"{each['type']} {each.get('subject') or ''}".strip()) for each in _items(context, "/api/alerts")
    ]


def profiles(_: "Context") -> Sequence[Proposal]:
    """Propose the profiles of the user's configuration."""
    import os

    from receiver.settings.profiles import load_profiles

    try:
        return [(each.name, each.url) for each in load_profiles(os.environ).values()]
    except ReceiverError:
        return []


def routes(context: "Context") -> Sequence[Proposal]:
    """Propose the routes: of the service, or of the configuration if the service does not answer."""
    try:
        return [each["name"] for each in _fetch(context, "/api/routes", {})]
    except (ReceiverError, TimeoutError):
        return _configured_routes(context)


def _configured_routes(context: "Context") -> Sequence[Proposal]:
    import os

    from receiver.settings import toml_document
    from receiver.settings.config_file import find

    config = _option(context, "--config")
    path = find(None if config is None else Path(config), os.environ, Path.cwd())
    try:
        configured = toml_document.read(path, label=path.name).values.get("routes", []) if path else []
    except ReceiverError:
        return []
    return [each["name"] for each in configured if isinstance(each, dict) and isinstance(each.get("name"), str)]


def _items(context: "Context", path: str) -> Sequence["Json"]:
    try:
        return _fetch(context, path, {"limit": _NEWEST})
    except (ReceiverError, TimeoutError):
        return []


def _fetch(context: "Context", path: str, query: dict[str, str]) -> Sequence["Json"]:
    """Return the items of a list, asked with the options on the command line.

    It uses no client, which takes longer to load than the answer takes.
    """
    url, token = _address(context)
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=_SECONDS)
    try:
        with closing(connection), _deadline():
            connection.request("GET", f"{parts.path.rstrip('/')}{path}?{urlencode(query)}", headers=_headers(token))
            answer = connection.getresponse()
            found = json.loads(answer.read(_MAX_BYTES)) if answer.status == HTTPStatus.OK else {}
    except (OSError, HTTPException, ValueError) as exc:
        raise ServiceUnreachable(str(exc)) from exc
    items: Sequence[Json] = found.get("items", [])
    return items


def _address(context: "Context") -> tuple[str, str]:
    from receiver.client.discovery import discover
    from receiver.settings.secrets import LoadContext, resolve

    config, token = _option(context, "--config"), _option(context, "--token")
    try:
        resolved = None if token is None else resolve(token, LoadContext(environ=os.environ, folder=Path.cwd()))
    except ValueError as exc:
        raise ServiceUnreachable(str(exc)) from exc
    return discover(
        _option(context, "--url"), resolved, None if config is None else Path(config), _option(context, "--profile")
    )


def _headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "accept": "application/json"}


@contextmanager
def _deadline() -> Iterator[None]:
    """Limit the whole exchange: a server that sends byte by byte would reset the time-out of each read."""

    def end(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _option(context: "Context", name: str) -> str | None:
    """Return the value of an option, as far as it is typed."""
    argument = context.get(name)
    raw: str | None = None if argument is None else argument.raw
    return raw
