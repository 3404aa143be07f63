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

from receiver.domain.circuit_breaker import Patience
from receiver.domain.errors import Forbidden, KlingError, KlingRefusal, Retry

LONGEST_WAIT = timedelta(minutes=1)
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
_USED_UP, _NO_RIGHT = 1102, 1103
_MOST = 1000


class Reach(StrEnum):
    """How far trouble reaches."""

    ACCOUNT = "account"
    PACK = "pack"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What is in trouble: the account, a pack or a resource by its ``name``."""

    reach: Reach
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call to Kling, as far as the account goes: whether it was to make a task, and from which pack, of what."""

    creates: bool = False
    pack: str | None = None
    resource: str = ""

    def concern(self, error: KlingError) -> Concern | None:
        """Tell what is in trouble when the call ends in *error*, None for nothing."""
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        if isinstance(error, Forbidden):
            return Concern(reach=Reach.RESOURCE, name=self.resource) if self.creates and code == _NO_RIGHT else None
        if error.retry not in (Retry.AFTER_REMEDY, Retry.ANEW):
            return None
        if self.creates and code == _USED_UP:
            return self._paid_from()
        return Concern(reach=Reach.ACCOUNT)

    def concerns(self) -> Sequence[Concern]:
        """Tell all that a create which succeeds shows to be in order, or that would be in its way."""
        return [Concern(reach=Reach.ACCOUNT), self._paid_from(), Concern(reach=Reach.RESOURCE, name=self.resource)]

    def _paid_from(self) -> Concern:
        """Give the pack that a task is paid from; where that is not known, the resource stands for it."""
        if self.pack is None:
            return Concern(reach=Reach.RESOURCE, name=self.resource)
        return Concern(reach=Reach.PACK, name=self.pack)


QUERY: Final = Call()
"""A question about tasks: it is free, and needs no more than the account itself."""


@dataclass(slots=True)
class _Trouble:
    """``codes`` are the reasons that were told, ``creates`` which calls have met it: creates, others, or both."""

    codes: set[int | str | None] = field(default_factory=set)
    creates: set[bool] = field(default_factory=set)


class Account:
    """Follows what calls say about the account, so that each trouble is told once for each reason, and its end once."""

    def __init__(self) -> None:
        self._troubles: dict[Concern, _Trouble] = {}

    def recall(self, concern: Concern, code: int | str | None, *, creates: bool) -> None:
        """Take up trouble that was told of before a restart."""
        self._note(concern, code, creates=creates)

    def saw(self, error: KlingError | None, call: Call) -> tuple[Concern | None, Sequence[Concern]]:
        """Take in how a call ended, None for well; give the trouble that is to be told of, and those that are over.

        A question that is answered says nothing about what makes tasks. A create that succeeds says that all is well.
        """
        if error is None:
            return None, [concern for concern in call.concerns() if self._is_over(concern, call)]
        concern = call.concern(error)
        if concern is None:
            return None, ()
        code = error.kling_code if isinstance(error, KlingRefusal) else None
        return (concern if self._note(concern, code, creates=call.creates) else None), ()

    def _note(self, concern: Concern, code: int | str | None, *, creates: bool) -> bool:
        if concern not in self._troubles and len(self._troubles) >= _MOST:
            del self._troubles[next(iter(self._troubles))]
        trouble = self._troubles.setdefault(concern, _Trouble())
        trouble.creates.add(creates)
        is_news = code not in trouble.codes
        trouble.codes.add(code)
        return is_news

    def _is_over(self, concern: Concern, call: Call) -> bool:
        trouble = self._troubles.get(concern)
        if trouble is None:
            return False
        trouble.creates -= {False, call.creates}
        if trouble.creates:
            return False
        del self._troubles[concern]
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a create waits for to be mended, why, and *until* when nobody tries."""

    concern: Concern
    why: str
    until: datetime


class Bars:
    """Keeps what is in trouble from being tried by all that wait for it: by one at a time, further and further apart.

    The account as a whole is not among them, for with it nothing goes.
    """

    def __init__(self) -> None:
        self._patiences: dict[Concern, Patience] = {}

    def bar(self, call: Call, now: datetime) -> Bar | None:
        """Tell what a create must not be tried for now; None when it may be."""
        for concern in call.concerns():
            patience = self._patiences.get(concern)
            if patience is not None and not patience.admits(now):
                return Bar(concern=concern, why=patience.why, until=patience.opens_at or now)
        return None

    def packs_open_at(self, now: datetime) -> datetime | None:
        """Tell when the next pack may be tried that may not be now."""
        packs = [self._patiences[concern] for concern in self._patiences if concern.reach is Reach.PACK]
        return min((pack.opens_at for pack in packs if pack.opens_at is not None and pack.opens_at > now), default=None)

    def knows_of(self, endpoint: str) -> bool:
        """Tell whether a right to anything at an endpoint is missing, so that it matters which model is named."""
        return any(each.reach is Reach.RESOURCE and each.name.split(" ")[0] == endpoint for each in self._patiences)

    def why(self, pack: str | None) -> str:
        """Say what is the matter with a pack; "" for nothing."""
        patience = self._patiences.get(Concern(reach=Reach.PACK, name=pack or ""))
        return "" if patience is None else patience.why

    def went(self, call: Call, now: datetime, *, lasts: timedelta) -> None:
        """Note that a create is made, which takes no longer than *lasts*."""
        for concern in call.concerns():
            if concern in self._patiences:
                self._patiences[concern].call(now, lasts=lasts)

    def refused(self, concern: Concern, why: str, *, begun: datetime, now: datetime) -> None:
        """Note that a create, *begun* then, met trouble."""
        if concern not in self._patiences and len(self._patiences) >= _MOST:
            del self._patiences[next(iter(self._patiences))]
        self._patiences.setdefault(concern, Patience(longest=LONGEST_WAIT)).fail(why, begun=begun, now=now)

    def served(self, call: Call) -> bool:
        """Note that a create succeeded; tell whether that opens what was barred."""
        opened = [concern for concern in call.concerns() if self._patiences.pop(concern, None) is not None]
        return bool(opened)


def remedy(error: KlingError) -> str:
    """Say what a person can do about trouble with the account."""
    code = error.kling_code if isinstance(error, KlingRefusal) else None
    return _REMEDIES.get(code, error.remedy)
