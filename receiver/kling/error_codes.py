"""Translates Kling's error answers into errors: by Kling's code, else by a gateway's word, else by the HTTP status.

The code decides, because one status has many meanings: a 429 may end in a second, when a task ends, or never.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

import msgspec
from msgspec.structs import replace

from receiver.domain.errors import (
    AccountBlocked,
    AuthenticationFailed,
    ContentRefused,
    Forbidden,
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    ModelUnavailable,
    RateLimited,
    ServerError,
    SlotsFull,
    TokenRejected,
    UnknownErrorCode,
    UnknownResource,
)
from receiver.domain.model import Json
from receiver.kling.gateway_errors import REMEDIES, Meaning, is_known, meaning_of, words_in
from receiver.net.retry_after import parse_retry_after

_BY_CODE: Final[Mapping[int, type[KlingRefusal]]] = {
    code: kind
    for kind, codes in {
        AuthenticationFailed: (1000, 1001, 1002),
        TokenRejected: (1003, 1004),
        AccountBlocked: (1100, 1101, 1102, 1304),
        Forbidden: (1103,),
        InvalidParameters: (1200, 1201),
        UnknownResource: (1202, 1203),
        ContentRefused: (1300, 1301),
        RateLimited: (1302,),
        SlotsFull: (1303,),
        ServerError: (5000, 5001, 5002),
    }.items()
    for code in codes
}
_BY_MEANING: Final[Mapping[Meaning, type[KlingRefusal]]] = {
    Meaning.BALANCE: AccountBlocked,
    Meaning.KEY: AuthenticationFailed,
    Meaning.MODEL: ModelUnavailable,
    Meaning.RATE: RateLimited,
    Meaning.SLOTS: SlotsFull,
    Meaning.PARAMETERS: InvalidParameters,
    Meaning.CONTENT: ContentRefused,
    Meaning.NOT_FOUND: UnknownResource,
    Meaning.UNAVAILABLE: ServerError,
    Meaning.UNCERTAIN: ServerError,
}
_BY_STATUS: Final[Mapping[int, type[KlingRefusal]]] = {
    400: InvalidParameters,
    401: AuthenticationFailed,
    402: AccountBlocked,
    403: Forbidden,
    404: UnknownResource,
    408: ServerError,
    410: UnknownResource,
    413: InvalidParameters,
    415: InvalidParameters,
    422: InvalidParameters,
    425: RateLimited,
    429: RateLimited,
}
_SUCCESS_STATUSES: Final = range(200, 300)
_REDIRECT_STATUSES: Final = range(300, 400)
_SERVER_ERROR_STATUSES: Final = range(500, 600)
_ERROR_STATUSES: Final = range(300, 600)
_NO_SUCH_MODEL_STATUSES: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
_SPECIFIC_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
_MAYBE_CREATED_CODES: Final = frozenset({5000, 5002})
_SERVER_ERROR_CODES: Final = frozenset({5000, 5001, 5002})
_NOT_CREATED_STATUSES: Final = frozenset(
    {501, 503, 521, 523, 525, 526}
)  # of 5xx; the last four come from a CDN, before the origin
_NOT_FOUND_MESSAGE: Final = re.compile(
    r"not (?:be )?(?:found|exist)|no such|does ?n.?t exist|unknown task|不存在|未找到"
)
_TASK_KEYS: Final = ("task_id", "id", "task_status")
_FAILURE_WORDS: Final = frozenset({"error", "fail", "failed", "failure"})
_CALL_FAILED: Final = "error"
_MAX_MESSAGE: Final = 500
_MAX_QUOTED: Final = 64 * 1024
_MAX_DEPTH: Final = 3
_MAX_RETRY_AFTER: Final = timedelta(days=1)


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an answer that matter for errors. ``document`` is None if the body is not a JSON object."""

    status: int
    headers: Mapping[str, str]
    document: Json | None

    @property
    def is_success(self) -> bool:
        """Whether the HTTP call succeeded, independent of the body."""
        return self.status in _SUCCESS_STATUSES

    @property
    def innermost(self) -> "ErrorResponse":
        """The answer that this one quotes: a gateway may put Kling's own JSON into its message."""
        text = self._text()
        if not text.startswith("{") or len(text) > _MAX_QUOTED:
            return self
        try:
            quoted = json.loads(text)
        except (ValueError, RecursionError):
            return self
        if not isinstance(quoted, dict) or not {"code", "error"} & quoted.keys():
            return self
        return replace(self, document=quoted)

    @property
    def code(self) -> int | str | None:
        """The code in the body: Kling's number, a gateway's word, or None. Success is always 0."""
        code = (self.document or {}).get("code")
        if isinstance(code, float) and code.is_integer():
            code = int(code)
        if isinstance(code, str):
            code = _one_line(code)
            if re.fullmatch(r"-?[0-9]{1,9}", code):
                code = int(code)
            elif code.lower() in ("success", "succeed", "ok"):
                code = 0
        if isinstance(code, bool) or not isinstance(code, int | str) or code == "":
            return None
        return 0 if code == HTTPStatus.OK and self.is_success else code

    @property
    def message(self) -> str:
        """The error message in the body, on one line; "" if there is none."""
        return _one_line(self._text())[:_MAX_MESSAGE]

    def _text(self) -> str:
        document = self.document or {}
        error = document.get("error")
        nested = error.get("message") if isinstance(error, dict) else error
        found = (document.get("message"), document.get("msg"), nested, document.get("detail"))
        return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")

    @property
    def meaning(self) -> Meaning | None:
        """What a gateway's own words mean; None for an error of Kling's.

        A sentence is not enough for a server error: the task may exist.
        """
        if isinstance(self.code, int) and self.code in _BY_CODE:
            return None
        is_clear = self.status not in _SERVER_ERROR_STATUSES or self.status in _NOT_CREATED_STATUSES
        return meaning_of(words_in(self.document or {}), self.message if is_clear else "")

    def is_refusal(self, *, is_create: bool) -> bool:
        """Whether a successful call was refused: it names an error and no task.

        In a query's answer, a word such as ``failed`` is the task's status, and only ``error`` is the call's.
        """
        document = self.document or {}
        if _names_task(document):
            return False
        status = document.get("status")
        word = status.strip().lower() if isinstance(status, str) else ""
        if word and (word in _FAILURE_WORDS if is_create else word == _CALL_FAILED):
            return True
        if word and not is_create:
            return False
        error = document.get("error")
        is_denied = document.get("success") is False or document.get("ok") is False
        return is_denied or (isinstance(error, dict | str) and bool(error))

    @property
    def request_id(self) -> str:
        """The request id, for Kling's support."""
        found = (self.document or {}).get("request_id") or self.headers.get("x-request-id", "")
        return found[:100] if isinstance(found, str) and found.isprintable() else ""

    def is_not_found(self) -> bool:
        """Whether this error means that the task does not exist.

        A 404 without Kling's code does not: a gateway that does not support queries answers the same.
        """
        if self.meaning is Meaning.NOT_FOUND:
            return True
        if self.code is None:
            return False
        if self.code in (1202, 1203) or self.status == HTTPStatus.NOT_FOUND:
            return True
        return self.code in (1200, 1201) and bool(_NOT_FOUND_MESSAGE.search(self.message.lower().replace("_", " ")))


