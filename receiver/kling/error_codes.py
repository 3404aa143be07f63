"""What an answer of Kling's means when it is not what was asked for: its code, or failing that its status, as an error.

The code decides, for one status stands for many things: a 429 may pass in a second, when a task ends, or never.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from receiver.domain.errors import (
    AccountBlocked,
    AuthenticationFailed,
    ContentRefused,
    Forbidden,
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    RateLimited,
    ServerError,
    SlotsFull,
    TokenRejected,
    UnknownErrorCode,
    UnknownResource,
)
from receiver.domain.model import Json
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
_SPECIFIC_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})
_MAYBE_CREATED_CODES: Final = frozenset({5000, 5002})
_SERVER_ERROR_CODES: Final = frozenset({5000, 5001, 5002})
_NOT_CREATED_STATUSES: Final = frozenset(
    {501, 503, 521, 523, 525, 526}
)  # of 5xx; the last four are a CDN's, before the origin
_NOT_FOUND_MESSAGE: Final = re.compile(
    r"not (?:be )?(?:found|exist)|no such|does ?n.?t exist|unknown task|不存在|未找到"
)
_MAX_MESSAGE: Final = 500
_MAX_RETRY_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorResponse:
    """An answer as far as errors are concerned. ``document`` is None where the body is no JSON object."""

    status: int
    headers: Mapping[str, str]
    document: Json | None

    @property
    def is_success(self) -> bool:
        """Whether the HTTP call succeeded, whatever the body says."""
        return self.status in _SUCCESS_STATUSES

    @property
    def code(self) -> int | str | None:
        """The code of the body: Kling's number, a gateway's word, None for none. Success is always 0."""
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
        """What the body says is wrong, for people, in one line; "" for nothing."""
        document = self.document or {}
        error = document.get("error")
        nested = error.get("message") if isinstance(error, dict) else error
        for words in (document.get("message"), document.get("msg"), nested, document.get("detail")):
            if isinstance(words, str) and words.strip():
                return _one_line(words)[:_MAX_MESSAGE]
        return ""

    @property
    def request_id(self) -> str:
        """What Kling's support wants to know."""
        found = (self.document or {}).get("request_id") or self.headers.get("x-request-id", "")
        return found[:100] if isinstance(found, str) and found.isprintable() else ""

    def is_not_found(self) -> bool:
        """Whether the answer, an error, means that there is no such task.

        A 404 without Kling's code does not: a gateway that cannot be asked about tasks answers so, too.
        """
        if self.code is None:
            return False
        if self.code in (1202, 1203) or self.status == HTTPStatus.NOT_FOUND:
            return True
        return self.code in (1200, 1201) and bool(_NOT_FOUND_MESSAGE.search(self.message.lower().replace("_", " ")))


def to_error(
    response: ErrorResponse, *, is_create: bool, now: datetime, redact: Callable[[str], str] = lambda text: text
) -> KlingError | None:
    """Tell which error an answer is, None for success.

    With *creates* a server's trouble that may have come after the work was done is KlingUncertain.
    *hide* takes out of the answer's words what must not be repeated.
    """
    code = response.code
    if response.is_success and (code == 0 or (code is None and response.document is not None)):
        return None
    words = redact(response.message) or _likely_cause(response)
    if is_create and _may_have_created(response):
        return KlingUncertain(
            f"Kling answered {_status_and_code(response)}{_end_of_sentence(words)} The task may exist all the same.",
            remedy="It is looked up by its external_task_id before it is sent again.",
        )
    kind = _error_class(response)
    return kind(
        f"Kling refused ({_status_and_code(response)}){_end_of_sentence(words)}",
        status=response.status,
        kling_code=code,
        request_id=response.request_id,
        retry_after=parse_retry_after(response.headers.get("retry-after", ""), now=now, maximum=_MAX_RETRY_AFTER),
    )


def _one_line(text: str) -> str:
    """Write what a stranger wrote as one line that every terminal and every store takes."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _error_class(response: ErrorResponse) -> type[KlingRefusal]:
    code, status = response.code, response.status
    if isinstance(code, int) and code in _BY_CODE:
        return _BY_CODE[code]
    if isinstance(code, int) and code in _ERROR_STATUSES:  # a gateway that repeats, or puts there, an HTTP status
        status, code = code, None
    if status in _SERVER_ERROR_STATUSES:
        return ServerError
    if status in _SPECIFIC_STATUSES or not isinstance(code, int):
        return _BY_STATUS.get(
            status, ServerError if response.document is None and response.is_success else UnknownErrorCode
        )
    return UnknownErrorCode


def _may_have_created(response: ErrorResponse) -> bool:
    """Whether a create may have made a task though the answer is no success."""
    code = response.code
    if isinstance(code, int) and code in _BY_CODE:
        return code in _MAYBE_CREATED_CODES or (
            code in _SERVER_ERROR_CODES and response.status == HTTPStatus.GATEWAY_TIMEOUT
        )
    if response.is_success and response.document is None:
        return True
    status = code if code in _SERVER_ERROR_STATUSES else response.status
    return status in _SERVER_ERROR_STATUSES and status not in _NOT_CREATED_STATUSES


def _likely_cause(response: ErrorResponse) -> str:
    """Say what is probably wrong where the answer has no words for it."""
    if response.status in _REDIRECT_STATUSES:
        return "it leads elsewhere, and is not followed with a key; [kling] base_url is not quite right"
    return ""


def _status_and_code(response: ErrorResponse) -> str:
    if response.is_success and response.document is None:
        return f"HTTP {response.status} with something that is not JSON"
    return (
        f"HTTP {response.status}"
        if response.code is None
        else f"HTTP {response.status}, code {str(response.code)[:40]}"
    )


def _end_of_sentence(message: str) -> str:
    if not message:
        return "."
    return f": {message}" if message.endswith((".", "!", "?", "。")) else f": {message}."
