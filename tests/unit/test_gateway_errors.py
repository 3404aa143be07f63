"""A gateway's own words decide if its answer has no code of Kling's."""

import json

import pytest
from harness.clock import START

from receiver.domain import errors
from receiver.domain.errors import KlingError, KlingRefusal, KlingUncertain, RetryHint
from receiver.domain.model import Json
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.tasks.account import AccountIssue, KlingCall, Scope, remedy

CALL = KlingCall(creates=True, pack="image", resource="images/generations kling-v9")
ACCOUNT = AccountIssue(scope=Scope.ACCOUNT)
RESOURCE = AccountIssue(scope=Scope.RESOURCE, name=CALL.resource)


def translated(status: int, document: Json, *, creates: bool = True) -> KlingError | None:
    return to_error(ErrorResponse(status=status, headers={}, document=document), is_create=creates, now=START)


def nested(code: str, message: str = "no", kind: str = "new_api_error") -> Json:
    return {"error": {"message": message, "type": kind, "param": "", "code": code}}


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (403, nested("insufficient_user_quota", "user quota is not enough")),
        (403, nested("pre_consume_token_quota_failed", "token quota is not enough")),
        (429, nested("insufficient_quota", "You exceeded your current quota")),
        (402, nested("", "Insufficient credits")),
        (403, {"code": "quota_not_enough", "message": "Account quota insufficient", "data": None}),
        (403, {"code": "local:quota_not_enough", "message": "no"}),
        (403, {"code": 403, "reason": 1, "message": "not enough balance", "type": "NOT_ENOUGH_BALANCE"}),
        (400, {"error": "insufficient-balance"}),
        (403, {"error": {"message": "用户额度不足 (request id: 1)", "type": "one_api_error"}}),
        (500, nested("insufficient_user_quota")),
        (200, {"success": False, "message": "余额不足"}),
    ],
)
def test_a_lack_of_balance_waits_for_the_operator(status: int, document: Json) -> None:
    error = translated(status, document)

    assert isinstance(error, errors.AccountBlocked)
    assert CALL.issue_for(error) == ACCOUNT
    assert "balance" in remedy(error)


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (401, {"error": {"message": "无效的令牌 (request id: 1)", "type": "api_error"}}),
        (403, nested("invalid_api_key")),
        (403, {"code": "FAILED_TO_AUTH", "message": "no"}),
        (403, {"message": "This token is expired", "code": "token expired"}),
        (200, {"status": "error", "message": "Invalid API key"}),
    ],
)
def test_a_refused_key_waits_for_the_operator(status: int, document: Json) -> None:
    error = translated(status, document)

    assert isinstance(error, errors.AuthenticationFailed)
    assert error.retry is RetryHint.AFTER_OPERATOR
    assert CALL.issue_for(error) == ACCOUNT


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (503, nested("model_not_found", "当前分组 default 下对于模型 kling-v9 无可用渠道")),
        (503, {"error": {"message": "当前分组 vip 下对于模型 kling-v9 无可用渠道", "type": "one_api_error"}}),
        (500, nested("get_channel_failed")),
        (500, nested("channel:no_available_key")),
        (403, {"error": {"message": "This token has no access to model kling-v9"}}),
    ],
)
def test_a_model_without_a_channel_stops_this_model_alone(status: int, document: Json) -> None:
    error = translated(status, document)

    assert isinstance(error, errors.ModelUnavailable)
    assert CALL.issue_for(error) == RESOURCE


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (404, nested("model_not_found"), errors.UnknownResource),
        (400, nested("sensitive_words_detected"), errors.ContentRefused),
        (400, nested("bad_request_body"), errors.InvalidParameters),
        (429, nested("rate_limit_exceeded"), errors.RateLimited),
        (403, nested("too_many_requests"), errors.RateLimited),
        (429, {"code": "local:quota_not_enough", "message": "当前分组上游负载已饱和"}, errors.RateLimited),
        (429, nested("token_concurrency_limit_reached"), errors.SlotsFull),
        (403, nested("words_of_no_table"), errors.Forbidden),
        (500, nested("service_unavailable"), errors.ServerError),
    ],
)
def test_other_gateway_errors_are_classified(status: int, document: Json, kind: type[KlingRefusal]) -> None:
    assert type(translated(status, document)) is kind


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, nested("do_request_failed")),
        (500, nested("words_of_no_table", "user quota is not enough")),  # perhaps of another provider, after the create
        (200, nested("upstream_timeout")),
        (502, nested("bad_response_body")),
    ],
)
def test_a_gateway_that_lost_klings_answer_leaves_the_create_uncertain(status: int, document: Json) -> None:
    assert isinstance(translated(status, document), KlingUncertain)
    assert not isinstance(translated(status, document, creates=False), KlingUncertain)


