"""Alerts about routes, deliveries and archives. An alert is an event and follows the routes like any other."""

from collections.abc import Sequence

from receiver.domain.clock import Clock, iso
from receiver.domain.model import Attempt, Delivery, Event, HeldBy, Json, RouteState, Task
from receiver.events.factory import EventFactory, RoutedEvent


class AlertFactory:
    """Makes alert events. The caller stores the alert and its cause in one transaction."""

    def __init__(self, event_factory: EventFactory, *, clock: Clock) -> None:
        self._event_factory = event_factory
        self._clock = clock

    def route_held(self, state: RouteState) -> RoutedEvent:
        """Return the alert that a route is held, with the cause."""
        if state.held_by is HeldBy.OPERATOR:
            message = (
                f"An operator holds route {state.name} until it is released: {state.held_why or 'no reason given'}"
            )
        else:
            message = f"Route {state.name} is held after {state.failures} consecutive failures: {state.held_why}"
        return self._route_alert("route_held", state, message)

    def route_recovered(self, before: RouteState, after: RouteState) -> RoutedEvent:
        """Return the alert that a route is released; *before* is its state while held."""
        since = "" if before.held_at is None else f" It was held since {iso(before.held_at)}."
        return self._route_alert("route_recovered", before, f"Route {after.name} delivers again.{since}")

    def events_rejected(self, state: RouteState, attempt: Attempt) -> RoutedEvent:
        """Return the alert that the destination of a route rejected several events in a row."""
        data: Json = {
            "message": f"The destination of route {state.name} rejected {len(state.rejected)} events in a row.",
            "remedy": "Check the route's secret, headers and URL. Each event is retried until `give_up_after`.",
            "route": state.name,
            "reason": attempt.reason,
        }
        return self._event_factory.alert("events_rejected", data, at=self._clock.now())

    def delivery_dead(self, delivery: Delivery, attempt: Attempt) -> RoutedEvent:
        """Return the alert that the receiver gave up a delivery, and how to bring it back."""
        data: Json = {
            "message": f"Delivery {delivery.id} to route {delivery.route} is dead: {attempt.reason}",
            "remedy": f"Fix the cause, then run `kling-receiver deliveries retry {delivery.id}`. For all of the route: "
            f"`kling-receiver replay --route {delivery.route} --status dead`.",
            "route": delivery.route,
            "delivery": delivery.id,
            "event": delivery.event_id,
            "attempts": attempt.number,
            "reason": attempt.reason,
        }
        return self._event_factory.alert("delivery_dead", data, at=self._clock.now())

    def archive_alert(
        self, name: str, message: str, event: Event, task: Task | None, results: Sequence[Json]
    ) -> RoutedEvent:
        """Return an alert about archiving the *results* of *event*."""
        data: Json = {"message": message, "event": event.id, "results": list(results)}
        return self._event_factory.alert(name, data, at=self._clock.now(), task=task)

    def _route_alert(self, name: str, state: RouteState, message: str) -> RoutedEvent:
        data: Json = {
            "message": message,
            "route": state.name,
            "failures": state.failures,
            "reason": state.held_why,
            "held_by": None if state.held_by is None else state.held_by.value,
            "held_at": None if state.held_at is None else iso(state.held_at),
        }
        return self._event_factory.alert(name, data, at=self._clock.now())
