"""Remembers what pending pushes report, so that a new push does not cause all of them to be parsed again."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from receiver.domain.model import Push, StatusReport
from receiver.domain.results import without_queries
from receiver.kling import protocol
from receiver.tasks.poll_schedule import PendingPushes

MAX_BYTES = 4 * 1024 * 1024
"""The most bytes that remembered reports may take, without their results."""

_OTHER_BYTES = 1024


class RememberedReport(StatusReport, frozen=True, kw_only=True):
    """A report without its result. It still tells whether there was one, and whether another report has the same."""

    was_empty: bool
    fingerprint: bytes

    @property
    def is_empty(self) -> bool:
        """Whether the report is a success without a result."""
        return self.was_empty

    def matches(self, other: StatusReport) -> bool:
        """Return whether both report the same state, message and result, apart from the queries of URLs."""
        if (self.state, self.message) != (other.state, other.message):
            return False
        return self.fingerprint == (other.fingerprint if isinstance(other, RememberedReport) else _fingerprint(other))


class PendingReports:
    """The reports of recent pending pushes, without their results. Evicts the oldest beyond 4 MiB.

    A result may take ten times the bytes of its body. With results, the pushes of a few leaked URLs would not fit, and
    each new push would be compared with pushes that are parsed anew.
    """

    def __init__(self) -> None:
        self._reports: OrderedDict[bytes, tuple[StatusReport, int]] = OrderedDict()
        self._bytes = 0

    def remember(self, push: Push, report: StatusReport) -> StatusReport:
        """Remember what a new pending push reports, and return what is remembered."""
        if (known := self._reports.get(push.digest)) is not None:
            return known[0]
        remembered = without_result(report)
        size = len(report.message.encode("utf-8", "surrogatepass")) + _OTHER_BYTES
        self._reports[push.digest] = remembered, size
        self._bytes += size
        while self._bytes > MAX_BYTES:
            _, (_, size) = self._reports.popitem(last=False)
            self._bytes -= size
        return remembered

    def of(self, pending: Sequence[Push]) -> PendingPushes:
        """Return pending pushes with what they report; those from before a restart are parsed."""
        return [(push, self._report(push)) for push in pending]

    def _report(self, push: Push) -> StatusReport:
        known = self._reports.get(push.digest)
        return self.remember(push, protocol.parse_status(push.body)) if known is None else known[0]


def without_result(report: StatusReport) -> RememberedReport:
    """Return a report without its result, so that comparing it with many others reads the result only once."""
    if isinstance(report, RememberedReport):
        return report
    return RememberedReport(
        **(msgspec.structs.asdict(report) | {"result": {}, "cost": None}),
        was_empty=report.is_empty,
        fingerprint=_fingerprint(report),
    )


def _fingerprint(report: StatusReport) -> bytes:
    result = json.dumps(without_queries(report.result), sort_keys=True)
    return hashlib.sha256(result.encode()).digest()