def is_documented(code: int | str | None) -> bool:
    """Return whether *code* is one of Kling's documented error codes."""
    return code in _BY_CODE


def to_error(
    response: ErrorResponse, *, is_create: bool, now: datetime, redact: Callable[[str], str] = lambda text: text
) -> KlingError | None:
    """Return the error that an answer means, or None for success.

    With *is_create*, a server error that may have come after the task was created is KlingUncertain.
    *redact* removes secrets from the answer's message.
    """
    is_answered = response.is_success and (
        response.code == 0 or (response.code is None and response.document is not None)
    )
    if is_answered and not response.is_refusal(is_create=is_create):
        return None
    response = response.innermost
    words = redact(response.message) or _likely_cause(response)
    if is_create and _may_have_created(response):
        return KlingUncertain(
            f"Kling answered {_status_and_code(response)}{_end_of_sentence(words)} The task may exist anyway.",
            remedy="The receiver looks it up by its external_task_id before it retries.",
        )
    return _error_class(response)(
        f"Kling refused ({_status_and_code(response)}){_end_of_sentence(words)}",
        status=response.status,
        kling_code=_code_or_word(response),
        request_id=response.request_id,
        retry_after=parse_retry_after(response.headers.get("retry-after", ""), now=now, maximum=_MAX_RETRY_AFTER),
        remedy=REMEDIES.get(response.meaning, "") if response.meaning else "",
    )


