"""Trouble that only a person can mend is told of once, and so is its end."""

from datetime import UTC, datetime

from receiver.account import Account
from receiver.errors import KlingError, KlingUnreachable
from receiver.kling.refusals import Said, error_of


def refused(status: int, code: int) -> KlingError:
    error = error_of(
        Said(status=status, headers={}, document={"code": code}), creates=False, now=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert error is not None
    return error


def test_trouble_is_told_once_until_it_is_over() -> None:
    account, arrears = Account(), refused(429, 1101)

    assert [account.saw(error, by="submit") for error in (None, arrears, arrears, None, None, arrears)] == [
        None, True, None, False, None, True,
    ]  # fmt: skip


def test_what_says_nothing_about_the_account_changes_nothing() -> None:
    account = Account()
    account.saw(refused(401, 1002), by="submit")

    others = [KlingUnreachable("no"), refused(503, 5001), refused(429, 1302), refused(400, 1201)]

    assert [account.saw(error, by="submit") for error in others] == [None] * 4


def test_a_question_that_is_answered_does_not_say_that_a_used_up_pack_is_filled() -> None:
    account = Account()
    account.saw(refused(429, 1102), by="submit")

    assert account.saw(None, by="query") is None
    assert account.saw(refused(429, 1102), by="submit") is None
    assert account.saw(None, by="submit") is False


def test_two_kinds_of_trouble_are_one_alert_and_over_when_both_are() -> None:
    account, key = Account(), refused(401, 1000)

    said = [account.saw(key, by="query"), account.saw(key, by="submit"), account.saw(None, by="query")]

    assert said == [True, None, None]
    assert account.saw(None, by="submit") is False
