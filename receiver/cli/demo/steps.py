"""What happened in the demo so far, and how each thing seen becomes a step that is told once."""

from dataclasses import dataclass, field

from receiver.cli.demo.output import DemoOutput
from receiver.cli.demo.sandbox import SCRIPT_ROUTE, WEBHOOK_ROUTE, DemoFailed
from receiver.cli.demo.webhook_sink import CLIENT_PATH, HOOK_PATH, ReceivedRequest
from receiver.client import Event, SyncClient
from receiver.domain.model import Json
from receiver.domain.signing import SignatureStatus


@dataclass(slots=True, kw_only=True)
class DemoProgress:
    """Collects what is seen, and tells it."""

    client: SyncClient
    kling: SyncClient
    output: DemoOutput
    kling_id: str = ""
    event_id: str = ""  # the succeed's, empty while there is none
    webhook_request: ReceivedRequest | None = None
    client_notified: bool = False
    delivered: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[str]:
        """Name what has not happened yet; the story is over when nothing is."""
        waits = [] if self.event_id else ["the event task.succeed"]
        waits += [f"the {route}" for route in (WEBHOOK_ROUTE, SCRIPT_ROUTE) if route not in self.delivered]
        return waits + ([] if self.client_notified else ["the client's own callback"])

    def on_simulator_event(self, what: Json) -> None:
        """Take in a line of the simulator's."""
        if what.get("event") == "create.answered":
            self._report_create()
        elif what.get("event") == "callback.sent":
            status, answer = what["status"], what["answer"] or what["error"]
            detail = f"{status}, answered {answer} in {what['ms']:.0f} ms"
            self.output.step("callback", "Kling called back", detail, status=status, answer=answer)

    def _report_create(self) -> None:
        """Look at the create as Kling saw it; the URL's token stays a secret."""
        create = self.kling.get("/_simulator/state")["creates"][-1]
        url = str(create["body"]["callback_url"]).rpartition("/")[0] + "/***"
        self.output.step("kling_asked", "Kling was asked", f"to call back at {url}", callback_url=url)

    def on_receiver_event(self, event: Event) -> None:
        """Take in an event of the service's stream."""
        if event.type != "task.succeed":
            return
        self.event_id, data = event.id, event.data
        confirmed = data["verified"] == "api"
        self.output.step(
            "confirmed",
            "Confirmed" if confirmed else "Not confirmed",
            "Kling's API says so too" if confirmed else f"verified: {data['verified']}",
            verified=data["verified"],
        )
        self.output.step("event_stored", "Event stored", f"task.succeed {self.event_id}", event=self.event_id)

    def on_webhook_request(self, arrival: ReceivedRequest) -> None:
        """Take in a request that arrived at the webhook, or at the client's own callback URL."""
        if arrival.signature is not SignatureStatus.GOOD:
            raise DemoFailed(f"What arrived at {arrival.path} has no good signature ({arrival.signature}).")
        if arrival.path == HOOK_PATH:
            self.webhook_request = arrival
        elif arrival.path == CLIENT_PATH and arrival.content.get("task_status") == "succeed":
            self.client_notified = True
            self.output.step(
                "client_called",
                "Client called back",
                "its own callback_url got Kling's body, byte for byte",
                kling_id=arrival.content.get("task_id"),
            )

    def check_deliveries(self) -> None:
        """Ask the service how the deliveries of the succeed stand."""
        for item in self.client.deliveries(event=self.event_id).items:
            route, status = item["route"], item["status"]
            if route in self.delivered or status == "pending":
                continue
            if route == WEBHOOK_ROUTE and self.webhook_request is None:
                continue
            delivery = self.client.delivery(item["id"])
            attempt = delivery["attempts_made"][-1]
            if status != "delivered":
                raise DemoFailed(f"The delivery to {route} is {status}: {attempt['reason']}")
            self.delivered.add(route)
            self._report_delivery(route, attempt)

    def _report_delivery(self, route: str, attempt: Json) -> None:
        took = f"in {attempt['duration_ms']:.0f} ms"
        if route == WEBHOOK_ROUTE:
            detail = f"signature good, answered {attempt['code']} {took}"
            self.output.step("webhook_delivered", "Webhook delivered", detail, signature="good", code=attempt["code"])
        elif route == SCRIPT_ROUTE:
            output = str(attempt["excerpt"]).strip()
            detail = f"exit {attempt['code']} {took}: {output}"
            self.output.step("script_ran", "Script ran", detail, code=attempt["code"], output=output)
