"""The public app: Kling's callbacks and a liveness check, nothing else.

It is plain ASGI because every callback passes here, and there are only two paths.

The token is checked before the body is read: a request without a valid token costs one indexed read, and neither
memory nor the database writer. The write checks it again, because a token may expire or be revoked in between.

Small callbacks with a known token are stored and answered in groups (:mod:`receiver.web.server.request_groups`).

A client that keeps sending bad requests, such as guessed tokens, is no longer logged. It still gets the same
responses, and a valid token is still accepted: Kling may call through the same proxy.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain import errors
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import token_hash
from receiver.domain.metrics import Metrics
from receiver.domain.request_id import begin_request, continue_request
from receiver.tracking.parsed_push import Callback
from receiver.web.probes import Probe, ProbeRegistry, answer
from receiver.web.server import problems
from receiver.web.server.allowed_hosts import AllowedHosts, misdirected
from receiver.web.server.body import BodyMemoryBudget, ClientDisconnected, check_head, read_body, receive_body
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.failure_limiter import FailureLimiter
from receiver.web.server.httptools_connection import RESPOND
from receiver.web.server.problems import Problem
from receiver.web.server.request_groups import WholeRequest, plain_fields

log = structlog.get_logger()

_CALLBACK_PREFIX = "/callbacks/"
_HEALTH_PATH = "/healthz"
_TOKEN_HASH = "receiver.token_hash"  # noqa: S105 -- a member of an ASGI scope
_JSON = (b"content-type", b"application/json")
_OK_STATUS = int(HTTPStatus.OK)
_OK = b'{"ok":true}'
_CODINGS = ("gzip", "deflate")  # which the inbox decodes
_MAX_KNOWN_TOKENS = 10_000
_SMALL_BODY = 64 * 1024
_BODY_MEMORY = 64 * 1024 * 1024
_OK_HEADERS = [_JSON, (b"content-length", str(len(_OK)).encode())]


class Inbox(Protocol):
    """Accepts Kling's callbacks."""

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Commit a callback and its consequences; return False if no live task has the token.

        Raises MalformedBody and StoreUnavailable; nothing was stored then.
        """
        ...

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        """Commit callbacks together. Return for each what ``accept_callback`` returns or raises."""
        ...

    async def has_token(self, token: str) -> bool:
        """Return whether a live task has the token, without using the database writer."""
        ...


def public_app(
    inbox: Inbox,
    *,
    max_body: int,
    allowed_hosts: AllowedHosts | None = None,
    proxies: TrustedProxies | None = None,
    probes: ProbeRegistry | None = None,
    timer: Callable[[], float] = time.perf_counter,
    metrics: Metrics | None = None,
    known_tokens: BoundedDict[bytes, None] | None = None,
) -> ASGIApp:
    """Create the app of the public listener.

    If *allowed_hosts* is given, other host names get 421. Requests from one of the *proxies* may use any name.
    *known_tokens* are the hashes of tokens that need no read of the store. The app adds those that it has read.
    """
    return _PublicApp(
        inbox,
        max_body,
        allowed_hosts,
        proxies or TrustedProxies(),
        timer=timer,
        probes=probes,
        metrics=metrics or Metrics(),
        known_tokens=BoundedDict(_MAX_KNOWN_TOKENS) if known_tokens is None else known_tokens,
    )


class _PublicApp:
    def __init__(
        self,
        inbox: Inbox,
        max_body: int,
        allowed_hosts: AllowedHosts | None,
        proxies: TrustedProxies,
        *,
        timer: Callable[[], float],
        probes: ProbeRegistry | None,
        metrics: Metrics,
        known_tokens: BoundedDict[bytes, None],
    ) -> None:
        self._inbox = inbox
        self._max_body = max_body
        self._body_memory = BodyMemoryBudget(max(_BODY_MEMORY, 4 * max_body), small=_SMALL_BODY)
        self._known_tokens = known_tokens
        self._allowed_hosts = allowed_hosts
        self._proxies = proxies
        self._probes = probes
        self._failure_limiter = FailureLimiter()
        self._timer = timer
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin_request()
        try:
            await self._handle(scope, receive, send)
        except ClientDisconnected:
            self._log_of_client(log.info, "callback.abandoned", self._proxies.client(scope))
        except Exception as exc:  # noqa: BLE001 -- the boundary of a request
            await problems.send_raw(send, *self._refusal(scope, exc, [_token(scope)]))

    def takes(self, scope: Scope) -> bool:
        """Return whether a group answers a request: a small callback with a known token."""
        path: str = scope["path"]
        if not path.startswith(_CALLBACK_PREFIX) or scope["method"] != "POST":
            return False
        fields = plain_fields(scope, max_body=min(_SMALL_BODY, self._max_body))
        if fields is None:
            return False
        scope[_TOKEN_HASH] = hashed = token_hash(path.removeprefix(_CALLBACK_PREFIX))
        return hashed in self._known_tokens and self._allows(fields[b"host"], scope)

    async def answer_group(self, requests: Sequence[WholeRequest]) -> None:
        """Store callbacks together, and answer each."""
        began = time.perf_counter()
        callbacks = [_callback(request) for request in requests]
        outcomes: Sequence[bool | BaseException]
        try:
            outcomes = await self._inbox.accept_callbacks(callbacks)
        except Exception as exc:  # noqa: BLE001 -- the boundary of these requests
            outcomes = [exc] * len(requests)
        seconds, failed = time.perf_counter() - began, []
        for request, callback, outcome in zip(requests, callbacks, outcomes, strict=True):
            if outcome is True:
                request.respond(_OK_STATUS, _OK_HEADERS, _OK)
            else:
                failed.append((request, callback, outcome))
        if accepted := len(requests) - len(failed):
            self._metrics.callback_seconds.observe(seconds, times=accepted)
        tokens = [callback.token for callback in callbacks] if failed else ()
        for request, callback, outcome in failed:
            continue_request(callback.request)
            request.respond(*self._refusal(request.scope, await self._failure(callback, outcome=outcome), tokens))

    async def _failure(self, callback: Callback, *, outcome: bool | BaseException) -> BaseException:
        """Return why a callback with a known token was not accepted, and forget a token that has ended."""
        if isinstance(outcome, BaseException):
            try:
                if not isinstance(outcome, errors.MalformedBody) or await self._inbox.has_token(callback.token):
                    return outcome
            except Exception as error:  # noqa: BLE001 -- the others of its group must be answered too
                return error
        self._known_tokens.pop(callback.token_hash, None)
        return problems.not_found()

    def _refusal(
        self, scope: Scope, error: BaseException, tokens: Sequence[str]
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Log, without the *tokens*, and count why a request is refused. Return the response: status, headers, body."""
        if isinstance(error, Problem | errors.ReceiverError):
            problem = problems.from_error(error)
            if scope["path"].startswith(_CALLBACK_PREFIX):
                self._metrics.callbacks.add(problem.code)
            self._log_refusal(self._proxies.client(scope), problem)
        else:
            problem = problems.internal_error()
            # Only the text: a log renderer that prints local variables would print the token.
            log.error("callback.failed", peer=self._proxies.client(scope), exception=_redacted_traceback(error, tokens))
        response = problem.response()
        return response.status_code, response.raw_headers, bytes(response.body)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_allowed_host(scope):
            raise misdirected(
                "This host is not the one in [public] url. "
                "Let the proxy pass the Host header on, or list the proxy in [public] proxies."
            )
        path: str = scope["path"]
        if path.startswith(_CALLBACK_PREFIX) and path != _CALLBACK_PREFIX and "/" not in path[len(_CALLBACK_PREFIX) :]:
            if scope["method"] != "POST":
                raise problems.method_not_allowed("POST")
            token, began = path[len(_CALLBACK_PREFIX) :], time.perf_counter()
            if not await self._accept(token, scope, receive):
                await self._answer_probe(self._probes.take(token) if self._probes else None, scope, receive, send)
                return
            self._metrics.callback_seconds.observe(time.perf_counter() - began)
        elif path == _HEALTH_PATH:
            if scope["method"] not in ("GET", "HEAD"):
                raise problems.method_not_allowed("GET, HEAD")
        else:
            raise problems.not_found()
        respond = scope.get(RESPOND)
        if respond is None or not respond(_OK_STATUS, _OK_HEADERS, _OK):
            await problems.send_raw(send, _OK_STATUS, _OK_HEADERS, _OK)

    async def _accept(self, token: str, scope: Scope, receive: Receive) -> bool:
        """Commit a callback. Return False, without reading the body, if the token is unknown."""
        check_head(scope, limit=self._max_body, codings=_CODINGS)
        if not await self._is_known(token):
            return False
        try:
            if self._body_memory.needs_reservation(scope, limit=self._max_body):
                async with self._body_memory.reserve(scope, limit=self._max_body):
                    is_accepted = await self._read_and_commit(token, scope, receive)
            else:
                is_accepted = await self._read_and_commit(token, scope, receive)
        except (Problem, errors.MalformedBody):
            # A token that has ended since it was remembered gets the same 404 as an unknown one.
            if await self._inbox.has_token(token):
                raise
            is_accepted = False
        if not is_accepted:
            self._known_tokens.pop(token_hash(token), None)
        return is_accepted

    async def _read_and_commit(self, token: str, scope: Scope, receive: Receive) -> bool:
        body = await receive_body(receive, limit=self._max_body)
        return await self._inbox.accept_callback(token, _headers(scope), body)

    async def _answer_probe(self, probe: Probe | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe of the public URL. Raises ``Problem`` (404) if there is none; its body is not read then."""
        if probe is None:
            raise problems.not_found()
        async with self._body_memory.reserve(scope, limit=self._max_body):
            body = await read_body(scope, receive, limit=self._max_body, codings=_CODINGS)
            content = answer(probe, scope["headers"], body)
        await problems.send_raw(send, HTTPStatus.OK, [_JSON, (b"content-length", str(len(content)).encode())], content)

    async def _is_known(self, token: str) -> bool:
        """Return whether the token is or was valid. Only one that was stored long ago needs a read, and only once."""
        key = token_hash(token)
        if key not in self._known_tokens:
            if not await self._inbox.has_token(token):
                return False
            self._known_tokens[key] = None
        return True

    def _is_allowed_host(self, scope: Scope) -> bool:
        # Only old health checks (HTTP/1.0) send no host. HeaderValidation has refused requests with two.
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        return host is None or self._allows(host, scope)

    def _allows(self, host: bytes, scope: Scope) -> bool:
        if self._allowed_hosts is None or self._allowed_hosts.allows(host.decode("latin-1")):
            return True
        return self._proxies.contains(scope.get("client"))

    def _log_refusal(self, client: str, problem: Problem) -> None:
        """Log why a request was refused. The path contains the token, so it is not logged."""
        write = log.info if problem.status in _EXPECTED_STATUSES else log.warning
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and problem.code not in _CAUSED_BY_CLIENTS:
            write("callback.refused", peer=client, code=problem.code, reason=problem.detail)
        else:
            self._log_of_client(write, "callback.refused", client, code=problem.code, reason=problem.detail)

    def _log_of_client(self, write: Callable[..., None], event: str, client: str, **details: str) -> None:
        """Log an error of a client, while its failure limit allows it."""
        now = self._timer()
        if not self._failure_limiter.allows(client, now):
            return
        write(event, peer=client, **details)
        if self._failure_limiter.record(client, now):
            log.warning("caller.muted", peer=client, reason="Too many bad requests; no more of them are logged.")


_CAUSED_BY_CLIENTS = frozenset({errors.TooManyPending.code})
"""Codes of 503 for which a client that knows a callback URL can ask without end."""

_EXPECTED_STATUSES = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""Statuses that network scanners cause; they are logged as info."""


def _callback(request: WholeRequest) -> Callback:
    scope = request.scope
    return Callback(
        token=_token(scope),
        token_hash=scope[_TOKEN_HASH],
        headers=_headers(scope),
        body=request.body,
        request=begin_request(),
    )


def _token(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(_CALLBACK_PREFIX)


def _headers(scope: Scope) -> Sequence[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _redacted_traceback(error: BaseException, tokens: Sequence[str]) -> str:
    """Return an exception's traceback with the tokens replaced: an exception may quote one of its group."""
    text = "".join(traceback.format_exception(error))
    for token in filter(None, tokens):
        text = text.replace(token, "***")
    return text
