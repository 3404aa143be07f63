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
from receiver.web.server.allowed_hosts import Names, misdirected
from receiver.web.server.body import ClientGone, read_body
from receiver.web.server.client_address import Patience, Proxies
from receiver.web.server.problems import Problem

log = structlog.get_logger()

_CALLBACKS = "/callbacks/"
_HEALTH = "/healthz"
_JSON = (b"content-type", b"application/json")
_OK = b'{"ok":true}'
_OK_HEADERS = [_JSON, (b"content-length", str(len(_OK)).encode())]


class Inbox(Protocol):
    """Takes what Kling posts."""

    async def receive(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Commit a callback and all that follows from it; False when no live task has the token.

        Raises Unreadable and StoreUnavailable, and then nothing was stored.
        """
        ...

    async def knows(self, token: str) -> bool:
        """Tell whether a live task has the token, at no cost to those who write."""
        ...


def public_app(
    inbox: Inbox,
    *,
    max_body: int,
    names: Names | None = None,
    proxies: Proxies | None = None,
    seconds: Callable[[], float] = time.perf_counter,
) -> ASGIApp:
    """Make the app of the public listener.

    It answers to *names* only, where there are any, and to whatever name one of the *proxies* asks by.
    """
    return _PublicApp(inbox, max_body, names, proxies or Proxies(), seconds)


class _PublicApp:
    def __init__(
        self, inbox: Inbox, max_body: int, names: Names | None, proxies: Proxies, seconds: Callable[[], float]
    ) -> None:
        self._inbox = inbox
        self._max_body = max_body
        self._names = names
        self._proxies = proxies
        self._patience = Patience()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._proxies.caller(scope)
        try:
            await self._answer(scope, receive, send, caller)
        except ClientGone:
            log.info("callback.abandoned", peer=caller)
        except Problem as problem:
            self._tell(caller, problem)
            await _send_problem(send, problem)
        except errors.ReceiverError as error:
            self._tell(caller, problems.of(error))
            await _send_problem(send, problems.of(error))
        except Exception:  # noqa: BLE001 -- the boundary of a request
            # The text alone: a renderer that shows the frames' variables would show the token among them.
            log.error("callback.failed", peer=caller, exception=_fault(scope))  # noqa: TRY400 -- see above
            await _send_problem(send, problems.internal())

    async def _answer(self, scope: Scope, receive: Receive, send: Send, caller: str) -> None:
        if not self._is_for_us(scope):
            raise misdirected(
                "The host is not the one in [public] url. Pass it on, or name the proxy in [public] proxies."
            )
        path: str = scope["path"]
        if path.startswith(_CALLBACKS) and path != _CALLBACKS and "/" not in path[len(_CALLBACKS) :]:
            if scope["method"] != "POST":
                raise problems.wrong_method("POST")
            body = await read_body(scope, receive, limit=self._max_body)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            if not await self._take(path[len(_CALLBACKS) :], headers, body, caller):
                raise problems.no_such_page()
        elif path == _HEALTH:
            if scope["method"] not in ("GET", "HEAD"):
                raise problems.wrong_method("GET, HEAD")
        else:
            raise problems.no_such_page()
        await problems.send_raw(send, HTTPStatus.OK, _OK_HEADERS, _OK)

    async def _take(self, token: str, headers: Sequence[tuple[str, str]], body: bytes, caller: str) -> bool:
        if not self._patience.is_left(caller, self._seconds()) and not await self._inbox.knows(token):
            return False
        return await self._inbox.receive(token, headers, body)

    def _is_for_us(self, scope: Scope) -> bool:
        # Without a host it is an old health check's; that there are not two of them has been seen to.
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if self._names is None or host is None or self._names.include(host.decode("latin-1")):
            return True
        return self._proxies.include(scope.get("client"))

    def _tell(self, caller: str, problem: Problem) -> None:
        """Write down why a request was refused; where the caller is to blame, as long as there is patience with it."""
        now = self._seconds()
        is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if not is_ours and not self._patience.is_left(caller, now):
            return
        # The address holds the token, so the reason alone is told.
        say = log.info if problem.status in _COMMON else log.warning
        say("callback.refused", peer=caller, code=problem.code, reason=problem.detail)
        if not is_ours and self._patience.wear(caller, now):
            log.warning("caller.muted", peer=caller, reason="It is wrong too often to have each time written down.")


_COMMON = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""What whoever scans the net brings about."""


def _fault(scope: Scope) -> str:
    """Write down the exception at hand, which may quote the token."""
    token = scope["path"].removeprefix(_CALLBACKS)
    text = traceback.format_exc()
    return text.replace(token, "***") if token else text


async def _send_problem(send: Send, problem: Problem) -> None:
    response = problem.response()
    await problems.send_raw(send, response.status_code, response.raw_headers, bytes(response.body))
