"""Routes that tell people: services on this machine, in Apprise's own process."""

import io
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from apprise.plugins.discord import NotifyDiscord
from apprise.plugins.slack import NotifySlack
from apprise.plugins.telegram import NotifyTelegram
from harness.chat_service import ChatService
from harness.clock import START
from harness.factories import an_event
from harness.ports import free_port

from receiver.delivery.lane_registry import LaneRegistry
from receiver.delivery.senders import apprise_child
from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.model import Accepted, Event, Failed
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.events.payload import envelope
from receiver.net.http_client import HttpClient
from receiver.settings import NotifySettings, RouteSettings, Settings

TOKEN = "T0PATHCANARY0123456789"


@pytest.fixture
def service() -> Iterator[ChatService]:
    with ChatService() as service:
        yield service


def held() -> Event:
    data = {
        "event_id": "evt_1",
        "message": "Route app is held.",
        "route": "app",
        "reason": "connection refused",
        "held_by": "failures",
        "held_at": "2026-11-22T10:02:00.000Z",
    }
    return an_event(type="alert.route_held", body=b"", task_id=None, envelope=envelope("alert.route_held", START, data))


def request(event: Event | None = None, number: int = 1) -> DeliveryRequest:
    return DeliveryRequest(delivery_id="dlv_1", event=event or held(), attempt=number, at=START)


async def count_pending(route: str) -> int:
    return {"app": 14}.get(route, 0)


def sender(*urls: str, timeout: float = 30, **keys: Any) -> Sender:
    """The sender of a route, as the service makes it."""
    notify = NotifySettings(urls=tuple(map(Secret, urls)), timeout=timedelta(seconds=timeout), **keys)
    settings = Settings(routes=(RouteSettings(name="on-call", notify=notify),))
    client = HttpClient(user_agent="kling-receiver/test")
    found = LaneRegistry(settings, client, client, Redactor(()), count_pending=count_pending).sender("on-call")
    assert found is not None
    return found


async def test_json_receives_the_text(service: ChatService) -> None:
    outcome = await sender(f"json://{service.address}/{TOKEN}").send(request())

    assert isinstance(outcome, Accepted)
    assert service.paths == [f"/{TOKEN}"]
    sent = service.only_json()
    assert (sent["title"], sent["type"]) == ("Route app is held", "failure")
    assert sent["message"].endswith(": connection refused. 14 events wait.")


async def test_ntfy_receives_the_text(service: ChatService) -> None:
    outcome = await sender(f"ntfy://{service.address}/alerts").send(request())

    assert isinstance(outcome, Accepted)
    sent = service.only_json()
    assert (sent["topic"], sent["title"]) == ("alerts", "Route app is held")


