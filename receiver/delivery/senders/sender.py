"""How a delivery leaves: one sender per kind of destination, all behind one protocol.

A new kind is one file here and one line in :func:`receiver.service.make_senders`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from receiver.domain.model import Event, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRequest:
    """What a sender is given: the event, which attempt this is (from one), and the moment it is made.

    ``url`` is set where the task itself says where to send (a client's own callback URL).
    """

    delivery_id: str
    event: Event
    attempt: int
    at: datetime
    url: str | None = None


class Sender(Protocol):
    """Makes one attempt and says how it went. Never raises for what a destination does."""

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take, all in all."""
        ...

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Make one attempt at the delivery."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
