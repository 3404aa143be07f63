"""What happened in the demo so far, and how each thing seen becomes a step that is told once."""

from dataclasses import dataclass, field

from receiver.cli.demo.output import Teller
from receiver.cli.demo.sandbox import SCRIPT_ROUTE, WEBHOOK_ROUTE, DemoFailed
from receiver.cli.demo.webhook_sink import CLIENT_PATH, HOOK_PATH, Arrival
from receiver.client import Event, SyncClient
from receiver.domain.model import Json
from receiver.domain.signing import Signature


@dataclass(slots=True, kw_only=True)
class Plot:
    """Collects what is seen, and tells it."""

    client: SyncClient
    kling: SyncClient
    teller: Teller
    kling_id: str = ""
    event_id: str = ""  # the succeed's, empty while there is none
    hooked: Arrival | None = None
    client_told: bool = False
    delivered: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[str]:
        """Name what has not happened yet; the story is over when nothing is."""
        waits = [] if self.event_id else ["the event task.succeed"]
        waits += [f"the {route}" for route in (WEBHOOK_ROUTE, SCRIPT_ROUTE) if route not in self.delivered]
        return waits + ([] if self.client_told else ["the client's own callback"])

    def simulator_did(self, what: Json) -> None:
        """Take in a line of the simulator's."""
        if what.get("event") == "create.answered":
            self._tell_asked()
        elif what.get("event") == "callback.sent":
            status, answer = what["status"], what["answer"] or what["error"]
            detail = f"{status}, answered {answer} in {what['ms']:.0f} ms"
            self.teller.step("callback", "Kling called back", detail, status=status, answer=answer)

    def _tell_asked(self) -> None:
        """Look at the create as Kling saw it; the URL's token stays a secret."""
        create = self.kling.get("/_simulator/state")["creates"][-1]
        url = str(create["body"]["callback_url"]).rpartition("/")[0] + "/***"
        self.teller.step("kling_asked", "Kling was asked", f"to call back at {url}", callback_url=url)

    def receiver_told(self, event: Event) -> None:
        """Take in an event of the service's stream."""
        if event.type != "task.succeed":
            return
        self.event_id, data = event.id, event.data
        confirmed = data["verified"] == "api"
        self.teller.step(
            "confirmed",
            "Confirmed" if confirmed else "Not confirmed",
            "Kling's API says so too" if confirmed else f"verified: {data['verified']}",
            verified=data["verified"],
        )
        self.teller.step("event_stored", "Event stored", f"task.succeed {self.event_id}", event=self.event_id)

    def sink_got(self, arrival: Arrival) -> None:
        """Take in a request that arrived at the webhook, or at the client's own callback URL."""
        if arrival.signature is not Signature.GOOD:
            raise DemoFailed(f"What arrived at {arrival.path} has no good signature ({arrival.signature}).")
        if arrival.path == HOOK_PATH:
            self.hooked = arrival
        elif arrival.path == CLIENT_PATH and arrival.content.get("task_status") == "succeed":
            self.client_told = True
            self.teller.step(
                "client_called",
                "Client called back",
                "its own callback_url got Kling's body, byte for byte",
                kling_id=arrival.content.get("task_id"),
            )

    def look_at_deliveries(self) -> None:
        """Ask the service how the deliveries of the succeed stand."""
        for item in self.client.deliveries(event=self.event_id).items:
            route, status = item["route"], item["status"]
            if route in self.delivered or status == "pending":
                continue
            if route == WEBHOOK_ROUTE and self.hooked is None:
                continue
            delivery = self.client.delivery(item["id"])
            attempt = delivery["attempts_made"][-1]
            if status != "delivered":
                raise DemoFailed(f"The delivery to {route} is {status}: {attempt['reason']}")
            self.delivered.add(route)
            self._tell_delivery(route, attempt)

    def _tell_delivery(self, route: str, attempt: Json) -> None:
        took = f"in {attempt['duration_ms']:.0f} ms"
        if route == WEBHOOK_ROUTE:
            detail = f"signature good, answered {attempt['code']} {took}"
            self.teller.step("webhook_delivered", "Webhook delivered", detail, signature="good", code=attempt["code"])
        elif route == SCRIPT_ROUTE:
            output = str(attempt["excerpt"]).strip()
            detail = f"exit {attempt['code']} {took}: {output}"
            self.teller.step("script_ran", "Script ran", detail, code=attempt["code"], output=output)
