"""A task's story: its lines, and the axis that they are drawn on."""

from datetime import timedelta

import pytest
from harness.clock import START
from harness.factories import a_push, a_status_report, a_task, at

from receiver.domain.model import PushOutcome, Source, TaskState
from receiver.tasks.explain import ReceivedPush, TaskExplanation
from receiver.web.console.waterfall import Bar, make_axis, tell_story


def a_bar(start: float, end: float) -> Bar:
    return Bar(key=f"{start}", title="", note="", kind="", start=at(start), end=at(end))


def an_explanation(*pushes: ReceivedPush, **changes: object) -> TaskExplanation:
    task = a_task(**{"created_at": START, "started_at": at(5), **changes})
    return TaskExplanation(
        task=task, intent={"prompt": "a"}, pushes=pushes, events=[], deliveries=[], actions=[], next_steps=()
    )


def received(seconds: float, status: str, outcome: PushOutcome, source: Source = Source.CALLBACK) -> ReceivedPush:
    push = a_push(f"psh_{seconds}", received_at=at(seconds), outcome=outcome, source=source)
    return ReceivedPush(push=push, report=a_status_report(status))


def test_work_is_drawn_to_scale() -> None:
    axis = make_axis([a_bar(0, 10), a_bar(10, 40)])

    assert [axis.share(at(seconds)) for seconds in (0, 10, 25, 40)] == [0, 0.25, 0.625, 1]


def test_a_long_idle_time_takes_less_than_a_third_of_the_width() -> None:
    axis = make_axis([a_bar(0, 10), a_bar(86_400, 86_410)])

    assert axis.share(at(86_400)) - axis.share(at(10)) == pytest.approx(0.45 / 1.45)


def test_a_time_outside_the_axis_is_clamped_to_its_ends() -> None:
    axis = make_axis([a_bar(0, 10)])

    assert (axis.share(at(-5)), axis.share(at(99))) == (0, 1)


def test_a_single_moment_has_an_axis() -> None:
    assert make_axis([a_bar(3, 3)]).share(at(3)) == 0


def test_the_steps_of_a_running_task_are_shown_in_order() -> None:
    answer = received(6, "submitted", PushOutcome.APPLIED, Source.SUBMIT)
    bars = tell_story(an_explanation(answer), now=at(60)).bars

    assert [bar.title for bar in bars] == [
        "Submitted",
        "Wait for a slot",
        "Create at Kling",
        "Kling's answer",
        "Kling works",
    ]
    assert [bar.duration for bar in bars[1:3]] == [timedelta(seconds=5), timedelta(seconds=1)]
    assert (bars[-1].is_open, bars[-1].end) == (True, at(60))


def test_a_confirmation_lasts_from_the_callback_to_the_deciding_poll() -> None:
    callback = received(10, "succeed", PushOutcome.APPLIED)
    poll = received(12, "succeed", PushOutcome.DUPLICATE, Source.POLL)
    bars = {bar.title: bar for bar in tell_story(an_explanation(callback, poll), now=at(60)).bars}

    assert bars["Confirmation"].duration == timedelta(seconds=2)


def test_a_callback_that_needed_no_confirmation_has_none() -> None:
    callback = received(10, "processing", PushOutcome.APPLIED)
    poll = received(40, "succeed", PushOutcome.APPLIED, Source.POLL)

    titles = [bar.title for bar in tell_story(an_explanation(callback, poll), now=at(60)).bars]
    assert "Confirmation" not in titles


def test_a_queued_task_waits_until_now() -> None:
    story = tell_story(an_explanation(started_at=None, state=TaskState.QUEUED), now=at(60))

    assert [(bar.title, bar.end) for bar in story.bars] == [("Submitted", START), ("Wait for a slot", at(60))]


def test_secrets_in_a_callbacks_headers_are_hidden() -> None:
    push = a_push(headers=(("authorization", "Bearer hidden"), ("x-api-key", "hidden"), ("user-agent", "kling")))
    story = tell_story(an_explanation(ReceivedPush(push=push, report=None)), now=at(60))
    (bar,) = [bar for bar in story.bars if bar.key == push.id]

    assert dict(bar.texts)["Headers"] == "authorization: ***\nx-api-key: ***\nuser-agent: kling"
