"""Whether the account with Kling is in trouble that only a person can mend, and how far that reaches. Pure.

A wrong key, arrears, a block and an address that is not allowed stop everything. A pack that is used up stops what is
paid from it: pictures go on while films wait. A right that is missing stops one resource, which is an endpoint and the
model named in the body: whoever may not use the newest model goes on with the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from receiver.domain.circuit_breaker import CircuitBreaker
from receiver.domain.errors import Forbidden, KlingError, KlingRefusal, RetryHint

MAX_PROBE_DELAY = timedelta(minutes=1)
"""How far apart the trials of what is in trouble get: when it is mended, what waits goes within that time."""

_REMEDIES: Final[Mapping[int | str | None, str]] = {
    1000: "The key is wrong: check [kling] api_key, or access_key and secret_key.",
    1001: "No key arrived: check [kling] api_key, and that the gateway between, if any, passes it on.",
    1002: "Kling does not know the key: check [kling] api_key, and that base_url is of the key's own region.",
    1100: "The account is blocked or not yet set up: look at it in Kling's console, or ask Kling's support.",
    1101: "The account is in arrears: pay what is due in Kling's console.",
    1102: "The resource pack is used up or has expired: buy another, or switch on pay as you go, in Kling's console.",
    1103: "The account has no right to it: ask for it in Kling's console, or use another model.",
    1304: "This machine's address is not on the account's list: add it in Kling's console, or send from one that is.",
}
_PACK_USED_UP, _NOT_PERMITTED = 1102, 1103
_MAX_ISSUES = 1000


class Scope(StrEnum):
    """How far trouble reaches."""

    ACCOUNT = "account"
    PACK = "pack"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountIssue:
    """What is in trouble: the account, a pack or a resource by its ``name``."""

    scope: Scope
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KlingCall:
    """A call to Kling, as far as the account goes: whether it was to make a task, and from which pack, of what."""

    creates: bool = False
    pack: str | None = None
    resource: str = ""

    def issue_for(self, error: KlingError) -> AccountIssue | None:
        """Tell what is in trouble when the call ends in *error*, None for nothing."""
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        if isinstance(error, Forbidden):
            return (
                AccountIssue(scope=Scope.RESOURCE, name=self.resource)
                if self.creates and code == _NOT_PERMITTED
                else None
            )
        if error.retry not in (RetryHint.AFTER_OPERATOR, RetryHint.REAUTHENTICATE):
            return None
        if self.creates and code == _PACK_USED_UP:
            return self._pack_issue()
        return AccountIssue(scope=Scope.ACCOUNT)

    def possible_issues(self) -> Sequence[AccountIssue]:
        """Tell all that a create which succeeds shows to be in order, or that would be in its way."""
        return [
            AccountIssue(scope=Scope.ACCOUNT),
            self._pack_issue(),
            AccountIssue(scope=Scope.RESOURCE, name=self.resource),
        ]

    def _pack_issue(self) -> AccountIssue:
        """Give the pack that a task is paid from; where that is not known, the resource stands for it."""
        if self.pack is None:
            return AccountIssue(scope=Scope.RESOURCE, name=self.resource)
        return AccountIssue(scope=Scope.PACK, name=self.pack)


QUERY: Final = KlingCall()
"""A question about tasks: it is free, and needs no more than the account itself."""


@dataclass(slots=True)
class _OpenIssue:
    """``codes`` are the reasons that were told, ``creates`` which calls have met it: creates, others, or both."""

    codes: set[int | str | None] = field(default_factory=set)
    creates: set[bool] = field(default_factory=set)


class AccountMonitor:
    """Follows what calls say about the account, so that each trouble is told once for each reason, and its end once."""

    def __init__(self) -> None:
        self._open_issues: dict[AccountIssue, _OpenIssue] = {}

    def restore(self, issue: AccountIssue, code: int | str | None, *, creates: bool) -> None:
        """Take up trouble that was told of before a restart."""
        self._record(issue, code, creates=creates)

    def observe(self, error: KlingError | None, call: KlingCall) -> tuple[AccountIssue | None, Sequence[AccountIssue]]:
        """Take in how a call ended, None for well; give the trouble that is to be told of, and those that are over.

        A question that is answered says nothing about what makes tasks. A create that succeeds says that all is well.
        """
        if error is None:
            return None, [concern for concern in call.possible_issues() if self._resolve(concern, call)]
        concern = call.issue_for(error)
        if concern is None:
            return None, ()
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        return (concern if self._record(concern, code, creates=call.creates) else None), ()

    def _record(self, issue: AccountIssue, code: int | str | None, *, creates: bool) -> bool:
        if issue not in self._open_issues and len(self._open_issues) >= _MAX_ISSUES:
            del self._open_issues[next(iter(self._open_issues))]
        trouble = self._open_issues.setdefault(issue, _OpenIssue())
        trouble.creates.add(creates)
        is_news = code not in trouble.codes
        trouble.codes.add(code)
        return is_news

    def _resolve(self, issue: AccountIssue, call: KlingCall) -> bool:
        trouble = self._open_issues.get(issue)
        if trouble is None:
            return False
        trouble.creates -= {False, call.creates}
        if trouble.creates:
            return False
        del self._open_issues[issue]
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedCreate:
    """What a create waits for to be mended, why, and *until* when nobody tries."""

    issue: AccountIssue
    reason: str
    until: datetime


class IssueBreakers:
    """Keeps what is in trouble from being tried by all that wait for it: by one at a time, further and further apart.

    The account as a whole is not among them, for with it nothing goes.
    """

    def __init__(self) -> None:
        self._breakers: dict[AccountIssue, CircuitBreaker] = {}

    def blocked(self, call: KlingCall, now: datetime) -> BlockedCreate | None:
        """Tell what a create must not be tried for now; None when it may be."""
        for concern in call.possible_issues():
            patience = self._breakers.get(concern)
            if patience is not None and not patience.allows(now):
                return BlockedCreate(issue=concern, reason=patience.reason, until=patience.next_probe_at or now)
        return None

    def next_pack_probe_at(self, now: datetime) -> datetime | None:
        """Tell when the next pack may be tried that may not be now."""
        packs = [self._breakers[concern] for concern in self._breakers if concern.scope is Scope.PACK]
        return min(
            (pack.next_probe_at for pack in packs if pack.next_probe_at is not None and pack.next_probe_at > now),
            default=None,
        )

    def has_issue_at(self, endpoint: str) -> bool:
        """Tell whether a right to anything at an endpoint is missing, so that it matters which model is named."""
        return any(each.scope is Scope.RESOURCE and each.name.split(" ")[0] == endpoint for each in self._breakers)

    def reason(self, pack: str | None) -> str:
        """Say what is the matter with a pack; "" for nothing."""
        patience = self._breakers.get(AccountIssue(scope=Scope.PACK, name=pack or ""))
        return "" if patience is None else patience.reason

    def start(self, call: KlingCall, now: datetime, *, max_duration: timedelta) -> None:
        """Note that a create is made, which takes no longer than *lasts*."""
        for concern in call.possible_issues():
            if concern in self._breakers:
                self._breakers[concern].start(now, max_duration=max_duration)

    def record_failure(self, issue: AccountIssue, reason: str, *, started_at: datetime, now: datetime) -> None:
        """Note that a create, *begun* then, met trouble."""
        if issue not in self._breakers and len(self._breakers) >= _MAX_ISSUES:
            del self._breakers[next(iter(self._breakers))]
        self._breakers.setdefault(issue, CircuitBreaker(max_delay=MAX_PROBE_DELAY)).record_failure(
            reason, started_at=started_at, now=now
        )

    def record_success(self, call: KlingCall) -> bool:
        """Note that a create succeeded; tell whether that opens what was barred."""
        opened = [concern for concern in call.possible_issues() if self._breakers.pop(concern, None) is not None]
        return bool(opened)


def remedy(error: KlingError) -> str:
    """Say what a person can do about trouble with the account."""
    code = error.kling_code if isinstance(error, KlingRefusal) else None
    return _REMEDIES.get(code, error.remedy)
