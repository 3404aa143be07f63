"""A webhook's body made from the event by JMESPath."""

import json
from typing import Any

import pytest
from harness.clock import START, FakeClock

from receiver.delivery.senders.configured_payload import body_maker
from receiver.delivery.senders.sender import RenderingFailed
from receiver.domain.clock import Ids
from receiver.events.payload import serialize
from receiver.events.samples import sample_event
from receiver.settings import WebhookSettings
from receiver.settings.values import InvalidValue

EVENT = sample_event("succeed", ids=Ids(FakeClock()), at=START)


def body(payload: object) -> bytes:
    settings = WebhookSettings.model_validate({"url": "https://app.example.com/hook", "payload": payload})
    return body_maker(settings)(EVENT)


def test_a_projection_makes_the_body() -> None:
    made = body({"project": "{text: join(' ', ['done', data.task.label]), image: data.result.images[0].url}"})

    assert json.loads(made) == {"text": "done test", "image": "https://example.com/test.png"}


@pytest.mark.parametrize(("expression", "expected"), [("data.task.label", "test"), ("`[]`", []), ("`false`", False)])
def test_any_json_value_but_null_is_a_body(expression: str, expected: Any) -> None:
    assert json.loads(body({"project": expression})) == expected


@pytest.mark.parametrize("expression", ["data.task.labell", "length(data.result.nothing)", "sum(data.task.label)"])
def test_a_projection_without_a_value_fails_and_names_the_expression(expression: str) -> None:
    with pytest.raises(RenderingFailed, match="payload = "):
        body({"project": expression})


def test_other_payloads_are_not_projected() -> None:
    assert body("event") == serialize(EVENT)
    assert body("kling") == EVENT.body


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"project": "data."}, "is not a JMESPath expression"),
        ({"project": ""}, "is empty"),
        ({"project": 5}, "must be text"),
        ({"projekt": "data"}, "must have one key"),
        ({}, "must have one key"),
        ("kling2", "is not a valid choice"),
        (5, "must be text"),
    ],
)
def test_an_invalid_payload_is_refused_at_load(payload: object, reason: str) -> None:
    with pytest.raises((InvalidValue, ValueError), match=reason):
        WebhookSettings.model_validate({"url": "https://app.example.com/hook", "payload": payload})
