"""The arguments of the rarer calls of a store, as the writer's items."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import FinishedBatch
from receiver.domain.clock import micros
from receiver.domain.daily_report import LastReport
from receiver.domain.model import Delivery
from receiver.domain.replays import Replay
from receiver.domain.tracked_alerts import Acknowledgement
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import RetentionTarget, StoredTask
from receiver.store.retention_pages import PAGE_SIZE


class AcknowledgeCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``alerts.acknowledge``."""

    alert_id: str
    acknowledgement: Acknowledgement
    action: AuditEntry


class CloseAlertsCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``alerts.close_ended``, with the alerts that it found."""

    ids: Sequence[str]
    now: datetime


class CloseBatchCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``batches.close``."""

    name: str
    now: datetime
    action: AuditEntry


class FinishCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``batches.finish``."""

    name: str
    make_event: Callable[[FinishedBatch], RoutedEvent]
    limit: int


class DeleteCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``deletions.delete``."""

    task_id: str
    check: Callable[[StoredTask], None]
    places: Callable[[StoredTask], Sequence[str]]
    action: AuditEntry


class SaveDurationsCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``durations.save``."""

    durations: Mapping[str, Sequence[float]]
    now: datetime
    keep: int


class MakeDueCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``replays.make_due``."""

    delivery_id: str
    now: datetime
    action: AuditEntry


class AddRepeatCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``replays.add_repeat``."""

    delivery: Delivery
    action: AuditEntry


class AddReplayCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``replays.add``."""

    replay: Replay
    action: AuditEntry


class CancelCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``replays.cancel``."""

    replay_id: str
    now: datetime
    action: AuditEntry


class AddReportCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``reports.add``."""

    report: LastReport
    routed: RoutedEvent | None


class SweepCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``retention.sweep``."""

    target: RetentionTarget
    before: datetime
    now: datetime
    after: str

    @property
    def arguments(self) -> Mapping[str, object]:
        """The arguments of the SQL statements."""
        return {"before": micros(self.before), "now": micros(self.now), "after": self.after, "limit": PAGE_SIZE}
