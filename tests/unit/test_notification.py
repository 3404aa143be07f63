"""The text that people receive about an event."""

from datetime import UTC, timedelta, timezone
from typing import Any

import pytest

from receiver.domain.api_schema.events import Alert
from receiver.events.notification import (
    MAX_BODY,
    MAX_TITLE,
    RenderError,
    TextTemplate,
    Urgency,
    template_values,
    write_notification,
)

HELD = {
    "message": "Route app is held after 5 consecutive failures: connection refused",
    "route": "app",
    "reason": "connection refused",
    "held_by": "failures",
    "held_at": "2026-11-22T10:02:03.000Z",
}
TASK = {"id": "tsk_1", "label": "spring", "endpoint": "images/generations", "external_task_id": "e1"}


def text_of(
    type_: str,
    data: dict[str, Any],
    *,
    waiting: int | None = None,
    zone: Any = UTC,
    title: str | None = None,
    body: str | None = None,
) -> tuple[str, str, Urgency]:
    event = {"type": type_, "timestamp": "2026-11-22T10:05:00.000Z", "data": {"event_id": "evt_1", **data}}
    written = write_notification(
        template_values(event, waiting=waiting),
        title=None if title is None else TextTemplate(title),
        body=None if body is None else TextTemplate(body),
        zone=zone,
    )
    return written.title, written.body, written.urgency


def test_the_notification_of_a_held_route_has_time_reason_and_backlog() -> None:
    title, body, urgency = text_of("alert.route_held", HELD, waiting=14)

    assert title == "Route app is held"
    assert body == "Route app is held since 10:02: connection refused. 14 events wait."
    assert urgency is Urgency.FAILURE


def test_the_time_is_local() -> None:
    _, body, _ = text_of("alert.route_held", HELD, waiting=1, zone=timezone(timedelta(hours=2)))

    assert body == "Route app is held since 12:02: connection refused. 1 event waits."


def test_the_notification_of_an_operators_hold_names_the_operator() -> None:
    _, body, _ = text_of("alert.route_held", {**HELD, "held_by": "operator", "reason": "maintenance"})

    assert body == "Route app is held by an operator since 10:02: maintenance."


def test_another_alert_has_its_message_and_its_remedy() -> None:
    title, body, urgency = text_of("alert.disk_full", {"message": "Only 10 MiB are free.", "remedy": "Free space."})

    assert (title, urgency) == ("The disk is full", Urgency.FAILURE)
    assert body == "Only 10 MiB are free.\n\nWhat to do: Free space."


def alert_types() -> list[str]:
    return [name for kind in Alert.__args__ for name in kind.__annotations__["type"].__args__]


@pytest.mark.parametrize("type_", alert_types())
def test_every_alert_has_a_title_of_its_own(type_: str) -> None:
    title, _, urgency = text_of(type_, {"message": "It happened.", "route": "app"})

    assert title != type_.removeprefix("alert.").replace("_", " ").capitalize()
    assert (urgency is Urgency.SUCCESS) == type_.endswith("_recovered")


@pytest.mark.parametrize(
    ("type_", "title", "urgency"),
    [
        ("task.succeed", "Task succeeded: spring", Urgency.SUCCESS),
        ("task.failed", "Task failed: spring", Urgency.FAILURE),
        ("task.expired", "Task expired: spring", Urgency.FAILURE),
        ("task.processing", "Task is in progress: spring", Urgency.INFO),
    ],
)
def test_a_task_has_its_name_in_the_title(type_: str, title: str, urgency: Urgency) -> None:
    found = text_of(type_, {"message": "", "task": TASK, "result": {}})

    assert (found[0], found[2]) == (title, urgency)


def test_a_success_lists_its_results_or_its_files() -> None:
    data = {"message": "", "task": TASK, "result": {"images": [{"url": "https://x.example/0.png"}]}}

    assert text_of("task.succeed", data)[1] == "spring (images/generations)\nhttps://x.example/0.png"
    assert text_of("task.succeed", {**data, "assets": [{"path": "/a/0.png"}]})[1].endswith("\n/a/0.png")


def test_a_batch_and_a_report_have_their_messages() -> None:
    batch = text_of("batch.finished", {"message": "m", "batch": {"name": "b1"}})
    report = text_of("report.daily", {"message": "Tasks ended: none. Spent: 1.5 units.", "day": "2026-11-22"})

    assert batch[:2] == ("Batch b1 is finished", "m")
    assert report[:2] == ("Daily report of 2026-11-22", "Tasks ended: none.\nSpent: 1.5 units.")


def test_a_route_may_have_its_own_templates() -> None:
    found = text_of(
        "task.succeed",
        {"task": TASK, "result": {"images": [{"url": "u1"}, {"url": "u2"}]}, "message": ""},
        title="{type}: {task.label}",
        body="{length(result.images)} {{images}}: {join(', ', result.images[].url)} {result.images[0]} {task.none}.",
    )

    assert found[:2] == ("task.succeed: spring", '2 {images}: u1, u2 {"url": "u1"} .')


def test_an_expression_that_fails_sends_nothing() -> None:
    with pytest.raises(RenderError, match=r"\{length\(count\)\} could not be evaluated"):
        text_of("task.succeed", {"task": TASK, "count": 3}, body="Hello {length(count)}")


def test_texts_are_bounded() -> None:
    title, body, _ = text_of("task.failed", {"task": TASK, "message": "x" * 100_000}, title="{message}")

    assert (len(title), len(body)) == (MAX_TITLE, MAX_BODY)
    assert title.endswith("…")
