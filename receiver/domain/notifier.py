"""How the parts of the service wake each other: a ring after a commit, never a queue beside the store."""

import asyncio
from dataclasses import dataclass, field


class Bell:
    """Tells those who listen that there may be something to do. Rings never queue up: many count as one."""

    def __init__(self) -> None:
        self._listeners: list[asyncio.Event] = []

    def listen(self) -> asyncio.Event:
        """Give a new listener's event; it is the listener's to clear before it looks for work."""
        event = asyncio.Event()
        self._listeners.append(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        """Stop listening."""
        self._listeners.remove(event)

    def ring(self) -> None:
        """Wake every listener."""
        for event in self._listeners:
            event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bells:
    """What was committed that somebody may be waiting for."""

    deliveries: Bell = field(default_factory=Bell)  # something may go out
    tasks: Bell = field(default_factory=Bell)  # something may be submitted, or asked about
    events: Bell = field(default_factory=Bell)  # something may be shown
    replays: Bell = field(default_factory=Bell)  # something is to go out again
    batches: Bell = field(default_factory=Bell)  # some batch may be complete

    def ring(self) -> None:
        """Wake everybody."""
        for bell in (self.deliveries, self.tasks, self.events, self.replays, self.batches):
            bell.ring()
