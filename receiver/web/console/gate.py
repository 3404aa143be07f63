"""Who may open a page of the console, and who may act.

The middleware :class:`SessionAuth` finds the session for every path of the console, however its route is made. The
routes read it from the request's scope.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain.console_sessions import Role, Visitor
from receiver.web.console.renderer import Renderer
from receiver.web.console.sessions import Session, Sessions
from receiver.web.params import actor
from receiver.web.request_types import is_single_line
from receiver.web.server.body import SMALL_BODY, read_body
from receiver.web.server.problems import Problem, bad_request

HOME = "/console"
LOGIN = "/console/login"
TOKEN_ROLE = "receiver.token_role"  # noqa: S105 -- a scope key
"""Scope key of the role of a valid bearer token, for programs that fetch results."""

_SESSION = "receiver.console_session"

_BROWSER_PATHS = ("/console/", "/results/")
_PUBLIC_PATHS = (LOGIN, "/console/logout")
_PUBLIC_PREFIXES = (f"{LOGIN}/", "/console/static/")


def is_browser_path(path: str) -> bool:
    """Return whether a path belongs to the console: a session opens it instead of a token."""
    return path.startswith(_BROWSER_PATHS) or path in ("/console", "/results")


def is_visit(path: str, headers: Headers) -> bool:
    """Return whether a person's browser sent a request without a token: for a page, or for a file of a page.

    A program that fetches a result without a token gets an error, not the login page.
    """
    if "authorization" in headers or not is_browser_path(path):
        return False
    is_page = path.startswith("/console/") or path == HOME
    return is_page or "cookie" in headers or "text/html" in headers.get("accept", "")


class Visit(msgspec.Struct, frozen=True):
    """A request of a visitor with a session."""

    request: Request
    session: Session
    renderer: Renderer

    @property
    def visitor(self) -> Visitor:
        """Who visits."""
        return self.session.visitor

    def page(
        self, template: str, *, title: str, status: HTTPStatus = HTTPStatus.OK, live: bool = True, **values: object
    ) -> Response:
        """Return a page. With *live*, its ``<main>`` follows the store."""
        is_refresh = "hx-request" in self.request.headers
        return self.renderer.page(
            self.request,
            template,
            status=status,
            visitor=self.visitor,
            title=title,
            live=live,
            notice="" if is_refresh else self.session.take_notice(),
            link=self.link,
            has_cursor="cursor" in self.request.query_params,
            **values,
        )

    def link(self, **changes: str | None) -> str:
        """Return the address of this page with other query parameters; None removes one."""
        given = self.request.query_params
        kept = [(name, value) for name, value in given.multi_items() if name not in changes and value]
        query = urlencode([*kept, *((name, value) for name, value in changes.items() if value is not None)])
        return f"{self.request.url.path}?{query}" if query else self.request.url.path

    def redirect(self, path: str, *, notice: str = "") -> Response:
        """Return a redirect after an action. The next page shows *notice*."""
        self.session.notice = notice
        return RedirectResponse(path, HTTPStatus.SEE_OTHER)

    async def form(self, *, limit: int = SMALL_BODY) -> QueryParams:
        """Return the fields of a form without files."""
        return await read_form(self.request, limit=limit)


Handler: TypeAlias = Callable[[Visit], Awaitable[Response]]
PublicHandler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Gate:
    """Makes the console's routes: each one checks the session first."""

    def __init__(self, sessions: Sessions, renderer: Renderer) -> None:
        self._sessions = sessions
        self._renderer = renderer

    def page(self, path: str, handler: Handler, *, action: Handler | None = None) -> Route:
        """Return the route of a page. *action* handles a POST to the same path."""

        async def respond(request: Request) -> Response:
            session = self.session(request)
            if session is None:
                return login_redirect(request)
            if request.method != "POST" or action is None:
                return await self._respond(request, session, handler)
            check_action(request, session.visitor)
            return await self._respond(request, session, action)

        _check_path(path)
        return Route(path, respond, methods=["GET", "POST"] if action else ["GET"])

    def action(self, path: str, handler: Handler) -> Route:
        """Return the route of a form's POST that changes something: only for administrators, from our own pages."""

        async def respond(request: Request) -> Response:
            session = self.session(request)
            if session is None:
                return login_redirect(request)
            check_action(request, session.visitor)
            return await self._respond(request, session, handler)

        _check_path(path)
        return Route(path, respond, methods=["POST"])

    def session(self, request: Request) -> Session | None:
        """Return the session that ``SessionAuth`` has found."""
        session: Session | None = request.scope.get(_SESSION)
        return session

    async def find_session(self, request: Request) -> Session | None:
        """Return the session of a request: by its cookie, or for this request by a bearer token, checked before."""
        role = request.scope.get(TOKEN_ROLE)
        if role is not None:
            return Session(Visitor(role=Role(role), name=actor(request)))
        secret = request.cookies.get(cookie_name(request), "")
        return await self._sessions.find(secret, is_visit=not _is_sent_by_page(request.headers)) if secret else None

    async def _respond(self, request: Request, session: Session, handler: Handler) -> Response:
        """Call a handler. If it has shown the notice or left one, the session keeps that for the next page."""
        await self._renderer.load()
        notice = session.notice
        response = await handler(Visit(request, session, self._renderer))
        if session.notice != notice:
            await self._sessions.save_notice(session)
        return response


