"""Client of Kling's API: creates tasks, queries them, and forwards a client's calls.

Whether a create may be retried depends on what is known about the first try. So three outcomes are distinct: an
answer, nothing sent (KlingUnreachable), and sent without a clear answer (KlingUncertain).
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import quote

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import (
    AddressBlocked,
    InvalidRequest,
    KlingError,
    KlingUncertain,
    KlingUnreachable,
    MalformedBody,
    NoResponse,
    RequestNotSent,
    TokenRejected,
    UnknownResource,
)
from receiver.domain.model import Generation, Json, StatusReport
from receiver.domain.redaction import Redactor
from receiver.domain.tracing import trace_headers
from receiver.kling import parser_thread, protocol
from receiver.kling.answer_body import MAX_BODY, chunks_of, clean, read_head
from receiver.kling.auth import Authorization
from receiver.kling.endpoints import QUERY_APIS, Endpoint, resolve
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.kling.pass_through import NO_PASS_THROUGH, SAFE_IN_PATH, PassThrough, returned_headers
from receiver.net.http_client import BeforeSend, HttpClient, HttpResponse, StreamedBody, StreamedResponse
from receiver.settings import KlingSettings, Settings

MAX_BATCH = QUERY_APIS[Generation.NEW].max_ids
"""Maximum number of tasks of the new generation in one query."""

_LIST_SIZE = 100
_MAX_BATCH_ID_LENGTH = 64  # of ids in a batch, so that the URL stays short enough for every server
_JSON = {"content-type": "application/json", "accept": "application/json"}
_STREAMED_BODY_TIMEOUT = timedelta(minutes=10)
_SAFE_METHODS = frozenset({"GET", "HEAD"})
"""The methods that may use an idle connection. On one that the server is just closing, a create could be lost or sent
twice; a new connection costs less."""

_AMBIGUOUS_IN_PATH = re.compile(r"[/\\%;,]|^\.+$")
ResponseWriter: TypeAlias = Callable[[int, Mapping[str, str], AsyncIterator[bytes]], Awaitable[None]]
"""Receives an answer's status and headers, and its body as a stream."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class KlingResponse:
    """Kling's answer, unchanged. ``report`` is the task's status, ``error`` the error it means."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    report: StatusReport | None = None
    error: KlingError | None = None

    @property
    def is_success(self) -> bool:
        """Whether the HTTP call succeeded, independent of the body."""
        return self.status in range(200, 300)


class KlingClient:
    """Calls Kling at the configured address with the configured key.

    An error answer is returned as a KlingResponse with ``error``. Only KlingUnreachable and KlingUncertain are raised,
    except where a method says otherwise.
    """

    def __init__(
        self, settings: KlingSettings, *, http_client: HttpClient, clock: Clock, redactor: Redactor | None = None
    ) -> None:
        """*redactor* knows the secrets that no answer may contain; the default knows only Kling's keys."""
        keys = (settings.api_key, settings.access_key, settings.secret_key)
        self._base_url: str = settings.base_url.rstrip("/")
        self._timeout = settings.timeout
        self._redactor = redactor or Redactor(key for key in keys if key)
        self._authorization = Authorization(settings, clock, self._redactor)
        self._http_client = http_client
        self._clock = clock

    def apply(self, settings: Settings) -> None:
        """Use the keys of *settings* for later calls."""
        self._authorization = Authorization(settings.kling, self._clock, self._redactor)

    async def create(
        self,
        endpoint: str,
        content: bytes,
        *,
        pass_through: PassThrough = NO_PASS_THROUGH,
        before_send: BeforeSend | None = None,
    ) -> KlingResponse:
        """Create a task, without retries: the error's ``retry`` says what may follow.

        The query and headers of *pass_through* are sent too, but the content type is always JSON. *before_send* is
        awaited directly before the request leaves; if it raises, nothing is sent.
        """
        target = pass_through.target(_endpoint(endpoint).url_path)
        headers = {**_JSON, **pass_through.forwarded_headers(), "content-type": _JSON["content-type"]}
        return await self._parse_response(
            await self._request_with_auth_retry("POST", target, content, headers=headers, before_send=before_send),
            is_create=True,
        )

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Query a task by Kling's id, then by the client's id; UnknownResource if Kling knows neither."""
        target = _endpoint(endpoint)
        by_id, by_external_id = target.query_path(task_id), target.query_path(task_id, external=True)
        response = await self._parse_response(
            await self._request_with_auth_retry("GET", by_id, headers=_JSON), task_id=task_id
        )
        if isinstance(response.error, UnknownResource) and by_external_id != by_id:
            return await self._parse_response(
                await self._request_with_auth_retry("GET", by_external_id, headers=_JSON), task_id=task_id
            )
        return response

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        """Query several tasks in one call, by Kling's ids. Those of the new generation may mix endpoints.

        Each returned response contains one task. Tasks that Kling's answer omits are missing. Raises the error if the
        whole answer is an error.
        """
        reply = await self._request_with_auth_retry("GET", _endpoint(endpoint).query_path(*task_ids), headers=_JSON)
        responses: dict[str, KlingResponse] = {}
        for task, report in await self._parse_list(reply):
            kling_id = report.kling_id or ""
            if kling_id in task_ids and kling_id not in responses:
                responses[kling_id] = KlingResponse(status=reply.status, headers={}, body=task, report=report)
        return responses

    async def find_by_external_id(self, endpoint: str, external_task_id: str) -> KlingResponse | None:
        """Return a task by its external id; None if Kling reports that it does not exist.

        Raises the error of any other answer, and KlingUncertain for an answer about another task. "Not found" is not
        trusted for an id that a server may misread even when quoted.
        """
        path = _endpoint(endpoint).query_path(external_task_id, external=True)
        reply = await self._request_with_auth_retry("GET", path, headers=_JSON)
        answer = await self._parse_response(reply, task_id=external_task_id)
        if answer.error is None:
            named = answer.report.external_task_id if answer.report is not None else None
            if named not in (None, external_task_id):
                raise KlingUncertain("Kling's answer is about another task than the one queried.")
            return answer
        is_not_found = await parser_thread.run(len(reply.body), _is_not_found, reply)
        answered_with_none = reply.status < HTTPStatus.BAD_REQUEST and isinstance(answer.error, UnknownResource)
        is_plain = not _AMBIGUOUS_IN_PATH.search(external_task_id)
        if is_plain and (answered_with_none or is_not_found):
            return None
        raise answer.error

    async def list_newest(self, endpoint: str) -> Sequence[StatusReport] | None:
        """Return the newest tasks of an endpoint, from any client; None if the list may be incomplete.

        Raises the error if the answer is not a list.
        """
        path = _endpoint(endpoint).list_path(_LIST_SIZE)
        if path is None:
            return None
        reply = await self._request_with_auth_retry("GET", path, headers=_JSON)
        reports = [report for _, report in await self._parse_list(reply)]
        return None if len(reports) >= _LIST_SIZE else reports

    async def call(self, method: str, path: str, content: bytes = b"") -> bytes:
        """Call a path that is about the account, not about a task, and return the body. Raises the error it means."""
        reply = await self._request_with_auth_retry(method, path, content, headers=_JSON)
        error = await parser_thread.run(len(reply.body), lambda: self._to_error(_as_error_response(reply)))
        if error is not None:
            raise error
        return reply.body

    async def forward(
        self,
        method: str,
        path: str,
        content: bytes | StreamedBody,
        pass_through: PassThrough,
        *,
        write_response: ResponseWriter,
    ) -> None:
        """Forward a client's call unchanged, with our key, and stream the answer to *write_response*.

        *path* follows ``/kling/`` and is still quoted.
        """
        if any(segment in (".", "..") for segment in path.replace("%2e", ".").replace("%2E", ".").split("/")):
            raise InvalidRequest(
                "The path must not have `.` or `..` as a segment.", remedy="Use Kling's path as documented."
            )
        headers = pass_through.forwarded_headers()
        target = pass_through.target("/" + quote(path.lstrip("/"), safe=SAFE_IN_PATH))

        async def take(incoming: StreamedResponse, *, is_last: bool) -> bool:
            head, is_whole = await read_head(incoming.chunks)
            if not is_whole:
                chunks = chunks_of(head, incoming.chunks)
                await write_response(incoming.status, returned_headers(incoming.headers, {"content-length"}), chunks)
                return True
            reply = clean(HttpResponse(status=incoming.status, headers=incoming.headers, body=head), self._redactor)
            is_refused = reply.status == HTTPStatus.UNAUTHORIZED and not is_last
            if is_refused and isinstance(self._to_error(_as_error_response(reply)), TokenRejected):
                return False
            headers = returned_headers(reply.headers, {"content-length"})
            await write_response(reply.status, headers, chunks_of(reply.body))
            return True

        # A streamed body cannot be sent a second time.
        if isinstance(content, StreamedBody) or not self._authorization.uses_token:
            await self._stream(method, target, content, headers, partial(take, is_last=True))
        elif not await self._stream(method, target, content, headers, partial(take, is_last=False)):
            self._authorization.invalidate()
            await self._stream(method, target, content, headers, partial(take, is_last=True))

    async def _parse_response(
        self, reply: HttpResponse, *, is_create: bool = False, task_id: str | None = None
    ) -> KlingResponse:
        return await parser_thread.run(
            len(reply.body), self._read_response, reply, is_create=is_create, task_id=task_id
        )

    def _read_response(self, reply: HttpResponse, *, is_create: bool, task_id: str | None) -> KlingResponse:
        response = _as_error_response(reply)
        error = self._to_error(response, is_create=is_create)
        if error is not None:
            log.info("kling.refused", status=reply.status, kling_code=response.code, code=error.code)
            return _kling_response(reply, error=error)
        try:
            report = protocol.parse_status(reply.body, task_id=task_id)
        except MalformedBody as exc:
            return _kling_response(reply, error=_unreadable(exc))
        if task_id is not None and not report.kling_id and not report.raw_status:
            missing = UnknownResource(
                "Kling's answer does not contain the task.", status=reply.status, kling_code=response.code
            )
            return _kling_response(reply, error=missing)
        return _kling_response(reply, error=None, report=report)

    async def _parse_list(self, reply: HttpResponse) -> Sequence[tuple[bytes, StatusReport]]:
        """Return the tasks that an answer lists; raise the error that it is instead."""
        return await parser_thread.run(len(reply.body), self._read_list, reply)

    def _read_list(self, reply: HttpResponse) -> Sequence[tuple[bytes, StatusReport]]:
        response = _as_error_response(reply)
        error = self._to_error(response)
        if error is not None:
            log.info("kling.refused", status=reply.status, kling_code=response.code, code=error.code)
            raise error
        try:
            return [(task, protocol.parse_status(task)) for task in protocol.split_tasks(reply.body)]
        except MalformedBody as exc:
            raise _unreadable(exc) from exc

    def _to_error(self, response: ErrorResponse, *, is_create: bool = False) -> KlingError | None:
        return to_error(response, is_create=is_create, now=self._clock.now(), redact=self._redactor.text)

    async def _request_with_auth_retry(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        headers: Mapping[str, str],
        before_send: BeforeSend | None = None,
    ) -> HttpResponse:
        """Make a call, and repeat it with a new token if Kling rejected the old one and so did nothing."""
        reply = await self._request(method, path, content, headers, before_send)
        if self._authorization.uses_token and await parser_thread.run(len(reply.body), self._is_token_rejected, reply):
            self._authorization.invalidate()
            reply = await self._request(method, path, content, headers, before_send)
        return reply

    def _is_token_rejected(self, reply: HttpResponse) -> bool:
        return isinstance(self._to_error(_as_error_response(reply)), TokenRejected)

    async def _request(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str], before_send: BeforeSend | None
    ) -> HttpResponse:
        with _translate_errors():
            reply = await self._http_client.request(
                method,
                self._url(path),
                headers={**headers, **self._authorization.headers(), **trace_headers()},
                content=content,
                time_limit=self._timeout,
                max_body=MAX_BODY,
                reuse=method in _SAFE_METHODS,
                before_send=before_send,
            )
        return await parser_thread.run(len(reply.body), clean, reply, self._redactor)

    async def _stream(
        self,
        method: str,
        path: str,
        content: bytes | StreamedBody,
        headers: Mapping[str, str],
        read: Callable[[StreamedResponse], Awaitable[bool]],
    ) -> bool:
        with _translate_errors():
            return await self._http_client.stream(
                self._url(path),
                method=method,
                headers={**headers, **self._authorization.headers()},
                content=content,
                time_limit=self._timeout,
                extra_body_time=_STREAMED_BODY_TIMEOUT,
                reuse=method in _SAFE_METHODS,
                read=read,
            )

    def _url(self, path: str) -> str:
        return api_url(self._base_url, path)


def api_url(base_url: str, path: str) -> str:
    """Join a path to the base URL, which may end in a gateway's prefix or in the version."""
    if base_url.endswith("/v1") and path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    return base_url + path


