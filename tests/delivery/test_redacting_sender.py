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
