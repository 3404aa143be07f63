"""Issues of the Kling account that only an operator can fix, and their scope. Pure.

A wrong key, arrears, a block and a disallowed address stop everything. A used-up pack stops the tasks paid from it:
images continue while videos wait. A missing permission stops one resource, which is an endpoint and the model named
in the body: an account without the newest model continues with the others.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.errors import Forbidden, KlingError, KlingRefusal, ModelUnavailable, RetryHint

MAX_PROBE_DELAY = timedelta(minutes=1)
"""The longest delay between two probes of an issue. Once it is fixed, waiting tasks are submitted within that time."""

_REMEDIES: Final[Mapping[int | str | None, str]] = {
    1000: "The key is wrong: check [kling] api_key, or access_key and secret_key.",
    1001: "Kling received no key: check [kling] api_key, and that a gateway in between passes it on.",
    1002: "Kling does not know the key: check [kling] api_key, and that base_url is the one of the key's region.",
    1100: "The account is blocked or not set up yet: check it in Kling's console, or contact Kling's support.",
    1101: "The account is in arrears: pay what is due in Kling's console.",
    1102: "The resource pack is used up or has expired: buy another one or enable pay as you go in Kling's console.",
    1103: "The account may not use it: request access in Kling's console, or use another model.",
    1304: "This machine's address is not on the account's list: add it in Kling's console, or use a listed address.",
}
_PACK_USED_UP, _NOT_PERMITTED = 1102, 1103
_MAX_ISSUES = 1000


class Scope(StrEnum):
    """The scope of an issue."""

    ACCOUNT = "account"
    PACK = "pack"
    RESOURCE = "resource"


class AccountIssue(msgspec.Struct, frozen=True, kw_only=True):
    """An issue of the account, or of the pack or resource called ``name``."""

    scope: Scope
    name: str = ""


class KlingCall(msgspec.Struct, frozen=True, kw_only=True):
    """What a call to Kling needs from the account: whether it creates a task, the pack and the resource."""

    creates: bool = False
    pack: str | None = None
    resource: str = ""

    def issue_for(self, error: KlingError) -> AccountIssue | None:
        """Return the issue that *error* shows, or None."""
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        if isinstance(error, Forbidden):
            is_known = code == _NOT_PERMITTED or isinstance(error, ModelUnavailable)
            return AccountIssue(scope=Scope.RESOURCE, name=self.resource) if self.creates and is_known else None
        if error.retry not in (RetryHint.AFTER_OPERATOR, RetryHint.REAUTHENTICATE):
            return None
        if self.creates and code == _PACK_USED_UP:
            return self._pack_issue()
        return AccountIssue(scope=Scope.ACCOUNT)

    def possible_issues(self) -> Sequence[AccountIssue]:
        """Return every issue that could block this create, and that its success resolves."""
        return [
            AccountIssue(scope=Scope.ACCOUNT),
            self._pack_issue(),
            AccountIssue(scope=Scope.RESOURCE, name=self.resource),
        ]

    def _pack_issue(self) -> AccountIssue:
        """Return the issue of the task's pack, or of its resource if the pack is unknown."""
        if self.pack is None:
            return AccountIssue(scope=Scope.RESOURCE, name=self.resource)
        return AccountIssue(scope=Scope.PACK, name=self.pack)


QUERY: Final = KlingCall()
"""A query about tasks: it is free and needs only the account itself."""


class _OpenIssue(msgspec.Struct):
    """``codes`` are the reasons already reported. ``creates`` says which calls failed: creates, others or both."""

    codes: set[int | str | None] = msgspec.field(default_factory=set)
    creates: set[bool] = msgspec.field(default_factory=set)