class SessionAuth:
    """Middleware that lets only visitors with a session, or with a token, open the console's paths."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or redirect it to the login."""
        path = scope["path"]
        if is_browser_path(path) and path not in _PUBLIC_PATHS and not path.startswith(_PUBLIC_PREFIXES):
            request = Request(scope)
            session = await self._gate.find_session(request)
            if session is None:
                await login_redirect(request)(scope, receive, send)
                return
            scope[_SESSION] = session
        await self._app(scope, receive, send)


def cookie_name(request: Request) -> str:
    """Return the name of the session's cookie, with the port that the browser uses: it sends a cookie to every port.

    It is the port of the Host header, so that the nodes behind a balancer read one cookie.
    """
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"kling_receiver_{port}" if port.isascii() and port.isdecimal() else "kling_receiver"


def public(path: str, handlers: Mapping[str, PublicHandler]) -> Route:
    """Return a route that needs no session: the login and the static files. A POST must be from our own pages."""

    async def respond(request: Request) -> Response:
        if request.method == "POST":
            check_origin(request)
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    _check_path(path)
    return Route(path, respond, methods=list(handlers))


def check_action(request: Request, visitor: Visitor) -> None:
    """Raise ``Problem`` (403) if the visitor may not act, or if another site sent the request."""
    check_origin(request)
    if not visitor.can_act:
        detail = "You are logged in with the read token, which may only read. Log in with the admin token."
        raise Problem(HTTPStatus.FORBIDDEN, "read_only", detail)


def check_origin(request: Request) -> None:
    """Raise ``Problem`` (403) unless one of our own pages sent the request.

    The browser sets both headers; a page of another site cannot change them.
    """
    site = request.headers.get("sec-fetch-site")
    if site is None:
        raise _refused("This browser does not say where a form comes from (Sec-Fetch-Site). Use a newer browser.")
    if site != "same-origin":
        raise _refused("Another site sent this form. Open the console itself and try again.")
    origin = urlsplit(request.headers.get("origin", ""))
    if origin.scheme not in ("http", "https") or origin.netloc != request.headers.get("host"):
        raise _refused("The form's origin is not this address. A proxy must pass the Host header on unchanged.")


def login_redirect(request: Request) -> Response:
    """Return a redirect to the login, which leads back to this page."""
    path, query = request.url.path, request.url.query
    back = f"{path}?{query}" if query else path
    target = f"{LOGIN}?next={quote(back)}" if request.method in ("GET", "HEAD") and path != HOME else LOGIN
    if "hx-request" in request.headers:  # htmx would follow a redirect and show the login inside the page
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"hx-redirect": target})
    return RedirectResponse(target, HTTPStatus.SEE_OTHER)


def local_path(text: str) -> str:
    """Return a path of the console to go to after the login. Any other address becomes the first page."""
    is_ours = is_browser_path(text.partition("?")[0]) and text.isprintable() and "\\" not in text and "//" not in text
    return text if is_ours and not text.startswith(LOGIN) else HOME


async def read_form(request: Request, *, limit: int = SMALL_BODY) -> QueryParams:
    """Return the fields of a form without files; raise ``Problem`` (413) if it is larger than *limit*."""
    body = await read_body(request.scope, request.receive, limit=limit)
    try:
        return QueryParams(body.decode())
    except UnicodeDecodeError:
        raise bad_request("The form must be UTF-8 text.") from None


def reason(form: QueryParams) -> str:
    """Return the reason that an operator gave, for the audit log."""
    text = form.get("why", "").strip()
    if not is_single_line(text):
        raise bad_request("The reason must be a single line of at most 256 characters.")
    return text


def _is_sent_by_page(headers: Headers) -> bool:
    """Return whether an open page has sent a request by itself: to load its content again, or to follow the store."""
    return "hx-request" in headers or headers.get("accept") == "text/event-stream"


def _refused(detail: str) -> Problem:
    return Problem(HTTPStatus.FORBIDDEN, "cross_site", detail)


def _check_path(path: str) -> None:
    if not is_browser_path(path):
        raise ValueError(f"The console does not serve {path}.")
