"""Wake-ups between the parts of the service. They follow a commit and carry no data: the store is the only queue."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime


class WakeUp(asyncio.Event):
    """A subscriber's event. ``planned_at`` is when a waiting subscriber looks for work anyway; None if unknown."""

    planned_at: datetime | None = None


class Notifier:
    """Wakes subscribers when there may be work. Notifications coalesce."""

    def __init__(self) -> None:
        self._subscribers: list[WakeUp] = []

    def subscribe(self, wake: WakeUp | None = None) -> WakeUp:
        """Return a new subscriber's event, or add *wake*. The subscriber clears it before it looks for work."""
        wake = wake or WakeUp()
        self._subscribers.append(wake)
        return wake

    def unsubscribe(self, wake: WakeUp) -> None:
        """Remove a subscriber."""
        self._subscribers.remove(wake)

    def notify(self) -> None:
        """Wake every subscriber."""
        for wake in self._subscribers:
            wake.set()

    def notify_due(self, due_at: datetime, *, now: datetime) -> None:
        """Wake the subscribers that would miss work that is due at *due_at*.

        A plan that has passed proves that the clock was set forward, so its subscriber is woken too.
        """
        for wake in self._subscribers:
            if wake.planned_at is None or not now < wake.planned_at <= due_at:
                wake.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifiers:
    """One notifier per kind of committed work."""

    deliveries: Notifier = field(default_factory=Notifier)  # a delivery may be due
    tasks: Notifier = field(default_factory=Notifier)  # a submit, a lookup or a poll may be due, or a slot is free
    polls: Notifier = field(default_factory=Notifier)  # a poll may be due
    events: Notifier = field(default_factory=Notifier)  # an event may be new in the event stream
    replays: Notifier = field(default_factory=Notifier)  # a replay may have items left
    batches: Notifier = field(default_factory=Notifier)  # a batch may be complete

    def notify_all(self) -> None:
        """Wake every subscriber of every notifier."""
        for notifier in (self.deliveries, self.tasks, self.polls, self.events, self.replays, self.batches):
            notifier.notify()
