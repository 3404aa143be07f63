"""A task's story on one time axis: what happened, when, for how long, and what was sent and answered. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

from receiver.domain.model import (
    ArchiveState,
    Attempt,
    DeliveryStatus,
    Event,
    Push,
    PushOutcome,
    Source,
    Task,
    TaskState,
)
from receiver.domain.quantity_text import counted
from receiver.tasks.explain import OUTCOME_TEXT, DeliveryHistory, ReceivedPush, TaskExplanation
from receiver.web.console.formats import pretty_json

_MAX_TEXT = 16 * 1024
_IDLE = 0.45
"""An idle time longer than this share of the rest is drawn shorter."""

_SECRET_HEADERS = ("authorization", "cookie", "token", "secret", "key")
_KIND_OF_PUSH: Mapping[PushOutcome, str] = {
    PushOutcome.PENDING: "warn",
    PushOutcome.APPLIED: "good",
    PushOutcome.DUPLICATE: "muted",
    PushOutcome.STALE: "muted",
    PushOutcome.MISMATCH: "bad",
    PushOutcome.UNRECOGNIZED: "warn",
    PushOutcome.FORGED: "bad",
}
_PUSH_TITLES: Mapping[Source, str] = {
    Source.CALLBACK: "Callback",
    Source.POLL: "Poll",
    Source.SUBMIT: "Kling's answer",
    Source.RECEIVER: "Receiver",
}
_KIND_OF_OUTCOME = {"accepted": "good", "delivered": "good"}


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the story. Without an end it is a moment; ``is_open`` means that it still goes on.

    ``facts`` are names and values, ``texts`` are titles and raw texts: bodies, headers, answers and outputs.
    """

    key: str
    title: str
    note: str
    kind: str
    start: datetime
    end: datetime
    is_open: bool = False
    facts: Sequence[tuple[str, str]] = ()
    texts: Sequence[tuple[str, str]] = ()

    @property
    def duration(self) -> timedelta:
        """How long it took."""
        return self.end - self.start


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """The bars of a task, oldest first, and the axis that they are drawn on."""

    bars: Sequence[Bar]
    axis: "Axis"


class Axis(msgspec.Struct, frozen=True):
    """Maps times to shares of the width. A long idle time takes less room than it lasted."""

    knots: Sequence[tuple[datetime, float]] = msgspec.field(default_factory=tuple)

    def share(self, at: datetime) -> float:
        """Return the place of a time, from 0 to 1."""
        if at <= self.knots[0][0]:
            return 0.0
        for (left, low), (right, high) in pairwise(self.knots):
            if at <= right:
                return low + (high - low) * ((at - left) / (right - left) if right > left else 1.0)
        return 1.0

    @property
    def start(self) -> datetime:
        """The first time."""
        return self.knots[0][0]

    @property
    def end(self) -> datetime:
        """The last time."""
        return self.knots[-1][0]


def tell_story(explanation: TaskExplanation, *, now: datetime) -> Story:
    """Return the story of a task."""
    task = explanation.task
    bars = [
        *_submit(task, explanation, now),
        *_kling(task, explanation, now),
        *(_push(each) for each in explanation.pushes if each.push.source is not Source.RECEIVER),
        *_confirmations(explanation.pushes, now),
        *_archive(explanation, now),
        *(bar for history in explanation.deliveries for bar in _delivery(history, now)),
        *(
            Bar(
                key=f"action-{number}",
                title=action.verb.replace(".", " "),
                note=f"by {action.actor}",
                kind="muted",
                start=action.at,
                end=action.at,
                facts=[("By", action.actor), ("Subject", action.subject), ("Reason", action.reason or "none given")],
            )
            for number, action in enumerate(explanation.actions)
        ),
    ]
    bars.sort(key=lambda bar: (bar.start, bar.end))
    return Story(bars=bars, axis=make_axis(bars))


