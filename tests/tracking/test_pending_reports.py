"""Pending pushes are parsed once, and what is remembered of them is bounded."""

import hashlib
import json

import pytest
from harness.factories import a_push

from receiver.domain.model import Push
from receiver.kling import protocol
from receiver.tracking.pending_pushes import MAX_PENDING
from receiver.tracking.pending_reports import MAX_BYTES, PendingReports


def a_pending_push(number: int, *, size: int = 0, results: int = 0) -> Push:
    videos = [{"id": str(video), "url": f"https://results.example/{video}?n={number}"} for video in range(results)]
    body = json.dumps(
        {
            "task_id": str(number),
            "task_status": "succeed",
            "task_status_msg": "x" * size,
            "task_result": {"videos": videos},
        }
    ).encode()
    return a_push(f"psh_{number}", body=body, digest=hashlib.sha256(body).digest())


def test_a_remembered_push_is_not_parsed_again() -> None:
    reports, push = PendingReports(), a_pending_push(1)
    first = reports.remember(push, protocol.parse_status(push.body))

    for _ in range(3):
        [(_, remembered)] = reports.of([push])
        assert remembered is first


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


def test_the_pushes_of_several_urls_with_many_results_are_all_remembered() -> None:
    reports = PendingReports()
    pushes = [a_pending_push(number, results=200) for number in range(8 * MAX_PENDING)]
    assert sum(len(push.body) for push in pushes) > MAX_BYTES

    first, again = reports.of(pushes), reports.of(pushes)

    assert all(one is other for (_, one), (_, other) in zip(first, again, strict=True))


@pytest.mark.parametrize("results", [0, 1, 3])
def test_a_remembered_report_equals_the_parsed_one(results: int) -> None:
    push = a_pending_push(1, results=results, size=5)
    whole, remembered = protocol.parse_status(push.body), PendingReports().of([push])[0][1]

    assert (remembered.state, remembered.kling_id, remembered.message) == (whole.state, "1", "xxxxx")
    assert remembered.is_empty == whole.is_empty == (results == 0)
    others = [whole, *(protocol.parse_status(a_pending_push(2, results=n, size=5).body) for n in range(4))]
    others.append(protocol.parse_status(a_pending_push(1, results=results, size=6).body))
    assert [remembered.matches(other) for other in others] == [whole.matches(other) for other in others]
