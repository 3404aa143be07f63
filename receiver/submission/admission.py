"""Admission control: whether a queued task may be sent to Kling now. Pure: the time is an argument.

Three limits apply. The circuit breaker covers the whole account, an issue breaker covers one pack or one resource,
and the slot limiter covers the parallel tasks of a pack and model. The results of creates adjust all three.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.errors import KlingError, KlingRefusal, RetryHint
from receiver.domain.model import Task
from receiver.domain.slot_keys import SlotLimit
from receiver.settings.slots import SlotSettings
from receiver.submission.slots import SlotLimiter
from receiver.tasks.account import AccountIssue, IssueBreakers, KlingCall, Scope

MAX_DELAY = timedelta(minutes=1)
"""The longest delay of the account's circuit breaker."""

WAITING_FOR_SLOT = "waits for a slot"
"""The message of a task that waits for another one to end."""

_WAITING_FOR_MORE_SLOTS = "waits for more slots than Kling was seen to have free"


class Admitted(msgspec.Struct, frozen=True):
    """The task may be sent now. ``is_probe``: its result decides whether others may follow, so it is sent alone."""

    is_probe: bool = False


class Skip(msgspec.Struct, frozen=True):
    """The task keeps its place in the queue; a task behind it may be sent."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """The task leaves the queue's head until a time."""

    until: datetime
    reason: str


