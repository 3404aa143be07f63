from datetime import timedelta
from email.utils import format_datetime

import pytest
from harness.clock import START
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import errors
from receiver.domain.errors import KlingError, KlingRefusal, KlingUncertain, RetryHint
from receiver.domain.model import Json
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.net.retry_after import parse_retry_after


def an_error_response(status: int, document: Json | None = None, **headers: str) -> ErrorResponse:
    return ErrorResponse(
        status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, document=document
    )


def translated(status: int, document: Json | None = None, *, creates: bool = False) -> KlingError | None:
    return to_error(an_error_response(status, document), is_create=creates, now=START)


@pytest.mark.parametrize(
    ("status", "codes", "kind", "retry"),
    [
        (401, [1000, 1001, 1002], errors.AuthenticationFailed, RetryHint.AFTER_OPERATOR),
        (401, [1003, 1004], errors.TokenRejected, RetryHint.REAUTHENTICATE),
        (429, [1100, 1101, 1102, 1304], errors.AccountBlocked, RetryHint.AFTER_OPERATOR),
        (403, [1103], errors.Forbidden, RetryHint.NEVER),
        (400, [1200, 1201], errors.InvalidParameters, RetryHint.NEVER),
        (404, [1202, 1203], errors.UnknownResource, RetryHint.NEVER),
        (400, [1300, 1301], errors.ContentRefused, RetryHint.NEVER),
        (429, [1302], errors.RateLimited, RetryHint.BACKOFF),
        (429, [1303], errors.SlotsFull, RetryHint.WHEN_SLOT_FREE),
        (503, [5001], errors.ServerError, RetryHint.BACKOFF),
        (500, [5000], errors.ServerError, RetryHint.BACKOFF),
        (504, [5002], errors.ServerError, RetryHint.BACKOFF),
    ],
)
@pytest.mark.parametrize("spelt", [int, float, str])
def test_the_code_outweighs_the_status(
    status: int, codes: list[int], kind: type[KlingRefusal], retry: RetryHint, spelt: type[int | float | str]
) -> None:
    for code in codes:
        for sent_with in (status, 200, 400, 429):
            error = translated(sent_with, {"code": spelt(code), "message": "no", "request_id": "r-1"})
            assert type(error) is kind
            assert isinstance(error, KlingRefusal)
            assert (error.retry, error.status, error.kling_code, error.request_id) == (retry, sent_with, code, "r-1")


@pytest.mark.parametrize("code", [0, "0", 0.0, "success", "SUCCESS", " Succeed ", "ok", 200, "200", None])
def test_every_form_of_success_is_not_an_error(code: object) -> None:
    assert translated(200, {"code": code, "message": "SUCCEED", "data": {}}, creates=True) is None


@pytest.mark.parametrize("code", [1, -1, 9999, 1104, 1400, "invalid_api_platform", "fail_to_fetch_task"])
def test_a_200_with_any_other_code_is_an_error(code: object) -> None:
    assert type(translated(200, {"code": code})) is errors.UnknownErrorCode


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, errors.UnknownErrorCode),
        (302, errors.UnknownErrorCode),
        (400, errors.InvalidParameters),
        (401, errors.AuthenticationFailed),
        (402, errors.AccountBlocked),
        (403, errors.Forbidden),
        (404, errors.UnknownResource),
        (405, errors.UnknownErrorCode),
        (413, errors.InvalidParameters),
        (418, errors.UnknownErrorCode),
        (422, errors.InvalidParameters),
        (429, errors.RateLimited),
        (500, errors.ServerError),
        (502, errors.ServerError),
        (503, errors.ServerError),
        (504, errors.ServerError),
        (524, errors.ServerError),
    ],
)
@pytest.mark.parametrize(
    "document", [None, {}, {"code": None}, {"code": ""}, {"code": "words"}, {"code": True}, {"code": []}]
)
def test_without_a_readable_code_the_status_decides(
    status: int, kind: type[KlingRefusal], document: Json | None
) -> None:
    assert type(translated(status, document)) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, errors.AuthenticationFailed),
        (429, errors.RateLimited),
        (404, errors.UnknownResource),
        (500, errors.ServerError),
    ],
)
def test_a_gateways_code_may_be_an_http_status(code: int, kind: type[KlingRefusal]) -> None:
    assert type(translated(200, {"code": code})) is kind
    assert type(translated(code, {"code": code})) is kind


