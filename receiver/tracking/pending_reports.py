"""Remembers what pending pushes report, so that a new push does not cause all of them to be parsed again."""

from collections import OrderedDict
from collections.abc import Sequence

from receiver.domain.model import Push, StatusReport
from receiver.kling import protocol
from receiver.tasks.poll_schedule import PendingPushes

MAX_BYTES = 4 * 1024 * 1024
"""The most bytes of bodies whose reports are remembered."""


class PendingReports:
    """The reports of recent pending pushes, for at most 4 MiB of bodies. Evicts the oldest."""

    def __init__(self) -> None:
        self._reports: OrderedDict[bytes, tuple[StatusReport, int]] = OrderedDict()
        self._bytes = 0

    def remember(self, push: Push, report: StatusReport) -> None:
        """Remember what a new pending push reports."""
        if push.digest in self._reports or len(push.body) > MAX_BYTES:
            return
        self._reports[push.digest] = report, len(push.body)
        self._bytes += len(push.body)
        while self._bytes > MAX_BYTES:
            _, (_, size) = self._reports.popitem(last=False)
            self._bytes -= size

    def of(self, pending: Sequence[Push]) -> PendingPushes:
        """Return pending pushes with what they report; those from before a restart are parsed."""
        return [(push, self._report(push)) for push in pending]

    def _report(self, push: Push) -> StatusReport:
        known = self._reports.get(push.digest)
        if known is not None:
            return known[0]
        report = protocol.parse_status(push.body)
        self.remember(push, report)
        return report