class AdmissionControl:
    """Decides which queued tasks may be sent, and adapts the limits to the results.

    Hold ``queue_lock`` while choosing the next task, so that the queue does not change.
    """

    def __init__(self, slots: SlotSettings, *, max_duration: timedelta) -> None:
        """*slots* are the configured limits, *max_duration* is the longest that one create may take."""
        self.queue_lock = asyncio.Lock()
        self._max_duration = max_duration
        self._slots = slots
        self._forget()

    def _forget(self) -> None:
        self._slot_limiter = SlotLimiter(self._slots)
        self._breaker = CircuitBreaker(max_delay=MAX_DELAY)
        self._issue_breakers = IssueBreakers()

    def restore(self, in_use: Mapping[str, int], issues: Mapping[AccountIssue, str], now: datetime) -> None:
        """Restore the limits at the start: slots *in_use* by slot key, and the open *issues* with their reasons.

        What was learned before is forgotten: it may be from an earlier tenure of this process.
        An open issue permits one probe, not every waiting task.
        """
        self._forget()
        self._slot_limiter.restore(in_use, now)
        for issue, reason in issues.items():
            if issue.scope is Scope.ACCOUNT:
                self._breaker.record_failure(reason, started_at=now, now=now)
            else:
                self._issue_breakers.record_failure(issue, reason, started_at=now, now=now)

    def apply(self, slots: SlotSettings) -> None:
        """Use these limits. Tasks in flight beyond them finish."""
        self._slots = slots
        self._slot_limiter.apply(slots)

    def slot_limits(self) -> Sequence[SlotLimit]:
        """Return the configured and learned limits of slots."""
        return self._slot_limiter.limits()

    def in_use(self, task: Task, in_use: Mapping[str, int]) -> int:
        """Return how many of the slots *in_use* by slot key count together with the task."""
        return self._slot_limiter.in_use(task, in_use)

    @property
    def head_ids(self) -> Sequence[str]:
        """The ids of the tasks that stay at the head of their slot keys."""
        return self._slot_limiter.head_ids

    def is_open(self, now: datetime) -> bool:
        """Return whether the account's circuit breaker permits a create now."""
        return self._breaker.allows(now)

    @property
    def account_probe_at(self) -> datetime | None:
        """When the account's circuit breaker permits the next probe; None while it is closed."""
        return self._breaker.next_probe_at

    def next_probe_at(self, now: datetime) -> datetime | None:
        """Return when the next slot key or pack may be probed, or None."""
        probes = (self._slot_limiter.next_probe_at(now), self._issue_breakers.next_pack_probe_at(now))
        return min((at for at in probes if at is not None), default=None)

    def has_issue(self, call: KlingCall, now: datetime) -> bool:
        """Return whether an issue keeps queued tasks from such a create, apart from full slots."""
        return not self._breaker.allows(now) or self._issue_breakers.is_probe(call)

    def has_issue_at(self, endpoint: str) -> bool:
        """Return whether a permission is missing at an endpoint, so that the model of a task matters."""
        return self._issue_breakers.has_issue_at(endpoint)

    def is_slot_free(self, task: Task, in_use: Mapping[str, int], now: datetime) -> bool:
        """Return whether a task is within the slot limits, of which *in_use* are used. A probe is not."""
        is_within_learned = not self._slot_limiter.is_probe(task, in_use)
        return is_within_learned and self._slot_limiter.admits(task, in_use, now)

    def admit(self, task: Task, call: KlingCall, in_use: Mapping[str, int], now: datetime) -> Admitted | Wait | Skip:
        """Decide whether *task* may be sent; *in_use* is the number of slots in use by slot key."""
        blocked = self._issue_breakers.blocked(call, now)
        if blocked is not None:
            # another task may need another resource, but every task of the pack is blocked
            is_resource = blocked.issue.scope is Scope.RESOURCE
            return Wait(until=blocked.until, reason=blocked.reason) if is_resource else Skip()
        if self._slot_limiter.admits(task, in_use, now):
            return Admitted(is_probe=self._is_probe(task, call, in_use))
        until = self._slot_limiter.yields_until(task, now)
        return Skip() if until is None else Wait(until=until, reason=_WAITING_FOR_MORE_SLOTS)

    def _is_probe(self, task: Task, call: KlingCall, in_use: Mapping[str, int]) -> bool:
        is_account_probe = self._breaker.next_probe_at is not None
        return is_account_probe or self._issue_breakers.is_probe(call) or self._slot_limiter.is_probe(task, in_use)

    def sync_heads(self, next_queued: Sequence[Task]) -> None:
        """Forget the waiting tasks of each slot key that has none in *next_queued*, the heads of all keys."""
        self._slot_limiter.sync_heads(next_queued)

    def started(self, task: Task, call: KlingCall, in_use: Mapping[str, int], now: datetime) -> None:
        """Record that the create of a task starts."""
        self._slot_limiter.start(task, in_use, now, max_duration=self._max_duration)
        self._breaker.start(now, max_duration=self._max_duration)
        self._issue_breakers.start(call, now, max_duration=self._max_duration)

    def finished(
        self,
        task: Task,
        call: KlingCall,
        error: KlingError | None,
        *,
        started_at: datetime,
        now: datetime,
        max_in_use: int,
    ) -> None:
        """Record how a create ended, None if it succeeded.

        *max_in_use* is the most slots of its key that other tasks may have used during the call.
        """
        issue = None if error is None else call.issue_for(error)
        is_blocked = issue is not None and issue.scope is not Scope.ACCOUNT
        if issue is not None and is_blocked:
            self._issue_breakers.record_failure(issue, str(error), started_at=started_at, now=now)
        if error is None or is_blocked or error.retry in (RetryHint.NEVER, RetryHint.WHEN_SLOT_FREE):
            self._breaker.record_success()
        else:
            retry_after = error.retry_after if isinstance(error, KlingRefusal) else None
            self._breaker.record_failure(str(error), started_at=started_at, now=now, retry_after=retry_after)
        if error is not None and error.retry is RetryHint.WHEN_SLOT_FREE:
            self._slot_limiter.on_slots_full(task, max_in_use, started_at=started_at, now=now)
        elif error is not None:
            self._slot_limiter.on_other_error(task, now)

    def has_learned_limit(self, task: Task) -> bool:
        """Return whether the limit of the task's slot key was learned, so that an accepted task may raise it."""
        return self._slot_limiter.has_learned_limit(task)

    def accepted(self, task: Task, now: datetime, *, in_use_before: int, in_use_after: int) -> None:
        """Record the slots of its key in use before and after Kling accepted a task."""
        self._slot_limiter.on_accepted(task, in_use_before, in_use_after, now)

    def resolve_issues(self, call: KlingCall) -> bool:
        """Record that a create succeeded. Return whether this ended an issue."""
        return self._issue_breakers.record_success(call)

    def requeued_at_head(self, task: Task) -> None:
        """Record that a task returns to the head of its slot key."""
        self._slot_limiter.requeue_at_head(task)

    def removed(self, task: Task) -> None:
        """Record that a task left the queue without a create."""
        self._slot_limiter.remove(task)

    def wait_reason(self, task: Task) -> str:
        """Return why a queued task that was not sent waits."""
        return self.issue_reason(task) or WAITING_FOR_SLOT

    def issue_reason(self, task: Task) -> str:
        """Return the reason of an issue of the account or of the task's pack, or ""."""
        return self._breaker.reason or self._issue_breakers.reason(task.queueing.pack)

    def expected_wait_reason(self, task: Task, now: datetime) -> str:
        """Return why a new task will not be sent at once, or "" if it may be."""
        if not self._breaker.allows(now):
            return self._breaker.reason
        return self._issue_breakers.reason(task.queueing.pack) or (
            WAITING_FOR_SLOT if self._slot_limiter.has_waiters(task) else ""
        )
