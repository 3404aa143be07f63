"""The demo's progress: turns each observation into a step that is printed once."""

from dataclasses import dataclass, field

from receiver.cli.demo.output import DemoOutput
from receiver.cli.demo.sandbox import SCRIPT_ROUTE, WEBHOOK_ROUTE, DemoFailed
from receiver.cli.demo.webhook_sink import CLIENT_PATH, HOOK_PATH, ReceivedRequest
from receiver.client import Event, SyncClient
from receiver.domain.model import Json
from receiver.domain.signing import SignatureStatus


@dataclass(slots=True, kw_only=True)
class DemoProgress:
    """What was observed so far. Prints each step when it is complete."""

    client: SyncClient
    kling: SyncClient
    output: DemoOutput
    kling_id: str = ""
    event_id: str = ""  # of task.succeed; empty until it is stored
    webhook_request: ReceivedRequest | None = None
    client_notified: bool = False
    delivered: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[str]:
        """The steps that have not happened yet; the demo ends when there are none."""
        steps = [] if self.event_id else ["the event task.succeed"]
        steps += [f"the {route}" for route in (WEBHOOK_ROUTE, SCRIPT_ROUTE) if route not in self.delivered]
        return steps + ([] if self.client_notified else ["the client's own callback"])

    def on_simulator_event(self, event: Json) -> None:
        """Process an output line of the simulator."""
        if event.get("event") == "create.answered":
            self._report_create()
        elif event.get("event") == "callback.sent":
            status, answer = event["status"], event["answer"] or event["error"]
            detail = f"{status}, answered {answer} in {event['ms']:.0f} ms"
            self.output.step("callback", "Kling called back", detail, status=status, answer=answer)

    def _report_create(self) -> None:
        """Print the create request that the simulator received, without the token in its callback URL."""
        create = self.kling.get("/_simulator/state")["creates"][-1]
        url = str(create["body"]["callback_url"]).rpartition("/")[0] + "/***"
        self.output.step("kling_asked", "Kling received job", f"with callback URL {url}", callback_url=url)

    def on_receiver_event(self, event: Event) -> None:
        """Process an event of the service's stream."""
        if event.type != "task.succeed":
            return
        self.event_id, data = event.id, event.data
        confirmed = data["verified"] == "api"
        self.output.step(
            "confirmed",
            "Confirmed" if confirmed else "Not confirmed",
            "Kling's API reports the same result" if confirmed else f"verified: {data['verified']}",
            verified=data["verified"],
        )
        self.output.step("event_stored", "Event stored", f"task.succeed {self.event_id}", event=self.event_id)

    def on_webhook_request(self, request: ReceivedRequest) -> None:
        """Process a request to the webhook, or to the client's own callback URL."""
        if request.signature is not SignatureStatus.GOOD:
            raise DemoFailed(f"A request to {request.path} has an invalid signature ({request.signature}).")
        if request.path == HOOK_PATH:
            self.webhook_request = request
        elif request.path == CLIENT_PATH and request.content.get("task_status") == "succeed":
            self.client_notified = True
            self.output.step(
                "client_called",
                "Client called back",
                "its own callback_url received Kling's exact body",
                kling_id=request.content.get("task_id"),
            )

    def check_deliveries(self) -> None:
        """Query the deliveries of the task.succeed event, and print those that finished."""
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
        duration = f"in {attempt['duration_ms']:.0f} ms"
        if route == WEBHOOK_ROUTE:
            detail = f"signature good, answered {attempt['code']} {duration}"
            self.output.step("webhook_delivered", "Webhook delivered", detail, signature="good", code=attempt["code"])
        elif route == SCRIPT_ROUTE:
            output = str(attempt["excerpt"]).strip()
            detail = f"exit {attempt['code']} {duration}: {output}"
            self.output.step("script_ran", "Script ran", detail, code=attempt["code"], output=output)
