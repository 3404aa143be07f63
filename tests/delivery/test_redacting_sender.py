"""Outcomes of attempts hide what destinations and scripts echo."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from receiver.delivery.senders.redacting import RedactingSender
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, Event, Failed, Outcome, Refused, Verification
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret

KEY = "canary-key-1234"
URL = "https://app.example/hooks/canary-hidden-path?token=canary-query&n=1"
ECHO = f"{KEY} /hooks/canary-hidden-path token=canary-query \udcff".encode("utf-8", "surrogateescape")
CLEAN = b"*** /hooks/*** token=*** \xff"


@dataclass(slots=True)
class EchoingSender:
    """A sender that returns the next outcome."""

    outcomes: Sequence[Outcome]
    timeout: timedelta = timedelta(seconds=1)
    is_closed: bool = field(default=False)

    async def preview(self, event: Event) -> bytes:
        return event.envelope

    async def send(self, _request: DeliveryRequest) -> Outcome:
        return self.outcomes[0]

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Accepted(code=200), Accepted(code=200)),
        (Accepted(code=200, excerpt=ECHO), Accepted(code=200, excerpt=CLEAN)),
        (Failed(reason=f"no {KEY}", code=500, excerpt=ECHO), Failed(reason="no ***", code=500, excerpt=CLEAN)),
        (Refused(reason=f"no {KEY}", excerpt=ECHO, hold=True), Refused(reason="no ***", excerpt=CLEAN, hold=True)),
    ],
)
@pytest.mark.parametrize(("route_url", "own_url"), [(URL, None), ("", URL), (URL, "https://client.example/")])
async def test_secrets_are_hidden_in_reason_and_excerpt(
    outcome: Outcome, expected: Outcome, route_url: str, own_url: str | None
) -> None:
    sender = RedactingSender(EchoingSender([outcome]), Redactor([Secret(KEY)]), url=route_url)

    assert await sender.send(a_request(own_url)) == expected


async def test_timeout_and_close_are_those_of_the_sender() -> None:
    inner = EchoingSender([])
    sender = RedactingSender(inner, Redactor())

    await sender.aclose()

    assert (sender.timeout, inner.is_closed) == (timedelta(seconds=1), True)


def a_request(url: str | None) -> DeliveryRequest:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    event = Event(
        id="evt_1", type="task.succeed", envelope=b"{}", body=b"", verified=Verification.API, created_at=at, task_id="t"
    )
    return DeliveryRequest(delivery_id="dlv_1", event=event, attempt=1, at=at, url=url)


LONG = "".join(f"canary{number:04}" for number in range(100))


@pytest.mark.parametrize("cut_at", [4, 5, 600, 999])
async def test_a_secret_cut_at_either_end_of_an_excerpt_is_removed(cut_at: int) -> None:
    begun, ended = b"answer " + LONG[:cut_at].encode(), LONG[-cut_at:].encode() + b" output"
    for excerpt, kept in ((begun, b"answer "), (ended, b" output"), (ended + begun, b" outputanswer ")):
        inner = EchoingSender([Accepted(code=200, excerpt=excerpt)])
        outcome = await RedactingSender(inner, Redactor(), more=[Secret(LONG)]).send(a_request(None))

        assert outcome == Accepted(code=200, excerpt=kept)


@pytest.mark.parametrize(
    ("url", "echo"),
    [
        ("https://app.example/hook?canary-without-value", b"/hook?%s"),
        ("https://canary-user:canary%2Fpassword@app.example/", b"Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5L3Bhc3N3b3Jk%.0s"),
        ("https://canary-without-value@app.example/", b"user: %s"),
    ],
)
async def test_every_secret_part_of_a_url_is_hidden(url: str, echo: bytes) -> None:
    inner = EchoingSender([Accepted(code=200, excerpt=echo % b"canary-without-value")])
    outcome = await RedactingSender(inner, Redactor()).send(a_request(url))

    assert outcome == Accepted(code=200, excerpt=echo.split(b"Y2")[0].replace(b"%s", b"") + b"***")
