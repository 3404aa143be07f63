"""Factories of values, so that a test states only what matters to its rule."""

from datetime import datetime, timedelta
from typing import Any

from harness.clock import START
from msgspec.structs import replace

from receiver.domain.model import (
    Delivery,
    DeliveryStatus,
    Event,
    Origin,
    Push,
    PushOutcome,
    Source,
    StatusReport,
    Task,
    TaskState,
    Verification,
)
from receiver.domain.queueing import Queueing
from receiver.settings import PollSettings
from receiver.tasks.poll_optimizer import poll_policy

IMAGES: dict[str, tuple[dict[str, Any], ...]] = {"images": ({"index": 0, "url": "https://cdn.example.com/0.png"},)}
POLL = poll_policy(PollSettings())


_QUEUEING = ("slot_key", "weight", "priority", "share", "attempts")


def a_task(**changes: Any) -> Task:
    """A task that Kling has accepted through the gateway, without any push yet.

    Members of its `queueing` are given by their own names.
    """
    queueing = {name: changes.pop(name) for name in _QUEUEING if name in changes}
    task = Task(
        id="tsk_1",
        origin=Origin.GATEWAY,
        state=TaskState.SUBMITTED,
        endpoint="images/multi-image2image",
        kling_id="k1",
        external_task_id="tsk_1",
        queueing=Queueing(**{"slot_key": "image"} | queueing),
        created_at=START,
        updated_at=START,
        due_at=START + POLL.after,
    )
    return replace(task, **changes)


def a_status_report(raw_status: str, **changes: Any) -> StatusReport:
    """A status report of `a_task()`; a success has one image."""
    state = TaskState(raw_status) if raw_status in set(TaskState) else None
    result = IMAGES if raw_status == "succeed" else {}
    return replace(
        StatusReport(state=state, raw_status=raw_status, kling_id="k1", external_task_id="tsk_1", result=result),
        **changes,
    )


def a_push(id_: str = "psh_1", **changes: Any) -> Push:
    """A callback that must be confirmed."""
    push = Push(
        id=id_,
        task_id="tsk_1",
        source=Source.CALLBACK,
        headers=(),
        body=b"{}",
        digest=b"\0" * 32,
        received_at=START,
        outcome=PushOutcome.PENDING,
    )
    return replace(push, **changes)


def an_event(id_: str = "evt_1", **changes: Any) -> Event:
    """A stored success event."""
    event = Event(
        id=id_,
        type="task.succeed",
        envelope=b'{"type":"task.succeed","timestamp":"2026-11-22T10:00:00.000Z","data":{"event_id":"evt_1"}}',
        body=b'{"task_id":"k1","task_status":"succeed"}',
        verified=Verification.API,
        created_at=START,
        task_id="tsk_1",
    )
    return replace(event, **changes)


def a_delivery(id_: str = "dlv_1", **changes: Any) -> Delivery:
    """A delivery that is due."""
    delivery = Delivery(
        id=id_,
        event_id="evt_1",
        route="publish",
        status=DeliveryStatus.PENDING,
        created_at=START,
        due_at=START,
    )
    return replace(delivery, **changes)


def at(seconds: float) -> datetime:
    """The time this many seconds after START."""
    return START + timedelta(seconds=seconds)