class AccountMonitor:
    """Tracks open issues, so that each issue is reported once per reason and its end once."""

    def __init__(self) -> None:
        self._open_issues: BoundedDict[AccountIssue, _OpenIssue] = BoundedDict(_MAX_ISSUES)

    def restore(self, issue: AccountIssue, code: int | str | None, *, creates: bool) -> None:
        """Restore an issue that was reported before a restart."""
        self._record(issue, code, creates=creates)

    def observe(self, error: KlingError | None, call: KlingCall) -> tuple[AccountIssue | None, Sequence[AccountIssue]]:
        """Record how a call ended. *error* is None for a success. Return the new issue, if any, and the resolved ones.

        A successful query proves nothing about creates. A successful create resolves every issue it could have met.
        """
        if error is None:
            return None, [issue for issue in call.possible_issues() if self._resolve(issue, call)]
        issue = call.issue_for(error)
        if issue is None:
            return None, ()
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        return (issue if self._record(issue, code, creates=call.creates) else None), ()

    def _record(self, issue: AccountIssue, code: int | str | None, *, creates: bool) -> bool:
        known = self._open_issues.setdefault(issue, _OpenIssue())
        known.creates.add(creates)
        is_new = code not in known.codes
        known.codes.add(code)
        return is_new

    def _resolve(self, issue: AccountIssue, call: KlingCall) -> bool:
        known = self._open_issues.get(issue)
        if known is None:
            return False
        known.creates -= {False, call.creates}
        if known.creates:
            return False
        del self._open_issues[issue]
        return True


class BlockedCreate(msgspec.Struct, frozen=True, kw_only=True):
    """The issue that blocks a create, its reason, and the time ``until`` the next probe."""

    issue: AccountIssue
    reason: str
    until: datetime


class IssueBreakers:
    """A circuit breaker per pack and resource with an issue: one create at a time probes it, with growing delays.

    The executor has its own breaker for the account as a whole.
    """

    def __init__(self) -> None:
        self._breakers: BoundedDict[AccountIssue, CircuitBreaker] = BoundedDict(_MAX_ISSUES)

    def blocked(self, call: KlingCall, now: datetime) -> BlockedCreate | None:
        """Return the issue that blocks a create now, or None."""
        for issue in call.possible_issues():
            breaker = self._breakers.get(issue)
            if breaker is not None and not breaker.allows(now):
                return BlockedCreate(issue=issue, reason=breaker.reason, until=breaker.next_probe_at or now)
        return None

    def is_probe(self, call: KlingCall) -> bool:
        """Return whether a create would show if an issue has ended."""
        return any(issue in self._breakers for issue in call.possible_issues())

    def next_pack_probe_at(self, now: datetime) -> datetime | None:
        """Return the earliest future probe time of a pack, or None."""
        packs = [breaker for issue, breaker in self._breakers.items() if issue.scope is Scope.PACK]
        return min(
            (pack.next_probe_at for pack in packs if pack.next_probe_at is not None and pack.next_probe_at > now),
            default=None,
        )

    def has_issue_at(self, endpoint: str) -> bool:
        """Return whether a permission is missing at an endpoint, so that the model in the body matters."""
        return any(each.scope is Scope.RESOURCE and each.name.split(" ")[0] == endpoint for each in self._breakers)

    def reason(self, pack: str | None) -> str:
        """Return the reason of a pack's issue, or ""."""
        breaker = self._breakers.get(AccountIssue(scope=Scope.PACK, name=pack or ""))
        return "" if breaker is None else breaker.reason

    def start(self, call: KlingCall, now: datetime, *, max_duration: timedelta) -> None:
        """Record that a create starts, which takes at most *max_duration*."""
        for issue in call.possible_issues():
            if issue in self._breakers:
                self._breakers[issue].start(now, max_duration=max_duration)

    def record_failure(self, issue: AccountIssue, reason: str, *, started_at: datetime, now: datetime) -> None:
        """Record that a create started at *started_at* met an issue."""
        self._breakers.setdefault(issue, CircuitBreaker(max_delay=MAX_PROBE_DELAY)).record_failure(
            reason, started_at=started_at, now=now
        )

    def record_success(self, call: KlingCall) -> bool:
        """Record that a create succeeded. Return whether that resolved an issue."""
        resolved = [issue for issue in call.possible_issues() if self._breakers.pop(issue, None) is not None]
        return bool(resolved)


def remedy(error: KlingError) -> str:
    """Return what the operator can do about an issue of the account."""
    code = error.kling_code if isinstance(error, KlingRefusal) else None
    return _REMEDIES.get(code, error.remedy)
