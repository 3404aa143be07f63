"""How the parts of the service wake each other: a ring after a commit, never a queue beside the store."""

import asyncio
from dataclasses import dataclass, field


class Notifier:
    """Tells those who listen that there may be something to do. Rings never queue up: many count as one."""

    def __init__(self) -> None:
        self._subscribers: list[asyncio.Event] = []

    def subscribe(self) -> asyncio.Event:
        """Give a new listener's event; it is the listener's to clear before it looks for work."""
        event = asyncio.Event()
        self._subscribers.append(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Stop listening."""
        self._subscribers.remove(event)

    def notify(self) -> None:
        """Wake every listener."""
        for event in self._subscribers:
            event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifiers:
    """What was committed that somebody may be waiting for."""

    deliveries: Notifier = field(default_factory=Notifier)  # something may go out
    tasks: Notifier = field(default_factory=Notifier)  # something may be submitted, or asked about
    events: Notifier = field(default_factory=Notifier)  # something may be shown
    replays: Notifier = field(default_factory=Notifier)  # something is to go out again
    batches: Notifier = field(default_factory=Notifier)  # some batch may be complete

    def notify_all(self) -> None:
        """Wake everybody."""
        for bell in (self.deliveries, self.tasks, self.events, self.replays, self.batches):
            bell.notify()
