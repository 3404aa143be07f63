"""Bring a route to be held by failures."""

from collections.abc import Callable
from datetime import timedelta

from harness.delivery_system import FAILED, DeliverySystem

from receiver.delivery.route_hold import HOLD_AFTER
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, HeldBy, Outcome

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


async def fail_until_held(system: DeliverySystem, events: int = HOLD_AFTER) -> list[str]:
    """Bring a route to be held: so many events, none of which gets through."""
    system.destinations["publish"].respond = lambda _: FAILED
    ids = await system.add_events(events)
    if not system.route_states.get("publish").is_held:  # a slow lane
        await system.advance(timedelta(seconds=2))
    assert system.route_states.get("publish").held_by is HeldBy.FAILURES
    return ids


def respond_in_turn(*outcomes: Outcome) -> Callable[[DeliveryRequest], Outcome]:
    """Answer these one after the other, and take everything after them."""
    left = list(outcomes)
    return lambda _: left.pop(0) if left else Accepted(code=204)
