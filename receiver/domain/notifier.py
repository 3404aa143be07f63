"""Wake-ups between the parts of the service. They follow a commit and carry no data: the store is the only queue."""

import asyncio
from dataclasses import dataclass, field


class Notifier:
    """Wakes subscribers when there may be work. Notifications coalesce."""

    def __init__(self) -> None:
        self._subscribers: list[asyncio.Event] = []

    def subscribe(self) -> asyncio.Event:
        """Return a new subscriber's event. The subscriber clears it before it looks for work."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Remove a subscriber."""
        self._subscribers.remove(event)

    def notify(self) -> None:
        """Wake every subscriber."""
        for event in self._subscribers:
            event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifiers:
    """One notifier per kind of committed work."""

    deliveries: Notifier = field(default_factory=Notifier)  # a delivery may be due
    tasks: Notifier = field(default_factory=Notifier)  # a submit or a poll may be due
    events: Notifier = field(default_factory=Notifier)  # an event may be new in the event stream
    replays: Notifier = field(default_factory=Notifier)  # a replay may have items left
    batches: Notifier = field(default_factory=Notifier)  # a batch may be complete

    def notify_all(self) -> None:
        """Wake every subscriber of every notifier."""
        for notifier in (self.deliveries, self.tasks, self.events, self.replays, self.batches):
            notifier.notify()
