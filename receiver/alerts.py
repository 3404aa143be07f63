"""Says what is wrong, and that it is right again. Alerts are events and go through routes like any other."""

from receiver.announce import Announcer
from receiver.bells import Bells
from receiver.clock import Clock
from receiver.model import Json, RouteState
from receiver.store import Intake


class Alerts:
    """Stores alerts as events and lets the routes that want them have them."""

    def __init__(self, intake: Intake, announcer: Announcer, *, bells: Bells, clock: Clock) -> None:
        self._intake = intake
        self._announcer = announcer
        self._bells = bells
        self._clock = clock

    async def route(self, what: str, state: RouteState) -> None:
        """Tell that a route is held, or goes on."""
        await self._raise(what, {"route": state.name, "failures": state.failures, "reason": state.held_why})

    async def _raise(self, what: str, data: Json) -> None:
        said = self._announcer.alert(what, data, at=self._clock.now())
        await self._intake.record([said.event], said.deliveries)
        self._bells.events.ring()
        if said.deliveries:
            self._bells.deliveries.ring()