def make_axis(bars: Sequence[Bar]) -> Axis:
    """Return an axis for bars, with idle times shortened so that the work between them stays visible."""
    moments = sorted({moment for bar in bars for moment in (bar.start, bar.end)})
    if len(moments) < 2:  # noqa: PLR2004 -- an axis has two ends
        start = moments[0]
        return Axis(((start, 0.0), (start + timedelta(seconds=1), 1.0)))
    gaps = [(right - left).total_seconds() for left, right in pairwise(moments)]
    is_idle = [
        not any(bar.start <= left and bar.end >= right and bar.duration for bar in bars)
        for left, right in pairwise(moments)
    ]
    busy = sum(gap for gap, idle in zip(gaps, is_idle, strict=True) if not idle)
    longest = max(_IDLE * busy, 1.0)
    widths = [min(gap, longest) if idle else gap for gap, idle in zip(gaps, is_idle, strict=True)]
    total, done = sum(widths) or 1.0, 0.0
    knots = [(moments[0], 0.0)]
    for moment, width in zip(moments[1:], widths, strict=True):
        done += width
        knots.append((moment, done / total))
    return Axis(tuple(knots))


def _submit(task: Task, explanation: TaskExplanation, now: datetime) -> Iterator[Bar]:
    intent = explanation.intent
    yield Bar(
        key="intent",
        title="Submitted" if intent is not None else "Created",
        note=f"by {task.origin}",
        kind="ink",
        start=task.created_at,
        end=task.created_at,
        facts=[("Endpoint", task.endpoint or "unknown"), ("Origin", task.origin.value)],
        texts=[] if intent is None else [("Request, long texts shortened", pretty_json(intent))],
    )
    if intent is None:
        return
    is_waiting = task.started_at is None and task.state is TaskState.QUEUED
    end = task.started_at or (now if is_waiting else task.updated_at)
    if end > task.created_at:
        yield Bar(
            key="queue",
            title="Wait for a slot",
            note=task.queueing.slot_key,
            kind="muted",
            start=task.created_at,
            end=end,
            is_open=is_waiting,
            facts=[("Slots of", task.queueing.slot_key or "no pack"), ("Priority", str(task.queueing.priority))],
        )


def _kling(task: Task, explanation: TaskExplanation, now: datetime) -> Iterator[Bar]:
    """Yield the create and the time that Kling worked."""
    if task.started_at is None:
        return
    answers = [each.push.received_at for each in explanation.pushes if each.push.source is Source.SUBMIT]
    created_at = answers[0] if answers else task.started_at
    if created_at > task.started_at or task.state is TaskState.SUBMITTING:
        is_open = task.state is TaskState.SUBMITTING
        yield Bar(
            key="create",
            title="Create at Kling",
            note=f"attempt {task.queueing.attempts}" if task.queueing.attempts > 1 else "",
            kind="busy",
            start=task.started_at,
            end=now if is_open else created_at,
            is_open=is_open,
            facts=[("Attempts", str(task.queueing.attempts)), ("Kling's id", task.kling_id or "not known yet")],
        )
    ends = [event.created_at for event in explanation.events if event.type == f"task.{task.state}"]
    is_open = task.state in (TaskState.SUBMITTED, TaskState.PROCESSING)
    if is_open or ends:
        yield Bar(
            key="kling",
            title="Kling works",
            note=task.state.value,
            kind="busy" if is_open else "good" if task.state is TaskState.SUCCEED else "bad",
            start=created_at,
            end=now if is_open else max(ends[-1], created_at),
            is_open=is_open,
            facts=[
                ("State", task.state.value),
                ("Kling's id", task.kling_id or "unknown"),
                ("Polls", str(task.polling.count)),
                ("Message", task.message or "none"),
            ],
        )


def _push(received: ReceivedPush) -> Bar:
    push, report = received.push, received.report
    return Bar(
        key=push.id,
        title=_PUSH_TITLES[push.source],
        note=" · ".join(filter(None, ["" if report is None else report.raw_status, OUTCOME_TEXT[push.outcome]])),
        kind=_KIND_OF_PUSH[push.outcome],
        start=push.received_at,
        end=push.received_at,
        facts=[
            ("Push", push.id),
            ("Source", push.source.value),
            ("Outcome", f"{push.outcome.value}: it {OUTCOME_TEXT[push.outcome]}"),
            ("Size", f"{len(push.body)} bytes"),
        ],
        texts=[
            *([("Headers", _headers(push))] if push.headers else []),
            ("Body, as received", _text(push.body) if push.body else "No longer kept."),
        ],
    )


def _headers(push: Push) -> str:
    lines = []
    for name, value in push.headers:
        is_secret = any(word in name.lower() for word in _SECRET_HEADERS)
        lines.append(f"{name}: {'***' if is_secret else value}")
    return "\n".join(lines)


