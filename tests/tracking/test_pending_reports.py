"""Pending pushes are parsed once, and what is remembered of them is bounded."""

import hashlib
import json

from harness.factories import a_push

from receiver.domain.model import Push
from receiver.kling import protocol
from receiver.tracking.pending_reports import MAX_BYTES, PendingReports


def a_pending_push(number: int, *, size: int = 0) -> Push:
    body = json.dumps({"task_id": str(number), "task_status": "succeed", "padding": "x" * size}).encode()
    return a_push(f"psh_{number}", body=body, digest=hashlib.sha256(body).digest())


def test_a_push_that_was_parsed_when_it_came_is_not_parsed_again() -> None:
    reports, push = PendingReports(), a_pending_push(1)
    report = protocol.parse_status(push.body)
    reports.remember(push, report)

    for _ in range(3):
        [(_, remembered)] = reports.of([push])
        assert remembered is report


def test_a_push_from_before_a_restart_is_parsed_once() -> None:
    reports, push = PendingReports(), a_pending_push(1)

    [(_, first)] = reports.of([push])
    [(_, second)] = reports.of([push])

    assert first.kling_id == "1"
    assert second is first


def test_the_oldest_reports_are_evicted_beyond_the_limit() -> None:
    reports = PendingReports()
    pushes = [a_pending_push(number, size=MAX_BYTES // 4) for number in range(5)]

    [oldest, *_, newest] = reports.of(pushes)

    assert reports.of([newest[0]])[0][1] is newest[1]
    assert reports.of([oldest[0]])[0][1] is not oldest[1]
