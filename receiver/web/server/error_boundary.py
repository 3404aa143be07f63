"""Turns every error of a request into a response, and logs unexpected ones."""

import traceback
from collections.abc import Callable
from typing import TypeAlias

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.domain.errors import ReceiverError
from receiver.web.server import problems
from receiver.web.server.body import ClientDisconnected
from receiver.web.server.problems import Problem

log = structlog.get_logger()

ErrorRenderer: TypeAlias = Callable[[Scope, Problem | ReceiverError], Response]
"""Returns the response for an error, in the form that the client of this path expects."""


class ErrorBoundary:
    """Middleware around an app that raises its errors. *render* decides how they look.

    If an error occurs after the response has started, the connection is closed without completing the response.
    """

    def __init__(self, app: ASGIApp, *, render: ErrorRenderer) -> None:
        self._app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, and answer it if the app raised an error."""
        is_started = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnected:
            log.info("request.abandoned", method=scope["method"], path=scope["path"])
        except (Problem, ReceiverError) as error:
            if not is_started:
                await self._render(scope, error)(scope, receive, send)
                return
            code = error.code
            log.warning("request.interrupted", method=scope["method"], path=scope["path"], code=code, reason=str(error))
        except Exception:
            # Only the text: a log renderer that prints local variables would print the token.
            fault = traceback.format_exc()
            log.error("request.failed", method=scope["method"], path=scope["path"], exception=fault)  # noqa: TRY400 -- see above
            if is_started:
                raise
            await self._render(scope, problems.internal_error())(scope, receive, send)
