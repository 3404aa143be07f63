"""Each issue of the account is reported once per reason, and its end once. It blocks only its own scope."""

import pytest
from harness.factories import at
from harness.fake_kling import refusal

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

VIDEO = KlingCall(creates=True, pack="video", resource="videos/text2video kling-v3")
IMAGE = KlingCall(creates=True, pack="image", resource="images/generations kling-v2")
ACCOUNT = AccountIssue(scope=Scope.ACCOUNT)
VIDEO_PACK = AccountIssue(scope=Scope.PACK, name="video")
NO_V3 = AccountIssue(scope=Scope.RESOURCE, name="videos/text2video kling-v3")
ARREARS, KEY, USED_UP, NOT_PERMITTED = refusal(429, 1101), refusal(401, 1002), refusal(429, 1102), refusal(403, 1103)


def observe(account: AccountMonitor, error: KlingError | None, call: KlingCall) -> AccountIssue | None:
    new, resolved = account.observe(error, call)
    assert not (new and resolved)
    return new or next(iter(resolved), None)


@pytest.mark.parametrize(
    ("error", "issue"),
    [
        *((refusal(401, code), ACCOUNT) for code in (1000, 1001, 1002, 1003, 1004)),
        *((refusal(429, code), ACCOUNT) for code in (1100, 1101, 1304)),
        (refusal(402, None), ACCOUNT),
        (USED_UP, VIDEO_PACK),
        (NOT_PERMITTED, NO_V3),
        *((refusal(status, None), None) for status in (403, 404, 429, 503)),
        *((refusal(400, code), None) for code in (1200, 1201, 1300, 1301)),
        *((refusal(429, code), None) for code in (1302, 1303)),
        (KlingUnreachable("no"), None),
    ],
    ids=str,
)
def test_an_issues_scope_follows_from_its_code(error: KlingError, issue: AccountIssue | None) -> None:
    assert VIDEO.issue_for(error) == issue


def test_a_used_up_unknown_pack_blocks_the_resource() -> None:
    audio = KlingCall(creates=True, resource="audio/text-to-audio")

    assert audio.issue_for(USED_UP) == AccountIssue(scope=Scope.RESOURCE, name="audio/text-to-audio")


def test_a_query_needs_no_pack_and_no_permission() -> None:
    assert QUERY.issue_for(NOT_PERMITTED) is None
    assert QUERY.issue_for(USED_UP) == QUERY.issue_for(KEY) == ACCOUNT


def test_an_issue_is_reported_once_until_it_is_resolved() -> None:
    account = AccountMonitor()

    reported = [observe(account, error, VIDEO) for error in (None, ARREARS, ARREARS, None, None, ARREARS)]

    assert reported == [None, ACCOUNT, None, ACCOUNT, None, ACCOUNT]


def test_each_reason_is_reported_once_even_if_they_alternate() -> None:
    account = AccountMonitor()

    assert [observe(account, error, VIDEO) for error in (ARREARS, KEY, ARREARS, KEY, ARREARS)] == [
        ACCOUNT,
        ACCOUNT,
        None,
        None,
        None,
    ]
    assert account.observe(None, VIDEO) == (None, [ACCOUNT])


def test_other_errors_change_no_issue() -> None:
    account = AccountMonitor()
    account.observe(KEY, VIDEO)

    for error in (KlingUnreachable("no"), refusal(503, 5001), refusal(429, 1302), refusal(400, 1201)):
        assert account.observe(error, VIDEO) == (None, ())


def test_a_successful_query_does_not_resolve_an_issue_of_creates() -> None:
    account = AccountMonitor()
    account.observe(ARREARS, VIDEO)

    assert observe(account, None, QUERY) is None
    assert observe(account, ARREARS, VIDEO) is None
    assert observe(account, None, VIDEO) == ACCOUNT


def test_a_successful_create_resolves_an_issue_of_queries() -> None:
    account = AccountMonitor()
    account.observe(KEY, QUERY)

    assert observe(account, None, VIDEO) == ACCOUNT


def test_an_issue_is_resolved_only_by_a_create_of_the_same_scope() -> None:
    account = AccountMonitor()
    assert observe(account, USED_UP, VIDEO) == VIDEO_PACK
    assert observe(account, NOT_PERMITTED, VIDEO) == NO_V3

    assert account.observe(None, IMAGE) == (None, [])
    assert account.observe(None, KlingCall(creates=True, pack="video", resource="videos/text2video kling-v2")) == (
        None,
        [VIDEO_PACK],
    )
    assert account.observe(None, VIDEO) == (None, [NO_V3])


def test_a_restored_issue_is_not_reported_again_but_its_end_is() -> None:
    account = AccountMonitor()
    account.restore(VIDEO_PACK, 1102, creates=True)

    assert observe(account, USED_UP, VIDEO) is None
    assert observe(account, None, VIDEO) == VIDEO_PACK


def test_the_number_of_tracked_issues_is_bounded() -> None:
    account, breakers = AccountMonitor(), IssueBreakers()

    for number in range(3000):
        call = KlingCall(creates=True, resource=f"images/x{number}")
        account.observe(NOT_PERMITTED, call)
        breakers.record_failure(call.possible_issues()[2], "", started_at=at(0), now=at(0))

    assert len(account._open_issues) <= 1000
    assert len(breakers._breakers) <= 1000


def test_each_reason_has_its_own_remedy() -> None:
    codes = (1000, 1001, 1002, 1100, 1101, 1102, 1103, 1304)

    remedies = {code: remedy(refusal(429, code)) for code in codes}

    assert len(set(remedies.values())) == len(codes)
    for code, word in {1101: "arrears", 1102: "used up", 1103: "access", 1304: "list", 1002: "region"}.items():
        assert word in remedies[code]
    assert "Kling's console" in remedy(refusal(402, None))


def test_a_blocked_pack_is_probed_with_growing_delays_until_one_succeeds() -> None:
    breakers, now = IssueBreakers(), at(0)
    assert breakers.blocked(VIDEO, now) is None
    gaps = []
    for _ in range(9):
        breakers.start(VIDEO, now, max_duration=MAX_PROBE_DELAY)
        breakers.record_failure(VIDEO_PACK, "used up", started_at=now, now=now)
        blocked = breakers.blocked(VIDEO, now)
        assert blocked is not None
        assert (blocked.issue, blocked.reason, breakers.reason("video")) == (VIDEO_PACK, "used up", "used up")
        assert breakers.blocked(IMAGE, now) is None
        gaps.append((blocked.until - now).total_seconds())
        now = blocked.until
        assert breakers.blocked(VIDEO, now) is None

    breakers.start(VIDEO, now, max_duration=MAX_PROBE_DELAY)
    assert breakers.next_pack_probe_at(now) == now + MAX_PROBE_DELAY
    assert breakers.blocked(VIDEO, now) is not None
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert breakers.record_success(VIDEO)
    assert breakers.blocked(VIDEO, now) is None
    assert not breakers.record_success(VIDEO)


def test_the_model_matters_only_if_a_permission_is_missing() -> None:
    breakers = IssueBreakers()
    assert not breakers.has_issue_at("videos/text2video")

    breakers.record_failure(NO_V3, "no", started_at=at(0), now=at(0))

    assert breakers.has_issue_at("videos/text2video")
    assert not breakers.has_issue_at("videos/text2video-x")
    assert breakers.blocked(VIDEO, at(0)) is not None
    assert breakers.blocked(KlingCall(creates=True, pack="video", resource="videos/text2video kling-v2"), at(0)) is None
    assert breakers.next_pack_probe_at(at(0)) is None