def is_batchable(endpoint: str, task_id: str) -> bool:
    """Return whether a task can be queried in a batch: only the new generation, and only with a plain id."""
    return _endpoint(endpoint).query_api.max_ids > 1 and "," not in task_id and len(task_id) <= _MAX_BATCH_ID_LENGTH


def _as_error_response(reply: HttpResponse) -> ErrorResponse:
    document: Json | None = None
    if not reply.truncated:
        try:
            document = protocol.parse_object(reply.body)
        except MalformedBody:
            document = None
    return ErrorResponse(status=reply.status, headers=reply.headers, document=document)


def _is_not_found(reply: HttpResponse) -> bool:
    return _as_error_response(reply).innermost.is_not_found()


def _unreadable(exc: MalformedBody) -> KlingError:
    """Return the error of an answer that is a JSON object and exceeds the limits of a task."""
    return KlingUncertain(f"Kling's answer cannot be read: {exc.message}")


def _kling_response(
    reply: HttpResponse, *, error: KlingError | None, report: StatusReport | None = None
) -> KlingResponse:
    headers = returned_headers(reply.headers)
    return KlingResponse(status=reply.status, headers=headers, body=reply.body, report=report, error=error)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Translate network errors by whether the request was sent."""
    try:
        yield
    except (RequestNotSent, AddressBlocked) as exc:
        raise KlingUnreachable(
            f"Kling cannot be reached: {exc.message}", remedy="Check `[kling] base_url` and the network."
        ) from exc
    except NoResponse as exc:
        raise KlingUncertain(f"Kling did not answer: {exc.message}") from exc


def _endpoint(path: str) -> Endpoint:
    """Return the endpoint of a stored task, even if its path no longer matches a known form."""
    return resolve(path) or Endpoint(path=quote(path.strip("/"), safe="/"))
