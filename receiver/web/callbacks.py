"""The public face: where Kling posts, and whether we are alive. Nothing else is here.

Written against ASGI itself: this is the path of every callback, and there are but two addresses.

A caller that goes on being wrong, by guessing tokens or otherwise, is no longer written about, and what it asks for
is looked up beside the writer that all callbacks wait for. It gets the same answers, and a good token of its is
taken as ever: Kling may come through the same proxy.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain import errors
from receiver.web.server import problems
from receiver.web.server.allowed_hosts import AllowedHosts, misdirected
from receiver.web.server.body import ClientDisconnected, read_body
from receiver.web.server.client_address import FailureLimiter, TrustedProxies
from receiver.web.server.problems import Problem

log = structlog.get_logger()

_CALLBACK_PREFIX = "/callbacks/"
_HEALTH_PATH = "/healthz"
_JSON = (b"content-type", b"application/json")
_OK = b'{"ok":true}'
_OK_HEADERS = [_JSON, (b"content-length", str(len(_OK)).encode())]


class Inbox(Protocol):
    """Takes what Kling posts."""

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Commit a callback and all that follows from it; False when no live task has the token.

        Raises Unreadable and StoreUnavailable, and then nothing was stored.
        """
        ...

    async def has_token(self, token: str) -> bool:
        """Tell whether a live task has the token, at no cost to those who write."""
        ...


def public_app(
    inbox: Inbox,
    *,
    max_body: int,
    allowed_hosts: AllowedHosts | None = None,
    proxies: TrustedProxies | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> ASGIApp:
    """Make the app of the public listener.

    It answers to *names* only, where there are any, and to whatever name one of the *proxies* asks by.
    """
    return _PublicApp(inbox, max_body, allowed_hosts, proxies or TrustedProxies(), timer)


class _PublicApp:
    def __init__(
        self,
        inbox: Inbox,
        max_body: int,
        allowed_hosts: AllowedHosts | None,
        proxies: TrustedProxies,
        timer: Callable[[], float],
    ) -> None:
        self._inbox = inbox
        self._max_body = max_body
        self._allowed_hosts = allowed_hosts
        self._proxies = proxies
        self._failure_limiter = FailureLimiter()
        self._timer = timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._proxies.client(scope)
        try:
            await self._handle(scope, receive, send, caller)
        except ClientDisconnected:
            log.info("callback.abandoned", peer=caller)
        except Problem as problem:
            self._log_refusal(caller, problem)
            await _send_problem(send, problem)
        except errors.ReceiverError as error:
            self._log_refusal(caller, problems.from_error(error))
            await _send_problem(send, problems.from_error(error))
        except Exception:  # noqa: BLE001 -- the boundary of a request
            # The text alone: a renderer that shows the frames' variables would show the token among them.
            log.error("callback.failed", peer=caller, exception=_redacted_traceback(scope))  # noqa: TRY400 -- see above
            await _send_problem(send, problems.internal_error())

    async def _handle(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        if not self._is_allowed_host(scope):
            raise misdirected(
                "The host is not the one in [public] url. Pass it on, or name the proxy in [public] proxies."
            )
        path: str = scope["path"]
        if path.startswith(_CALLBACK_PREFIX) and path != _CALLBACK_PREFIX and "/" not in path[len(_CALLBACK_PREFIX) :]:
            if scope["method"] != "POST":
                raise problems.method_not_allowed("POST")
            body = await read_body(scope, receive, limit=self._max_body)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            if not await self._accept(path[len(_CALLBACK_PREFIX) :], headers, body, client):
                raise problems.not_found()
        elif path == _HEALTH_PATH:
            if scope["method"] not in ("GET", "HEAD"):
                raise problems.method_not_allowed("GET, HEAD")
        else:
            raise problems.not_found()
        await problems.send_raw(send, HTTPStatus.OK, _OK_HEADERS, _OK)

    async def _accept(self, token: str, headers: Sequence[tuple[str, str]], body: bytes, client: str) -> bool:
        if not self._failure_limiter.allows(client, self._timer()) and not await self._inbox.has_token(token):
            return False
        return await self._inbox.accept_callback(token, headers, body)

    def _is_allowed_host(self, scope: Scope) -> bool:
        # Without a host it is an old health check's; that there are not two of them has been seen to.
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if self._allowed_hosts is None or host is None or self._allowed_hosts.allows(host.decode("latin-1")):
            return True
        return self._proxies.contains(scope.get("client"))

    def _log_refusal(self, client: str, problem: Problem) -> None:
        """Write down why a request was refused; where the caller is to blame, as long as there is patience with it."""
        now = self._timer()
        is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if not is_ours and not self._failure_limiter.allows(client, now):
            return
        # The address holds the token, so the reason alone is told.
        say = log.info if problem.status in _EXPECTED_STATUSES else log.warning
        say("callback.refused", peer=client, code=problem.code, reason=problem.detail)
        if not is_ours and self._failure_limiter.record(client, now):
            log.warning("caller.muted", peer=client, reason="It is wrong too often to have each time written down.")


_EXPECTED_STATUSES = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""What whoever scans the net brings about."""


def _redacted_traceback(scope: Scope) -> str:
    """Write down the exception at hand, which may quote the token."""
    token = scope["path"].removeprefix(_CALLBACK_PREFIX)
    text = traceback.format_exc()
    return text.replace(token, "***") if token else text


async def _send_problem(send: Send, problem: Problem) -> None:
    response = problem.response()
    await problems.send_raw(send, response.status_code, response.raw_headers, bytes(response.body))
