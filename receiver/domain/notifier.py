"""Wake-ups between the parts of the service. They follow a commit and carry no data: the store is the only queue."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

_SOON = timedelta(seconds=1)


class WakeUp(asyncio.Event):
    """A subscriber's event. ``planned_at`` is when a waiting subscriber looks for work anyway; None if unknown."""

    planned_at: datetime | None = None


class Notifier:
    """Wakes subscribers when there may be work. Notifications coalesce.

    ``forward``, if set, is called too: it wakes the other processes that use the store.
    """

    def __init__(self) -> None:
        self._subscribers: list[WakeUp] = []
        self.forward: Callable[[], None] | None = None

    def subscribe(self, wake: WakeUp | None = None) -> WakeUp:
        """Return a new subscriber's event, or add *wake*. The subscriber clears it before it looks for work."""
        wake = wake or WakeUp()
        self._subscribers.append(wake)
        return wake

    def unsubscribe(self, wake: WakeUp) -> None:
        """Remove a subscriber."""
        self._subscribers.remove(wake)

    def notify(self) -> None:
        """Wake every subscriber, here and in other processes."""
        self.notify_here()
        if self.forward is not None:
            self.forward()

    def notify_here(self) -> None:
        """Wake every subscriber of this process."""
        for wake in self._subscribers:
            wake.set()

    def notify_due(self, due_at: datetime, *, now: datetime) -> None:
        """Wake the subscribers that would miss work that is due at *due_at*.

        A plan that has passed proves that the clock was set forward, so its subscriber is woken too.
        """
        for wake in self._subscribers:
            if wake.planned_at is None or not now < wake.planned_at <= due_at:
                wake.set()
        if self.forward is not None and due_at <= now + _SOON:  # other processes look by themselves every second
            self.forward()


class Notifiers(msgspec.Struct, frozen=True, kw_only=True):
    """One notifier per kind of committed work."""

    deliveries: Notifier = msgspec.field(default_factory=Notifier)  # a delivery may be due
    tasks: Notifier = msgspec.field(
        default_factory=Notifier
    )  # a submit may be due, a slot is free, or Kling has answered
    lookups: Notifier = msgspec.field(default_factory=Notifier)  # a lookup of a create may be due
    polls: Notifier = msgspec.field(default_factory=Notifier)  # a poll may be due
    events: Notifier = msgspec.field(default_factory=Notifier)  # an event may be new in the event stream
    replays: Notifier = msgspec.field(default_factory=Notifier)  # a replay may have items left
    batches: Notifier = msgspec.field(default_factory=Notifier)  # a batch may be complete
    calls: Notifier = msgspec.field(default_factory=Notifier)  # a call of another node, or its answer, may be there

    def by_name(self) -> Mapping[str, Notifier]:
        """Return the notifiers by name."""
        return {
            "deliveries": self.deliveries,
            "tasks": self.tasks,
            "lookups": self.lookups,
            "polls": self.polls,
            "events": self.events,
            "replays": self.replays,
            "batches": self.batches,
            "calls": self.calls,
        }

    def notify_all(self) -> None:
        """Wake every subscriber of every notifier."""
        for notifier in self.by_name().values():
            notifier.notify()
