"""The nodes as the API shows them."""

import re
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta

from receiver import __version__
from receiver.domain.api_schema import resources
from receiver.domain.clock import Clock, iso
from receiver.domain.duties import Duty
from receiver.service.nodes.duty_holder import duties_of
from receiver.settings import Settings
from receiver.store.interfaces.nodes import NodesView

_UNKNOWN_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME = 63


def node_name(settings: Settings) -> str:
    """Return the name of this node: the configured one, or that of the host."""
    return settings.store.node or _UNKNOWN_CHARACTERS.sub("-", socket.gethostname())[:_MAX_NAME]


async def only_node(settings: Settings, started_at: datetime, clock: Clock) -> Sequence[resources.Node]:
    """Return this process, which does every duty because no other one can use its store."""
    return [
        resources.Node(
            name=node_name(settings),
            version=__version__,
            started_at=iso(started_at),
            seen_at=iso(clock.now()),
            state="live",
            duties=[duty.value for duty in Duty],
        )
    ]


def listed(view: NodesView, *, silent_after: timedelta) -> Sequence[resources.Node]:
    """Return all nodes of a database, by name."""
    return [
        resources.Node(
            name=node.name,
            version=node.version,
            started_at=iso(node.started_at),
            seen_at=iso(node.seen_at),
            state="live" if node.silence < silent_after else "silent",
            duties=[duty.value for duty in duties_of(view, node.instance)],
        )
        for node in view.nodes
    ]
