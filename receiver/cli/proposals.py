"""What the shell proposes for a value. What the service knows is proposed only if it answers at once."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from receiver.domain.errors import ReceiverError
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Json

if TYPE_CHECKING:
    from cyclopts.completion._engine import CompletionContext

_SECONDS = 1.0  # a shell waits for the proposals
_NEWEST = "50"

Proposal: TypeAlias = str | tuple[str, str]
"""A value, or a value with its description."""


def states(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the states of a task."""
    return [*ListedState]


def batch_states(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the states of a batch."""
    from receiver.domain.batches import BatchState

    return [*BatchState]


def delivery_statuses(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the statuses of a delivery."""
    from receiver.domain.model import DeliveryStatus

    return [*DeliveryStatus]


def groupings(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose what costs may be summed by."""
    from receiver.domain.costs import CostGrouping

    return ["tag:" if each is CostGrouping.TAG else each.value for each in CostGrouping]


def endpoints(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the listed endpoints that create tasks."""
    from receiver.kling.endpoints import CATALOGUE

    return [each.path for each in CATALOGUE.values() if each.asynchronous]


def event_types(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the types of events about tasks and batches."""
    from receiver.cli.events import TYPES

    return TYPES


def route_events(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the kinds of events that a route names."""
    from receiver.cli.events import STATES

    return [*STATES, "batch", "alert", "*"]


def tasks(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the newest tasks."""
    return [
        (each["id"], " ".join(str(each.get(name) or "") for name in ("state", "endpoint", "label")).strip())
        for each in _items(context, "/api/tasks")
    ]


def batches(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the newest batches."""
    return [(each["name"], each["state"]) for each in _items(context, "/api/batches")]


def events(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the newest events."""
    return [(each["data"]["event_id"], each["type"]) for each in _items(context, "/api/events")]


def deliveries(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the newest deliveries."""
    return [(each["id"], f"{each['status']} {each['route']}") for each in _items(context, "/api/deliveries")]


def replays(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the newest replays."""
    return [(each["id"], each["state"]) for each in _items(context, "/api/replays")]


def alerts(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the open alerts."""
    return [
        (each["id"], f"{each['type']} {each.get('subject') or ''}".strip()) for each in _items(context, "/api/alerts")
    ]


def profiles(_: "CompletionContext") -> Sequence[Proposal]:
    """Propose the profiles of the user's configuration."""
    import os

    from receiver.settings.profiles import load_profiles

    try:
        return [(each.name, each.url) for each in load_profiles(os.environ).values()]
    except ReceiverError:
        return []


def routes(context: "CompletionContext") -> Sequence[Proposal]:
    """Propose the routes: of the service, or of the configuration if the service does not answer."""
    try:
        return [each["name"] for each in _fetch(context, "/api/routes", {})]
    except (ReceiverError, TimeoutError):
        return _configured_routes(context)


def _configured_routes(context: "CompletionContext") -> Sequence[Proposal]:
    import os

    from receiver.settings import toml_document
    from receiver.settings.finder import find

    config = _option(context, "--config")
    path = find(None if config is None else Path(config), os.environ, Path.cwd())
    try:
        configured = toml_document.read(path, label=path.name).values.get("routes", []) if path else []
    except ReceiverError:
        return []
    return [each["name"] for each in configured if isinstance(each, dict) and isinstance(each.get("name"), str)]


def _items(context: "CompletionContext", path: str) -> Sequence[Json]:
    try:
        return _fetch(context, path, {"limit": _NEWEST})
    except (ReceiverError, TimeoutError):
        return []


def _fetch(context: "CompletionContext", path: str, query: dict[str, str]) -> Sequence[Json]:
    """Return the items of a list, asked with the options on the command line."""
    from receiver.cli.options import ClientOptions

    config = _option(context, "--config")
    options = ClientOptions(
        config=None if config is None else Path(config),
        url=_option(context, "--url"),
        token=_option(context, "--token"),
        profile=_option(context, "--profile"),
    )

    async def fetch() -> Sequence[Json]:
        async with asyncio.timeout(_SECONDS), options.connect_async(outage_tolerance=timedelta()) as client:
            items: Sequence[Json] = (await client.get(path, query))["items"]
            return items

    return asyncio.run(fetch())


def _option(context: "CompletionContext", name: str) -> str | None:
    """Return the value of an option, as far as it is typed."""
    argument = context.get(name)
    raw: str | None = None if argument is None else argument.raw
    return raw
