"""Registers a process under the name of its node, which no other live process may have."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from receiver.domain.errors import StoreLocked
from receiver.service.nodes.duty_plan import LeaseTiming
from receiver.store.interfaces.nodes import NodeIdentity, NodeStore

log = structlog.get_logger()

_LOOK_EVERY = timedelta(seconds=0.5)


async def register(
    store: NodeStore,
    node: NodeIdentity,
    *,
    timing: LeaseTiming,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Register this process. A process that died keeps its name until its leases end, so this may wait for that.

    Raises StoreLocked if the other process is alive.
    """
    first = found = await store.register(node)
    while found is not None and first is not None:
        if found.instance != first.instance or found.seen_at != first.seen_at:
            raise StoreLocked(
                f"Another live process is node {node.name!r} of this database, version {found.version}.",
                remedy="Give each node a name of its own in [store] node, or stop the other process.",
            )
        is_dead = found.silence > timing.lifetime + timing.interval
        if not is_dead:
            log.info("node.waiting", node=node.name, reason="A process with this name may have died just now.")
            await sleep(_LOOK_EVERY.total_seconds())
        found = await store.register(node, replacing=found.instance if is_dead else None)
    log.info("node.registered", node=node.name, instance=node.instance)