class Mailbox:
    """Keeps the mails that a server received."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, mail: Any) -> str:  # noqa: N802 -- the library's name
        self.mails.append(mail)
        return "250 OK"


async def test_a_mail_is_sent() -> None:
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        url = f"mailto://127.0.0.1:{port}?from=kling@example.com&to=anna@example.com"
        outcome = await sender(url, title="Kling: {route}", body="{reason}").send(request())
    finally:
        controller.stop()

    assert isinstance(outcome, Accepted)
    (mail,) = mailbox.mails
    assert mail.rcpt_tos == ["anna@example.com"]
    assert b"Subject: Kling: app" in mail.content
    assert b"connection refused" in mail.content


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by one of Apprise's services
@pytest.mark.parametrize(
    ("base", "url", "path"),
    [
        ((NotifyTelegram, "notify_url", "/bot"), "tgram://123456789:abcdefg_hijklmnop/12315544", "/bot123456789:abc"),
        ((NotifySlack, "webhook_url", ""), f"slack://T1JJ3T3L2X/A1BRTD4JD9/{TOKEN}XX/%23ops", "/T1JJ3T3L2X/A1BRTD4JD9"),
        ((NotifyDiscord, "notify_url", ""), f"discord://{'4' * 18}/{TOKEN * 3}", f"/{'4' * 18}/{TOKEN}"),
    ],
    ids=["telegram", "slack", "discord"],
)
def test_a_service_with_a_fixed_host_receives_the_text(
    service: ChatService, monkeypatch: pytest.MonkeyPatch, base: tuple[Any, str, str], url: str, path: str
) -> None:
    plugin, attribute, prefix = base
    monkeypatch.setattr(plugin, attribute, f"http://{service.address}{prefix}")
    if plugin is NotifySlack:
        service.answer = b"ok"  # a webhook of Slack answers with this word

    answer = in_process(monkeypatch, {"urls": [url], "title": "Held", "body": "14 events wait.", "urgency": "failure"})

    assert answer["ok"], answer["log"]
    assert any(path in sent_path for sent_path in service.paths)
    assert any(b"14 events wait." in body for body in service.bodies)


def in_process(monkeypatch: pytest.MonkeyPatch, written: dict[str, Any]) -> Any:
    """Run the main function of Apprise's process here, where a base URL can be replaced; return its only answer."""
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps({"marker": "m", **written}).encode())))
    monkeypatch.setattr(sys, "stdout", stdout)
    assert apprise_child.main() == 0
    (line,) = [line for line in stdout.getvalue().splitlines() if line.startswith("m ")]
    return json.loads(line.removeprefix("m "))


async def test_a_refused_notification_is_retried_and_its_reason_hides_the_token(service: ChatService) -> None:
    service.status = 500

    outcome = await sender(f"json://user-canary:pass-canary@{service.address}/{TOKEN}").send(request())

    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("json: ")
    assert "500" in outcome.reason
    assert "canary" not in (outcome.reason + outcome.excerpt.decode()).lower()


async def test_a_retry_leaves_out_the_urls_that_accepted_the_text(service: ChatService) -> None:
    there = sender(f"json://{service.address}/first", f"json://127.0.0.1:{free_port()}/{TOKEN}")

    outcomes = [await there.send(request(number=number)) for number in (1, 2)]

    assert [type(outcome) for outcome in outcomes] == [Failed, Failed]
    assert service.paths == ["/first"]
    assert isinstance(outcomes[0], Failed)
    assert outcomes[0].reason.startswith("1 of 2 URLs failed. json: ")


async def test_a_hung_service_times_out_and_the_others_are_notified(service: ChatService) -> None:
    with ChatService(hangs=True) as hung:
        there = sender(f"json://{hung.address}/{TOKEN}?rto=60", f"json://{service.address}/second", timeout=5)
        outcome = await there.send(request())

    assert isinstance(outcome, Failed)
    assert outcome.reason == "1 of 2 URLs failed. json: no answer within 5 s"
    assert outcome.fault == "timeout"
    assert service.paths == ["/second"]


async def test_a_url_that_apprise_does_not_understand_is_named_by_its_service() -> None:
    outcome = await sender(f"tgram://{TOKEN}").send(request())

    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith("tgram: ")
    assert "does not understand" in outcome.reason
    assert TOKEN not in outcome.reason


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"])
async def test_the_cloud_metadata_service_is_never_dialled(host: str) -> None:
    outcome = await sender(f"json://{host}/latest/meta-data?cto=1&rto=1").send(request())

    assert isinstance(outcome, Failed)
    assert "is never dialled: " in outcome.reason


async def test_a_template_that_fails_sends_nothing_and_is_retried(service: ChatService) -> None:
    event = an_event(envelope=envelope("task.succeed", START, {"failures": 5}), body=b"")

    outcome = await sender(f"json://{service.address}/x", body="{length(failures)}").send(request(event))

    assert isinstance(outcome, Failed)
    assert outcome.is_about_event
    assert "{length(failures)} could not be evaluated" in outcome.reason
    assert outcome.reason.endswith("Nothing was sent. Correct it and reload: the next attempt uses it.")
    assert service.paths == []
