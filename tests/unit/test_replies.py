"""What a client's own callback URL receives: with `final` one request, with the end of its task."""

import json
from typing import Any

import pytest
from harness.clock import START, FakeClock
from harness.factories import a_status_report, a_task

from receiver.domain.clock import Ids
from receiver.domain.model import ClientCallbacks, Origin, Source, TaskState, Verification
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.events.routing import compile_routes
from receiver.kling.raw_json import truncate_strings
from receiver.submission.retry import retry_request

URL = "https://n8n.example/webhook-waiting/7?signature=x"


def an_event(state: TaskState, *, source: Source = Source.POLL, trusted: bool = True, **task: Any) -> RoutedEvent:
    fields = {"origin": Origin.API, "reply_to": URL, "client_callbacks": ClientCallbacks.FINAL} | task
    return EventFactory(compile_routes([]), Ids(FakeClock())).task_event(
        a_task(state=state, **fields),
        a_status_report("unheard-of"),
        b"",
        source=source,
        verified=Verification.API,
        trusted=trusted,
        at=START,
    )


def reason(routed: RoutedEvent) -> str:
    (decision,) = routed.event.decisions
    assert decision.wanted == bool(routed.deliveries)
    return "" if decision.wanted else decision.reason


@pytest.mark.parametrize("state", [TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED])
@pytest.mark.parametrize("source", list(Source))
def test_every_end_is_sent_from_any_source(state: TaskState, source: Source) -> None:
    routed = an_event(state, source=source)

    assert reason(routed) == ""
    assert routed.task is not None
    assert routed.task.client_callbacks is ClientCallbacks.ENDED


@pytest.mark.parametrize("state", [TaskState.SUBMITTED, TaskState.PROCESSING])
def test_progress_is_not_sent(state: TaskState) -> None:
    routed = an_event(state)

    assert reason(routed) == "the client requested only the end"
    assert routed.task is not None
    assert routed.task.client_callbacks is ClientCallbacks.FINAL


def test_an_unconfirmed_end_is_not_sent_and_the_confirmed_one_is_sent_later() -> None:
    routed = an_event(TaskState.SUCCEED, trusted=False)

    assert reason(routed) == "the event cannot be confirmed"
    assert routed.task is not None
    assert routed.task.client_callbacks is ClientCallbacks.FINAL


def test_a_success_after_an_expiry_is_not_sent_again() -> None:
    expired = an_event(TaskState.EXPIRED, source=Source.RECEIVER).task
    assert expired is not None

    routed = an_event(TaskState.SUCCEED, client_callbacks=expired.client_callbacks)

    assert reason(routed) == "the client has received the end of this task already"


def test_a_gateway_client_has_a_refusal_as_its_answer_and_may_send_the_create_again() -> None:
    refused = an_event(TaskState.REJECTED, source=Source.SUBMIT, origin=Origin.GATEWAY)
    lost = an_event(TaskState.EXPIRED, source=Source.RECEIVER, origin=Origin.GATEWAY)

    assert reason(refused) == "the client received it as the answer to its own call"
    assert refused.task is not None
    assert refused.task.client_callbacks is ClientCallbacks.FINAL
    assert reason(lost) == ""


def test_a_retried_task_keeps_its_callback_url_and_what_that_receives() -> None:
    url = f"{URL}&padding={'x' * 2000}"
    ended = a_task(
        state=TaskState.FAILED,
        origin=Origin.API,
        endpoint="images/generations",
        reply_to=url,
        client_callbacks=ClientCallbacks.ENDED,
    )
    stored = truncate_strings(json.dumps({"prompt": "a cat", "callback_url": url}).encode())

    request = retry_request(ended, stored)

    assert url.encode() not in stored
    assert request.body["callback_url"] == url
    assert request.callbacks is ClientCallbacks.FINAL