@pytest.mark.parametrize("status", [400, 429])
def test_an_unknown_code_with_an_ambiguous_status_is_not_guessed(status: int) -> None:
    assert type(translated(status, {"code": 1399})) is errors.UnknownErrorCode


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, {"code": 5000}),
        (504, {"code": 5002}),
        (504, {"code": 5001}),
        (200, {"code": 5000}),
        (500, None),
        (500, {"code": "words"}),
        (502, None),
        (504, {}),
        (520, None),
        (524, None),
        (200, {"code": 500}),
        (200, None),
    ],
)
def test_a_create_that_may_have_made_a_task_is_uncertain(status: int, document: Json | None) -> None:
    error = translated(status, document, creates=True)

    assert type(error) is KlingUncertain
    assert error.retry is RetryHint.AFTER_LOOKUP


@pytest.mark.parametrize(
    ("status", "document"),
    [(503, {"code": 5001}), (503, None), (501, None), (523, None), (429, None), (400, None), (500, {"code": 1303})],
)
def test_a_create_that_certainly_made_no_task_is_a_refusal(status: int, document: Json | None) -> None:
    assert isinstance(translated(status, document, creates=True), KlingRefusal)


def test_a_query_answered_without_json_is_a_server_error() -> None:
    assert type(translated(200, None)) is errors.ServerError


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"code": 1201, "message": "n is too large"}, "code 1201): n is too large."),
        ({"error": {"message": "no such key", "type": "x"}}, ": no such key."),
        ({"error": "nope!"}, ": nope!"),
        ({"msg": "a\n\x1b[31mb"}, ": a [31mb."),
        ({"message": {"a": 1}}, "HTTP 400)."),
        ({"message": "x" * 5000}, "x" * 500 + "."),
    ],
)
def test_klings_message_is_one_line_of_limited_length(document: Json, words: str) -> None:
    error = translated(400, document)

    assert error is not None
    assert words in error.message
    assert error.message.isprintable()


def test_a_redirect_is_an_error_of_the_configured_address() -> None:
    error = translated(302)

    assert error is not None
    assert "base_url" in error.message


def test_an_error_has_a_remedy() -> None:
    assert "balance" in str(translated(429, {"code": 1102, "message": "used up"}))


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", timedelta(seconds=7)),
        (" 0 ", timedelta()),
        ("1.5", timedelta(seconds=1.5)),
        ("9" * 400, timedelta(days=1)),
        (format_datetime(START + timedelta(seconds=90), usegmt=True), timedelta(seconds=90)),
        (format_datetime(START - timedelta(seconds=90), usegmt=True), timedelta()),
        ("Sun, 22 Nov 2026 10:01:00 -0000", timedelta(minutes=1)),
        ("Sunday, 22-Nov-26 10:01:00 GMT", timedelta(minutes=1)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", timedelta(days=1)),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("٣", None),
        ("Sun, 99 Nov 2026 99:01:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(value: str, wait: timedelta | None) -> None:
    assert parse_retry_after(value, now=START, maximum=timedelta(days=1)) == wait
    error = to_error(an_error_response(429, {"code": 1302}, retry_after=value), is_create=True, now=START)
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == wait


@given(st.text())
def test_any_retry_after_header_is_accepted(value: str) -> None:
    wait = parse_retry_after(value, now=START, maximum=timedelta(days=1))

    assert wait is None or timedelta() <= wait <= timedelta(days=1)


@given(
    st.integers(100, 999),
    st.none()
    | st.fixed_dictionaries(
        {
            "code": st.none() | st.integers() | st.floats() | st.text() | st.booleans() | st.lists(st.integers()),
            "message": st.text() | st.none() | st.integers(),
        }
    ),
    st.booleans(),
)
def test_any_answer_is_a_success_or_one_error(status: int, document: Json | None, creates: bool) -> None:
    error = translated(status, document, creates=creates)

    assert error is None or error.message


@pytest.mark.parametrize(
    ("status", "document", "none"),
    [
        (404, None, False),
        (404, {"code": 1200, "message": "gone"}, True),
        (200, {"code": 1203}, True),
        (400, {"code": 1201, "message": "task not found"}, True),
        (400, {"code": 1201, "message": "The task does not exist."}, True),
        (400, {"code": 1200, "message": "task_not_exist"}, True),
        (400, {"code": 1201, "message": "任务不存在"}, True),
        (400, {"code": 1201, "message": "n is invalid"}, False),
        (500, {"code": 5000, "message": "not found"}, False),
        (401, {"code": 1002, "message": "key not found"}, False),
    ],
)
def test_every_form_of_not_found_is_recognized(status: int, document: Json | None, none: bool) -> None:
    assert an_error_response(status, document).is_not_found() is none


def test_a_code_is_shown_without_unprintable_characters() -> None:
    response = ErrorResponse(status=400, headers={}, document={"code": "\ud800bad\0\x1b[2J code", "message": "no"})

    error = to_error(response, is_create=False, now=START)

    assert response.code == "bad [2J code"
    assert str(error).isprintable()
    assert ErrorResponse(status=400, headers={}, document={"code": "\0"}).code is None
