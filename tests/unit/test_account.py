"""Trouble that only a person can mend is told of once for each reason, and so is its end; it stops what it concerns."""

import pytest
from harness.factories import at
from harness.task_system import refusal

from receiver.domain.errors import KlingError, KlingUnreachable
from receiver.tasks.account import (
    MAX_PROBE_DELAY,
    QUERY,
    AccountIssue,
    AccountMonitor,
    IssueBreakers,
    KlingCall,
    Scope,
    remedy,
)

FILM = KlingCall(creates=True, pack="video", resource="videos/text2video kling-v3")
PICTURE = KlingCall(creates=True, pack="image", resource="images/generations kling-v2")
ALL = AccountIssue(scope=Scope.ACCOUNT)
FILMS = AccountIssue(scope=Scope.PACK, name="video")
NO_V3 = AccountIssue(scope=Scope.RESOURCE, name="videos/text2video kling-v3")
ARREARS, KEY, USED_UP, NO_RIGHT = refusal(429, 1101), refusal(401, 1002), refusal(429, 1102), refusal(403, 1103)


def observe(account: AccountMonitor, error: KlingError | None, call: KlingCall) -> AccountIssue | None:
    begun, over = account.observe(error, call)
    assert not (begun and over)
    return begun or next(iter(over), None)


@pytest.mark.parametrize(
    ("error", "concern"),
    [
        *((refusal(401, code), ALL) for code in (1000, 1001, 1002, 1003, 1004)),
        *((refusal(429, code), ALL) for code in (1100, 1101, 1304)),
        (refusal(402, None), ALL),
        (USED_UP, FILMS),
        (NO_RIGHT, NO_V3),
        *((refusal(status, None), None) for status in (403, 404, 429, 503)),
        *((refusal(400, code), None) for code in (1200, 1201, 1300, 1301)),
        *((refusal(429, code), None) for code in (1302, 1303)),
        (KlingUnreachable("no"), None),
    ],
    ids=str,
)
def test_trouble_reaches_as_far_as_its_code_says(error: KlingError, concern: AccountIssue | None) -> None:
    assert FILM.issue_for(error) == concern


def test_where_no_pack_is_known_a_used_up_one_stops_the_resource() -> None:
    sound = KlingCall(creates=True, resource="audio/text-to-audio")

    assert sound.issue_for(USED_UP) == AccountIssue(scope=Scope.RESOURCE, name="audio/text-to-audio")


def test_a_question_needs_no_pack_and_no_right() -> None:
    assert QUERY.issue_for(NO_RIGHT) is None
    assert QUERY.issue_for(USED_UP) == QUERY.issue_for(KEY) == ALL


def test_trouble_is_told_once_until_it_is_over() -> None:
    account = AccountMonitor()

    said = [observe(account, error, FILM) for error in (None, ARREARS, ARREARS, None, None, ARREARS)]

    assert said == [None, ALL, None, ALL, None, ALL]


def test_another_reason_is_told_as_well_and_each_once_however_they_alternate() -> None:
    account = AccountMonitor()

    assert [observe(account, error, FILM) for error in (ARREARS, KEY, ARREARS, KEY, ARREARS)] == [
        ALL,
        ALL,
        None,
        None,
        None,
    ]
    assert account.observe(None, FILM) == (None, [ALL])


def test_what_says_nothing_about_the_account_changes_nothing() -> None:
    account = AccountMonitor()
    account.observe(KEY, FILM)

    for error in (KlingUnreachable("no"), refusal(503, 5001), refusal(429, 1302), refusal(400, 1201)):
        assert account.observe(error, FILM) == (None, ())


def test_a_question_that_is_answered_does_not_say_that_the_account_is_in_order() -> None:
    account = AccountMonitor()
    account.observe(ARREARS, FILM)

    assert observe(account, None, QUERY) is None
    assert observe(account, ARREARS, FILM) is None
    assert observe(account, None, FILM) == ALL


def test_a_create_that_succeeds_says_that_questions_are_answered_too() -> None:
    account = AccountMonitor()
    account.observe(KEY, QUERY)

    assert observe(account, None, FILM) == ALL


def test_a_used_up_pack_and_a_missing_right_are_over_when_such_a_task_is_taken_and_not_when_another_is() -> None:
    account = AccountMonitor()
    assert observe(account, USED_UP, FILM) == FILMS
    assert observe(account, NO_RIGHT, FILM) == NO_V3

    assert account.observe(None, PICTURE) == (None, [])
    assert account.observe(None, KlingCall(creates=True, pack="video", resource="videos/text2video kling-v2")) == (
        None,
        [FILMS],
    )
    assert account.observe(None, FILM) == (None, [NO_V3])


def test_trouble_that_was_told_of_before_is_not_told_again_and_its_end_is() -> None:
    account = AccountMonitor()
    account.restore(FILMS, 1102, creates=True)

    assert observe(account, USED_UP, FILM) is None
    assert observe(account, None, FILM) == FILMS


def test_what_is_remembered_is_bounded() -> None:
    account, bars = AccountMonitor(), IssueBreakers()

    for number in range(3000):
        call = KlingCall(creates=True, resource=f"images/x{number}")
        account.observe(NO_RIGHT, call)
        bars.record_failure(call.possible_issues()[2], "", started_at=at(0), now=at(0))

    assert len(account._open_issues) <= 1000
    assert len(bars._breakers) <= 1000


def test_each_reason_has_a_remedy_of_its_own() -> None:
    codes = (1000, 1001, 1002, 1100, 1101, 1102, 1103, 1304)

    remedies = {code: remedy(refusal(429, code)) for code in codes}

    assert len(set(remedies.values())) == len(codes)
    for code, word in {1101: "arrears", 1102: "used up", 1103: "right", 1304: "list", 1002: "region"}.items():
        assert word in remedies[code]
    assert "Kling's console" in remedy(refusal(402, None))


def test_what_is_barred_is_tried_by_one_at_a_time_further_and_further_apart_until_one_succeeds() -> None:
    bars, now = IssueBreakers(), at(0)
    assert bars.blocked(FILM, now) is None
    gaps = []
    for _ in range(9):
        bars.start(FILM, now, max_duration=MAX_PROBE_DELAY)
        bars.record_failure(FILMS, "used up", started_at=now, now=now)
        barred = bars.blocked(FILM, now)
        assert barred is not None
        assert (barred.issue, barred.reason, bars.reason("video")) == (FILMS, "used up", "used up")
        assert bars.blocked(PICTURE, now) is None
        gaps.append((barred.until - now).total_seconds())
        now = barred.until
        assert bars.blocked(FILM, now) is None

    bars.start(FILM, now, max_duration=MAX_PROBE_DELAY)
    assert bars.next_pack_probe_at(now) == now + MAX_PROBE_DELAY
    assert bars.blocked(FILM, now) is not None
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert bars.record_success(FILM)
    assert bars.blocked(FILM, now) is None
    assert not bars.record_success(FILM)


def test_which_model_a_task_names_matters_only_where_a_right_is_missing() -> None:
    bars = IssueBreakers()
    assert not bars.has_issue_at("videos/text2video")

    bars.record_failure(NO_V3, "no", started_at=at(0), now=at(0))

    assert bars.has_issue_at("videos/text2video")
    assert not bars.has_issue_at("videos/text2video-x")
    assert bars.blocked(FILM, at(0)) is not None
    assert bars.blocked(KlingCall(creates=True, pack="video", resource="videos/text2video kling-v2"), at(0)) is None
    assert bars.next_pack_probe_at(at(0)) is None