def test_klings_code_outweighs_a_gateways_word() -> None:
    error = translated(429, {"code": 1303, "message": "quota is not enough", "error": "insufficient_quota"})

    assert type(error) is errors.SlotsFull


@pytest.mark.parametrize("wrap", ["fail_to_fetch_task", "bad_response_status_code"])
def test_klings_answer_inside_a_gateways_message_is_parsed(wrap: str) -> None:
    kling = json.dumps({"code": 1102, "message": "Resource pack exhausted", "request_id": "r-9"})
    error = translated(429, {"code": wrap, "message": kling, "data": None})

    assert isinstance(error, errors.AccountBlocked)
    assert (error.kling_code, error.request_id) == (1102, "r-9")
    assert error.message == "Kling refused (HTTP 429, code 1102): Resource pack exhausted."


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "{" * 5000, '{"code": 1102' + " " * 70_000 + "}"])
def test_a_message_that_only_looks_like_json_stays_a_message(text: str) -> None:
    assert type(translated(400, {"message": text})) is errors.InvalidParameters


def test_the_error_code_is_the_deciding_word() -> None:
    error = translated(403, nested("Insufficient-User-Quota"))

    assert isinstance(error, KlingRefusal)
    assert error.kling_code == "insufficient_user_quota"


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "no such voucher", "type": "invalid_request_error"}},
        {"error": "no such voucher"},
        {"success": False, "message": "no such voucher"},
        {"ok": False, "detail": "no such voucher"},
        {"status": "error", "message": "no such voucher"},
        {"status": "Failed", "message": "no such voucher", "data": None},
        {"code": 0, "success": False, "message": "no such voucher", "data": {}},
    ],
)
def test_a_create_answered_200_with_an_error_and_no_task_is_a_refusal(document: Json) -> None:
    error = translated(200, document)

    assert isinstance(error, KlingRefusal)
    assert error.retry is RetryHint.NEVER
    assert "no such voucher" in error.message


@pytest.mark.parametrize(
    "document",
    [
        {"task_id": "8", "status": "failed", "error": {"message": "no"}},
        {"code": 0, "data": {"task_id": "8"}, "success": False},
        {"data": {"data": {"id": "8"}}, "error": "no"},
        {"error": None, "success": True, "data": {}},
        {"error": {}, "message": "SUCCEED"},
    ],
)
def test_an_answer_that_names_a_task_or_no_error_is_a_success(document: Json) -> None:
    assert translated(200, document) is None


@pytest.mark.parametrize(
    ("document", "is_refused"),
    [
        ({"status": "failed", "message": "Image pixel is invalid"}, False),
        ({"status": "failed", "error": {"message": "Image pixel is invalid"}}, False),
        ({"data": {"task_status": "failed"}, "success": False}, False),
        ({"status": "error", "message": "database is locked"}, True),
        ({"success": False, "message": "database is locked"}, True),
        ({"error": {"message": "database is locked"}}, True),
    ],
)
def test_a_query_is_refused_only_if_its_answer_has_no_task(document: Json, is_refused: bool) -> None:
    assert (translated(200, document, creates=False) is not None) is is_refused


@pytest.mark.parametrize("document", [{"success": False, "message": "task not found"}, {"code": "task_not_exist"}])
def test_a_gateways_words_for_not_found_are_recognized(document: Json) -> None:
    assert isinstance(translated(200, document, creates=False), errors.UnknownResource)
    assert ErrorResponse(status=400, headers={}, document={"code": "task_not_exist"}).is_not_found()
