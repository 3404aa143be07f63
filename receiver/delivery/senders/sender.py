"""The protocol that every sender implements, one sender per kind of destination.

A new kind is one file here and one branch in :func:`receiver.delivery.lane_registry.make_sender`.
"""

from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from receiver.domain.errors import ReceiverError
from receiver.domain.model import Event, Failed, Outcome


class DeliveryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to make: the event, the attempt's number (from one) and its time.

    ``url`` is set if the task carries its client's own callback URL.
    """

    delivery_id: str
    event: Event
    attempt: int
    at: datetime
    url: str | None = None


class RenderingFailed(ReceiverError):
    """The route's projection or template makes nothing to send of this event. Nothing is sent instead."""

    code = "rendering_failed"

    def outcome(self) -> Failed:
        """Return the outcome of the attempt. It is retried: a corrected configuration mends the delivery."""
        reason = f"{self.message.rstrip('.')}. Nothing was sent. Correct it and reload: the next attempt uses it."
        return Failed(reason=reason, is_about_event=True)


class Sender(Protocol):
    """Makes one attempt and returns its outcome. A destination's behaviour never raises."""

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take in total."""
        ...

    async def preview(self, event: Event) -> bytes:
        """Return what the destination would receive of an event. Raises a ReceiverError that says why it cannot."""
        ...

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Make one attempt at the delivery."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