def _one_line(text: str) -> str:
    """Return a foreign text as one line of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _error_class(response: ErrorResponse) -> type[KlingRefusal]:
    code, meaning = response.code, response.meaning
    if isinstance(code, int) and code in _BY_CODE:
        return _BY_CODE[code]
    if meaning is Meaning.MODEL and response.status in _NO_SUCH_MODEL_STATUSES:
        return UnknownResource
    return _class_by_status(response) if meaning is None else _BY_MEANING[meaning]


def _class_by_status(response: ErrorResponse) -> type[KlingRefusal]:
    code, status = response.code, response.status
    if isinstance(code, int) and code in _ERROR_STATUSES:  # a gateway that puts an HTTP status there
        status, code = code, None
    if status in _SERVER_ERROR_STATUSES:
        return ServerError
    if response.is_success and _NOT_FOUND_MESSAGE.search(response.message.lower()):
        return UnknownResource
    if status in _SPECIFIC_STATUSES or not isinstance(code, int):
        return _BY_STATUS.get(
            status, ServerError if response.document is None and response.is_success else UnknownErrorCode
        )
    return UnknownErrorCode


def _may_have_created(response: ErrorResponse) -> bool:
    """Whether a create may have created a task although the answer is an error."""
    code, meaning = response.code, response.meaning
    if isinstance(code, int) and code in _BY_CODE:
        return code in _MAYBE_CREATED_CODES or (
            code in _SERVER_ERROR_CODES and response.status == HTTPStatus.GATEWAY_TIMEOUT
        )
    if response.is_success and response.document is None:
        return True
    if meaning is not None and meaning is not Meaning.UNCERTAIN:
        return False
    status = code if code in _SERVER_ERROR_STATUSES else response.status
    if meaning is Meaning.UNCERTAIN and response.is_success:
        return True
    return status in _SERVER_ERROR_STATUSES and status not in _NOT_CREATED_STATUSES


def _names_task(document: Json) -> bool:
    """Return whether an answer contains a task's id or status, at the top or below ``data``."""
    found: object = document
    for _ in range(_MAX_DEPTH):
        if not isinstance(found, dict):
            return isinstance(found, list) and bool(found)
        if any(isinstance(found.get(key), str | int) and found.get(key) for key in _TASK_KEYS):
            return True
        found = found.get("data")
    return False


def _code_or_word(response: ErrorResponse) -> int | str | None:
    """Return the code, or else the first of the gateway's words that explains the error."""
    if response.code is not None or response.meaning is None:
        return response.code
    return next((word for word in words_in(response.document or {}) if is_known(word)), None)


def _likely_cause(response: ErrorResponse) -> str:
    """Return the likely cause of an error without a message."""
    if response.status in _REDIRECT_STATUSES:
        return "redirects are not followed with a key; check [kling] base_url"
    return ""


def _status_and_code(response: ErrorResponse) -> str:
    coding = response.headers.get("content-encoding", "")
    if response.document is None and coding:
        return f"HTTP {response.status} with a body that cannot be decoded (content-encoding {_one_line(coding)[:40]})"
    if response.is_success and response.document is None:
        return f"HTTP {response.status} with a body that is not JSON"
    return (
        f"HTTP {response.status}"
        if response.code is None
        else f"HTTP {response.status}, code {str(response.code)[:40]}"
    )


def _end_of_sentence(message: str) -> str:
    if not message:
        return "."
    return f": {message}" if message.endswith((".", "!", "?", "。")) else f": {message}."
