"""Calls of one node to the holder of a duty, and notifications between nodes."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

import msgspec

from receiver.domain.duties import Duty
from receiver.store.interfaces.nodes import NodeStore


class NodeCall(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the holder of a duty; ``kind`` says of which kind its ``arguments`` are."""

    id: str
    kind: str
    arguments: bytes


class CallState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call so far: the instance that serves it, and its answer."""

    taken_by: str | None
    answer: bytes | None


class CallStore(Protocol):
    """The calls between nodes. A call is served at most once, because its effect may be a paid task."""

    async def add(self, duty: Duty, call: NodeCall) -> None:
        """Store a call."""
        ...

    async def take(self, duty: Duty, instance: str, *, max_silence: timedelta, limit: int) -> Sequence[NodeCall]:
        """Take calls that no process serves yet and whose callers waited within *max_silence*."""
        ...

    async def answer(self, call_id: str, instance: str, answer: bytes) -> None:
        """Store the answer of a call that *instance* serves."""
        ...

    async def waiting(self, call_id: str) -> CallState | None:
        """Record that the caller waits, and return the state of its call; None if the call is lost."""
        ...

    async def wanted(self, call_ids: Collection[str], *, max_silence: timedelta) -> Collection[str]:
        """Return those of some calls whose callers waited within *max_silence*."""
        ...

    async def remove(self, call_id: str) -> CallState | None:
        """Remove a call, and return its last state; None if it is lost."""
        ...

    async def remove_old(self, age: timedelta) -> None:
        """Remove the calls whose callers have not waited for so long, because they died."""
        ...


class SignalStore(Protocol):
    """Notifications between nodes. They are hints: some may be lost, and none may be needed."""

    async def notify(self, payload: str) -> None:
        """Wake the nodes that listen. Raises StoreUnavailable."""
        ...

    def listening(self, receive: Callable[[str], None]) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Call *receive* with each payload. The yielded function raises StoreUnavailable if the connection was lost.

        Raises StoreError if the database does not permit it.
        """
        ...


class NodeLinks(Protocol):
    """What the nodes on one database need of each other. A store for one process has none."""

    @property
    def nodes(self) -> NodeStore:
        """The nodes and their leases."""
        ...

    @property
    def calls(self) -> CallStore:
        """The calls between nodes."""
        ...

    @property
    def signals(self) -> SignalStore:
        """The notifications between nodes."""
        ...