def _confirmations(pushes: Sequence[ReceivedPush], now: datetime) -> Iterator[Bar]:
    """Yield the time from each callback that needed confirmation until the poll that decided about it."""
    ordered = [each.push for each in pushes]
    for number, received in enumerate(pushes):
        push = received.push
        is_end = received.report is not None and received.report.state is not None and received.report.state.is_final
        if push.source is not Source.CALLBACK or not (is_end or push.outcome is PushOutcome.PENDING):
            continue
        later = [each for each in ordered[number + 1 :] if each.source is Source.POLL]
        is_open = push.outcome is PushOutcome.PENDING
        if not is_open and not (later and push.outcome in (PushOutcome.APPLIED, PushOutcome.FORGED)):
            continue
        end = now if is_open else later[0].received_at
        if is_open or end - push.received_at < timedelta(minutes=5):
            yield Bar(
                key=f"confirm-{push.id}",
                title="Confirmation",
                note="waits for Kling's API" if is_open else "by Kling's API",
                kind="warn" if is_open else "muted",
                start=push.received_at,
                end=max(end, push.received_at),
                is_open=is_open,
                facts=[("Push", push.id), ("Why", "Unsigned pushes count only once Kling's API confirms them.")],
            )


def _archive(explanation: TaskExplanation, now: datetime) -> Iterator[Bar]:
    """Yield the download of results. The store keeps no time of its end; deliveries start right after it."""
    for event in explanation.events:
        assets = _assets(event)
        if not assets and event.archiving is None:
            continue
        starts = [
            attempt.started_at
            for history in explanation.deliveries
            if history.delivery.event_id == event.id
            for attempt in history.attempts
        ]
        is_open = event.archiving is not None
        yield Bar(
            key=f"archive-{event.id}",
            title="Download of results",
            note=f"{len(assets)} archived",
            kind="warn" if event.archiving in (ArchiveState.LATE, ArchiveState.EXPIRING) else "ink",
            start=event.created_at,
            end=now if is_open else max([event.created_at, *starts[:1]]),
            is_open=is_open,
            facts=[
                (
                    str(each.get("content_type", "file")),
                    f"{each.get('bytes', '?')} bytes, sha256 {each.get('sha256', '')}",
                )
                for each in assets
            ],
        )


def _assets(event: Event) -> Sequence[Mapping[str, object]]:
    found = json.loads(event.envelope).get("data", {}).get("assets")
    return found if isinstance(found, list) else ()


def _delivery(history: DeliveryHistory, now: datetime) -> Iterator[Bar]:
    delivery = history.delivery
    for attempt in history.attempts:
        yield _attempt(history, attempt)
    if delivery.status is DeliveryStatus.PENDING:
        last = history.attempts[-1] if history.attempts else None
        start = delivery.created_at if last is None else last.started_at + last.duration
        yield Bar(
            key=f"wait-{delivery.id}",
            title=f"{delivery.route}: pending",
            note=f"after {counted(delivery.attempts, 'attempt')}" if delivery.attempts else "not attempted yet",
            kind="warn",
            start=start,
            end=max(now, start),
            is_open=True,
            facts=[("Delivery", delivery.id), ("Route", delivery.route), ("Attempts", str(delivery.attempts))],
        )


def _attempt(history: DeliveryHistory, attempt: Attempt) -> Bar:
    delivery = history.delivery
    code = "" if attempt.code is None else f" {attempt.code}"
    return Bar(
        key=f"{delivery.id}-{attempt.number}",
        title=f"{delivery.route}: attempt {attempt.number}",
        note=f"{attempt.outcome}{code}",
        kind=_KIND_OF_OUTCOME.get(attempt.outcome, "bad"),
        start=attempt.started_at,
        end=attempt.started_at + attempt.duration,
        facts=[
            ("Delivery", delivery.id),
            ("Event", f"{history.view.event_type} {delivery.event_id}"),
            ("Outcome", f"{attempt.outcome}{code}"),
            *([("Reason", attempt.reason)] if attempt.reason else []),
            *([("Replays", delivery.replay_of)] if delivery.replay_of else []),
        ],
        texts=[("Answer or output", _text(attempt.excerpt) if attempt.excerpt else "Empty.")],
    )


def _text(raw: bytes) -> str:
    rest = len(raw) - _MAX_TEXT
    return raw[:_MAX_TEXT].decode("utf-8", "replace") + (f"\n… and {rest} more bytes" if rest > 0 else "")
