"""The public face: where Kling posts, and whether we are alive. Nothing else is here.

Written against ASGI itself: this is the path of every callback, and there are but two addresses.
"""

import traceback
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver import errors
from receiver.web import problems
from receiver.web.body import ClientGone, read_body
from receiver.web.problems import Problem

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


def public_app(inbox: Inbox, *, max_body: int) -> ASGIApp:
    """Make the app of the public listener."""
    return _PublicApp(inbox, max_body)


class _PublicApp:
    def __init__(self, inbox: Inbox, max_body: int) -> None:
        self._inbox = inbox
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except ClientGone:
            log.info("callback.abandoned")
        except Problem as problem:
            await _send_problem(send, problem)
        except errors.ReceiverError as error:
            # The address holds the token, so the reason alone is told.
            log.warning("callback.refused", code=error.code, reason=error.message)
            await _send_problem(send, problems.of(error))
        except Exception:  # noqa: BLE001 -- the boundary of a request
            # The text alone: a renderer that shows the frames' variables would show the token among them.
            log.error("callback.failed", exception=traceback.format_exc())  # noqa: TRY400 -- see above
            await _send_problem(send, problems.internal())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(_CALLBACKS) and path != _CALLBACKS and "/" not in path[len(_CALLBACKS) :]:
            if scope["method"] != "POST":
                raise problems.wrong_method("POST")
            body = await read_body(scope, receive, limit=self._max_body)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            if not await self._inbox.receive(path[len(_CALLBACKS) :], headers, body):
                raise problems.no_such_page()
        elif path == _HEALTH:
            if scope["method"] not in ("GET", "HEAD"):
                raise problems.wrong_method("GET, HEAD")
        else:
            raise problems.no_such_page()
        await problems.send_raw(send, HTTPStatus.OK, _OK_HEADERS, _OK)


async def _send_problem(send: Send, problem: Problem) -> None:
    response = problem.response()
    await problems.send_raw(send, response.status_code, response.raw_headers, bytes(response.body))
