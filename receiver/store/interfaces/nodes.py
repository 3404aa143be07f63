"""The nodes that share a database, and their leases on duties. All times are those of the database's clock."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from receiver.domain.duties import Duty


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """One process: its node's name, and an ``instance`` that no other process has."""

    name: str
    instance: str
    version: str


class StoredNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the store knows it. ``silence`` is how long ago it was seen."""

    name: str
    instance: str
    version: str
    started_at: datetime
    seen_at: datetime
    silence: timedelta


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A node's hold on a duty. ``epoch`` counts the holders. Without ``instance`` it was given back.

    It ends after ``remaining``; if that is negative, it has ended, and any node may take it.
    """

    duty: Duty
    epoch: int
    node: str | None
    instance: str | None
    remaining: timedelta

    @property
    def has_ended(self) -> bool:
        """Whether another node may take the duty."""
        return self.instance is None or self.remaining <= timedelta()


class NodesView(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes and leases at one moment."""

    nodes: Sequence[StoredNode]
    leases: Sequence[Lease]


class NodeStore(Protocol):
    """The nodes and leases. None of these calls is repeated by the store: its caller knows what is too late."""

    async def register(self, node: NodeIdentity, *, replacing: str | None = None) -> StoredNode | None:
        """Register a process under its node's name. Return the process that has the name, or None.

        *replacing* is the instance of a process that has died and may be replaced.
        """
        ...

    def session(self, node: NodeIdentity) -> AbstractAsyncContextManager[asyncio.Event | None]:
        """Keep a session open that other nodes see, and yield the event that is set when it ends.

        Yield None if they cannot see it, because a pooler is in between. Raises StoreUnavailable.
        """
        ...

    async def abandoned(self, duty: Duty) -> Lease | None:
        """Return the lease on a duty if the session of its holder has ended, or None."""
        ...

    async def renew(
        self, node: NodeIdentity, duties: Collection[Duty], *, lifetime: timedelta, has_session: bool = False
    ) -> NodesView | None:
        """Report that a process lives, renew its leases on *duties*, and return all nodes and leases.

        *has_session* says that it keeps a session open now: if that ends, other nodes may take its leases at once.
        A lease that has ended is renewed too, unless another node has taken it: a pause of the database moves nothing.
        Return None if another process has taken the node's name.
        """
        ...

    async def take(
        self, node: NodeIdentity, duty: Duty, *, epoch: int, lifetime: timedelta, has_session: bool = False
    ) -> bool:
        """Take a duty whose lease number *epoch* has ended, or the session of its holder.

        Return False if another node was faster. From then on no write with the fence of an earlier lease happens.
        """
        ...

    async def give_back(self, node: NodeIdentity, duties: Collection[Duty]) -> None:
        """End the leases of a process on *duties*, so that other nodes can take them at once."""
        ...

    async def remove(self, node: NodeIdentity) -> None:
        """Remove a process that stops, with its leases."""
        ...

    async def nodes(self) -> NodesView:
        """Return all nodes and leases."""
        ...
