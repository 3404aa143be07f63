"""Kling: whether it accepts the key, and whether this machine's clock agrees with Kling's."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

from receiver import __version__
from receiver.domain.errors import (
    AccountBlocked,
    AddressBlocked,
    AuthenticationFailed,
    Forbidden,
    InvalidParameters,
    KlingError,
    KlingRefusal,
    NoResponse,
    RateLimited,
    RequestNotSent,
    SlotsFull,
    TokenRejected,
    UnknownResource,
)
from receiver.kling.key_check import KeyCheck, check_key
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.settings.secrets import is_stand_in

KEY, CLOCK = "kling.key", "clock"

_REGIONS = ("api-singapore.klingai.com", "api-beijing.klingai.com")
_EXACT = timedelta(seconds=3)  # a Date header has whole seconds
_SMALL_SKEW, _LARGE_SKEW = timedelta(seconds=30), timedelta(minutes=5)
_AFTER_KEY = (UnknownResource, InvalidParameters, Forbidden, RateLimited, SlotsFull)
"""Refusals that Kling makes only after it has accepted the key."""

_CODES = {
    1000: "Kling does not accept the key",
    1001: "Kling received no key",
    1002: "Kling does not know the key",
    1003: "the signed token is not valid yet, so this machine's clock is ahead",
    1004: "the signed token has expired, so this machine's clock is behind",
}
_SET_CLOCK = "Turn on time synchronization: `timedatectl set-ntp true`, then `timedatectl timesync-status`."


async def key_and_clock(subject: Subject) -> Sequence[Finding]:
    """Check Kling's key and the clock with one query that creates no task and costs nothing."""
    kling = subject.settings.kling
    if is_stand_in(kling.access_key) or is_stand_in(kling.secret_key) or is_stand_in(kling.api_key):
        unknown = warning(
            "The key could not be looked up here, so it was not tried.", "See the configuration's finding."
        )
        return [replace(unknown, name=KEY), replace(_unknown_clock("there is no key to query Kling with"), name=CLOCK)]
    if not kling.api_key and not kling.access_key:
        missing = warning(
            "No key is configured: tasks cannot be submitted, confirmed or polled.",
            "Set KLING_API_KEY, or [kling] api_key.",
        )
        return [replace(missing, name=KEY), replace(_unknown_clock("there is no key to query Kling with"), name=CLOCK)]
    client = HttpClient(guard=OperatorGuard(), user_agent=f"kling-receiver/{__version__}")
    try:
        async with aclosing(client):
            answer = await check_key(
                kling, http_client=client, clock=subject.clock, redactor=subject.redactor, time_limit=CALL_LIMIT
            )
    except (RequestNotSent, NoResponse, AddressBlocked) as exc:
        unreachable = failed(
            f"Kling cannot be reached: {exc.message}", exc.remedy or "Check [kling] base_url and the network."
        )
        return [replace(unreachable, name=KEY), replace(_unknown_clock("Kling did not answer"), name=CLOCK)]
    return [replace(_key(answer, kling.base_url), name=KEY), replace(_clock(answer), name=CLOCK)]


def _key(answer: KeyCheck, base_url: str) -> Finding:
    host = urlsplit(base_url).hostname or ""
    error, details = answer.error, {"host": host, "status": answer.status}
    code = error.kling_code if isinstance(error, KlingRefusal) else None
    details |= {"kling_code": code} if code is not None else {}
    match error:
        case None:
            return ok(f"{host} accepts the key.", **details)
        case AuthenticationFailed() | TokenRejected():
            return failed(f"{_refusal(code)}. {error.message}", _key_remedy(error, host), **details)
        case AccountBlocked():
            return failed(f"Kling accepts the key but blocks the account: {error.message}", error.remedy, **details)
        case UnknownResource() if code is None:
            return warning(
                f"Not known: {host} has no list of tasks, which a check of the key would query.",
                "Submit one cheap task to check the key.",
                **details,
            )
        case KlingRefusal() if isinstance(error, _AFTER_KEY):
            return ok(f"{host} accepts the key. It refused the query itself: {error.message}", **details)
        case _:
            return warning(
                f"Not known: {error.message}", error.remedy or "Run `kling-receiver doctor` again later.", **details
            )


def _refusal(code: int | str | None) -> str:
    meaning = _CODES.get(code, "Kling does not accept the key") if isinstance(code, int) else "The key is refused"
    return meaning[:1].upper() + meaning[1:]


def _key_remedy(error: KlingError, host: str) -> str:
    if isinstance(error, TokenRejected):
        return _SET_CLOCK
    if host in _REGIONS:
        other = next(each for each in _REGIONS if each != host)
        return f"{error.remedy} A key belongs to one region: if yours is of the other, set base_url to https://{other}."
    return error.remedy


def _clock(answer: KeyCheck) -> Finding:
    ahead = answer.clock_ahead
    if ahead is None:
        return _unknown_clock("Kling's answer has no Date header")
    seconds = round(ahead.total_seconds())
    details = {"ahead_seconds": seconds}
    difference = f"This machine's clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} Kling's"
    if abs(ahead) > _LARGE_SKEW:
        return failed(
            f"{difference}: signed tokens, signatures of callbacks and of webhooks are refused.", _SET_CLOCK, **details
        )
    if abs(ahead) > _SMALL_SKEW:
        return warning(f"{difference}. From 5 minutes on, signatures are refused.", _SET_CLOCK, **details)
    return ok("This machine's clock agrees with Kling's." if abs(ahead) < _EXACT else f"{difference}.", **details)


def _unknown_clock(why: str) -> Finding:
    return warning(f"Not known: {why}.", "Check the clock with `timedatectl`.")
