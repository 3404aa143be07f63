"""Claim deliveries in the transaction that stores them, if their routes have free slots.

Such a delivery needs neither a query nor a transaction of its own to be claimed, and its attempt starts as soon as the
transaction has committed. The dispatcher claims all other deliveries from the store.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from msgspec.structs import replace

from receiver.delivery.lane import Slot
from receiver.domain.errors import StoreBroken
from receiver.domain.model import Delivery, Push, Task
from receiver.store.interfaces import ApplyCall, Change, ClaimedDelivery, Decide, TaskRef, TaskStore


class Slots(Protocol):
    """The free slots of all routes, kept by the dispatcher."""

    def reserve(self, delivery: Delivery) -> Slot | None:
        """Reserve a slot for a delivery that is about to be stored, or return None."""
        ...

    def start(self, slot: Slot, claimed: ClaimedDelivery) -> None:
        """Start the attempt at a delivery that was stored with the slot's claim."""
        ...

    def free(self, slot: Slot) -> None:
        """Free a slot whose delivery was not stored."""
        ...


class CommitClaims:
    """Lets the transactions of a task store claim what they store, while a dispatcher offers its slots."""

    def __init__(self) -> None:
        self._slots: Slots | None = None
        self._open: set[asyncio.Task[Sequence[Change | BaseException | None]]] = set()

    def open(self, slots: Slots) -> None:
        """Claim deliveries for these slots from now on."""
        self._slots = slots

    def close(self) -> None:
        """Claim no more."""
        self._slots = None

    async def drain(self, *, within: timedelta) -> None:
        """Wait until the transactions with claims have ended, whose deliveries are then in flight."""
        if self._open:
            await asyncio.wait(tuple(self._open), timeout=within.total_seconds())

    async def apply(self, tasks: TaskStore, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        """Apply *calls* to *tasks*, with claims for the deliveries that they make."""
        if self._slots is None:
            return await tasks.apply_all(calls)
        # A caller that is cancelled does not stop its write, so the claims must not depend on the caller.
        transaction = asyncio.create_task(_apply(tasks, calls, _Claims(self._slots)))
        self._open.add(transaction)
        transaction.add_done_callback(self._open.discard)
        return await asyncio.shield(transaction)


class ClaimingTaskStore:
    """A task store that claims the deliveries of its changes, if it can."""

    def __init__(self, tasks: TaskStore, commit_claims: CommitClaims, *, broken: asyncio.Event) -> None:
        """*broken* is set once the store can no longer be trusted."""
        self._tasks = tasks
        self._commit_claims = commit_claims
        self._broken = broken

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- everything else is the store's own
        return getattr(self._tasks, name)

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        """Apply one change, see TaskStore."""
        (change,) = await self.apply_all([ApplyCall(ref=ref, decide=decide, with_pending=with_pending)])
        if isinstance(change, BaseException):
            raise change
        return change

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        """Apply several changes, see TaskStore."""
        changes = await self._commit_claims.apply(self._tasks, calls)
        if self._broken.is_set():  # since the store checked it: the transaction is a task of its own
            raise StoreBroken("The store was found to be damaged after the commit.")
        return changes


class _Claims:
    """The claims of one transaction. A decision that is repeated reserves again; what is not committed is freed."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._reserved: dict[str, Slot] = {}  # by delivery ID

    def wrap(self, call: ApplyCall) -> ApplyCall:
        """Return a call whose decision also claims."""

        def decide(task: Task, pending: Sequence[Push]) -> Change:
            change = call.decide(task, pending)
            # An alert is left out, because the store may drop its deliveries.
            if not change.deliveries or any(event.is_alert for event in change.events):
                return change
            return replace(change, deliveries=[self._claim(each) for each in change.deliveries])

        return replace(call, decide=decide)

    def _claim(self, delivery: Delivery) -> Delivery:
        slot = self._slots.reserve(delivery)
        if slot is None:
            return delivery
        self._reserved[delivery.id] = slot
        return replace(delivery, claim=slot.claim, due_at=slot.until)

    def start(self, change: Change) -> None:
        """Start the attempts at the claimed deliveries of a committed change."""
        events = {event.id: event for event in change.events}
        for delivery in change.deliveries:
            slot = self._reserved.pop(delivery.id, None)
            if slot is not None:
                claimed = ClaimedDelivery(
                    delivery=delivery,
                    event=events[delivery.event_id],
                    reply_to=None if change.task is None else change.task.reply_to,
                    due_since=delivery.created_at,
                )
                self._slots.start(slot, claimed)

    def free(self) -> None:
        """Free the slots of deliveries that were not committed."""
        for slot in self._reserved.values():
            self._slots.free(slot)
        self._reserved.clear()


async def _apply(
    tasks: TaskStore, calls: Sequence[ApplyCall], claims: _Claims
) -> Sequence[Change | BaseException | None]:
    try:
        changes = await tasks.apply_all([claims.wrap(call) for call in calls])
        for change in changes:
            if isinstance(change, Change) and change.deliveries:
                claims.start(change)
        return changes
    finally:
        claims.free()
