"""Login with a token or a one-time link, and logout."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from receiver.domain.clock import Clock
from receiver.domain.console_sessions import Visitor
from receiver.web.console.credentials import Credentials
from receiver.web.console.gate import HOME, LOGIN, cookie_name, local_path, public, read_form
from receiver.web.console.renderer import Renderer
from receiver.web.console.sessions import LoginLinks, Sessions
from receiver.web.server.client_address import peer_name
from receiver.web.server.failure_limiter import FailureLimiter

log = structlog.get_logger()

_NOT_ADMITTED = "This is not the admin token. It is in `admin-token` beside the store, or in [admin] token."
_DEAD_LINK = "This link was used or has expired: it works once, for 60 seconds. Run `kling-receiver console` again."
_TOO_MANY = "Too many failed logins. Wait a minute, or log in by `kling-receiver console`."
_MAX_NAME = 64
_RETRY_AFTER = timedelta(minutes=1)


class LoginPages:
    """Answers ``/console/login`` and ``/console/logout``."""

    def __init__(
        self,
        sessions: Sessions,
        links: LoginLinks,
        credentials: Credentials,
        renderer: Renderer,
        *,
        load: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._links = links
        self._credentials = credentials
        self._renderer = renderer
        self._load = load
        self._clock = clock
        self._failures = FailureLimiter(burst=10, per_second=0.1)

    def routes(self) -> list[Route]:
        """Return the routes. They need no session."""
        return [
            public(LOGIN, {"GET": self.show, "POST": self.log_in}),
            public(f"{LOGIN}/{{link}}", {"GET": self.redeem_link}),
            public("/console/logout", {"POST": self.log_out}),
        ]

    async def show(self, request: Request) -> Response:
        """Show the form."""
        return await self._form(request, back=local_path(request.query_params.get("next", "")))

    async def log_in(self, request: Request) -> Response:
        """Start a session for a token."""
        form = await read_form(request)
        back, client, now = local_path(form.get("next", "")), peer_name(request.client), self._clock.monotonic()
        if not self._failures.allows(client, now):
            return await self._form(request, back=back, error=_TOO_MANY, status=HTTPStatus.TOO_MANY_REQUESTS)
        visitor = self._credentials.visitor(form.get("token", ""), name=_name(form.get("name", "")))
        if visitor is None:
            self._failures.record(client, now)
            log.warning("console.login_refused", client=client)
            return await self._form(request, back=back, error=_NOT_ADMITTED, status=HTTPStatus.UNAUTHORIZED)
        return await self._start(request, visitor, back)

    async def redeem_link(self, request: Request) -> Response:
        """Start a session for a one-time link. A HEAD request, as previews send it, uses no link up."""
        if request.method == "HEAD":
            return Response()
        visitor = await self._links.redeem(request.path_params["link"])
        if visitor is None:
            return await self._form(request, back=HOME, error=_DEAD_LINK, status=HTTPStatus.UNAUTHORIZED)
        return await self._start(request, visitor, HOME)

    async def _start(self, request: Request, visitor: Visitor, back: str) -> Response:
        """Start a new session, also for a browser that has one, so that a planted cookie is of no use."""
        if old := request.cookies.get(cookie_name(request)):
            await self._sessions.end(old)
        log.info("console.logged_in", name=visitor.name, role=visitor.role.value, client=peer_name(request.client))
        response = RedirectResponse(back, HTTPStatus.SEE_OTHER, headers={"cache-control": "no-store"})
        response.set_cookie(
            cookie_name(request),
            await self._sessions.start(visitor),
            httponly=True,
            samesite="strict",
            secure=_is_https(request),
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        await self._sessions.end(request.cookies.get(cookie_name(request), ""))
        response = RedirectResponse(LOGIN, HTTPStatus.SEE_OTHER, headers={"cache-control": "no-store"})
        response.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
        return response

    async def _form(
        self, request: Request, *, back: str, error: str = "", status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        await self._load()
        response = self._renderer.page(request, "login.html", title="Log in", back=back, error=error, status=status)
        if status is HTTPStatus.TOO_MANY_REQUESTS:
            response.headers["retry-after"] = str(int(_RETRY_AFTER.total_seconds()))
        return response


def _name(text: str) -> str:
    """Return the name that a visitor gave, if it fits into the audit log."""
    name = text.strip()
    return name if name.isprintable() and len(name) <= _MAX_NAME else ""


def _is_https(request: Request) -> bool:
    """Return whether the browser uses https, perhaps to a proxy. A false header only makes the cookie stricter."""
    schemes = (request.url.scheme, request.headers.get("x-forwarded-proto", ""), request.headers.get("origin", ""))
    return any(scheme.startswith("https") for scheme in schemes)
