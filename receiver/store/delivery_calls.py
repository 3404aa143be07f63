"""The arguments of calls of a delivery queue, as the writer's items."""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import micros
from receiver.domain.model import Attempt, RouteState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.store import rows
from receiver.store.interfaces import RouteClaim

MAX_ATTEMPTS_RETAINED = 200
"""The number of newest attempts that are kept for each delivery."""


class ClaimCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``claim``."""

    route: str
    now: datetime
    until: datetime
    limit: int
    claim: str
    early: bool = False
    only: str | None = None
    skip: Collection[str] = ()


class ClaimRoutesCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``claim_routes``."""

    wanted: Sequence[RouteClaim]
    now: datetime
    skip: Collection[str]


class RecordAttemptCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``record_attempt``."""

    attempt: Attempt
    verdict: Verdict
    claim: str
    route: RouteState | None
    alerts: Sequence[RoutedEvent]


class ReleaseCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``release``."""

    delivery_id: str
    claim: str
    now: datetime


class ReleaseAllCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``release_all``."""

    now: datetime
    suspect_after: int


class RetryNowCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``retry_now``."""

    route: str
    now: datetime


class BringForwardCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``bring_forward``."""

    route: str
    now: datetime
    archive_wait_until: datetime
    limit: int


class SaveRouteCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of ``save_route``."""

    state: RouteState
    alert: RoutedEvent | None
    action: AuditEntry | None


def drop_claim(claims: dict[str, str], delivery_id: str, claim: str) -> bool:
    """Remove a claim from *claims*; return False if it is not there, because another verdict or claim came first."""
    if claims.get(delivery_id) != claim:
        return False
    del claims[delivery_id]
    return True


def verdict_row(call: RecordAttemptCall) -> rows.Values:
    """Return the row of a verdict for ``record_verdict``."""
    verdict, attempt = call.verdict, call.attempt
    finished_at = None if verdict.finished_at is None else micros(verdict.finished_at)
    due_at = micros(verdict.due_at)
    return (
        attempt.delivery_id,
        call.claim,
        verdict.status.value,
        due_at,
        finished_at,
        attempt.number,
        int(verdict.probe),
    )
