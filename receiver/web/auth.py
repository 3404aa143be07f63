"""Authentication of the admin listener: the admin token or the read token, and an allowed host name."""

import asyncio
import hmac
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain.console_sessions import Role
from receiver.domain.secret import Secret
from receiver.settings import Address
from receiver.web.console.gate import TOKEN_ROLE, is_visit
from receiver.web.server.allowed_hosts import AllowedHosts, is_loopback, misdirected
from receiver.web.server.listener import REVOKED
from receiver.web.server.problems import Problem

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})

OPENAPI_PATH = "/openapi.json"
"""Needs no token on a loopback listener: tools on this machine read it before they have one."""

_FORWARDING_HEADERS = ("forwarded", "x-forwarded", "x-real-ip", "via")
_READING_METHODS = ("GET", "HEAD")

_WHERE_TO_FIND_IT = "It is in `admin-token` beside the store, or in [admin] token."
_REALM = 'Bearer realm="kling-receiver"'


class TokenAuth:
    """Middleware that rejects requests without an allowed host or without a token. A read token may only read.

    A browser may come without a token: the console's own gate then checks its session.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: Secret,
        read_token: Secret | None = None,
        listen: Address,
        hosts: Collection[str] = (),
        revoked: asyncio.Event | None = None,
    ) -> None:
        """*revoked* is set when the tokens are no longer valid, to end streams."""
        self._app = app
        self._revoked = revoked
        self._token = token.reveal().encode()
        self._read_token = read_token.reveal().encode() if read_token else None
        # The token protects a listener whose names are unknown: a web page with another name does not have it.
        self._allowed_hosts = AllowedHosts(listen, hosts, any_if_open=True)
        self._is_local = is_loopback(listen.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an authorized request on; raise ``Problem`` (421, 401 or 403) for any other."""
        if scope["path"] not in PUBLIC_PATHS:
            scope[REVOKED] = self._revoked
            headers = Headers(scope=scope)
            self._check_host(headers)
            if not (is_visit(scope["path"], headers) or self._may_see_openapi(scope, headers)):
                # not into a copy: the connection writes into this scope when the client leaves
                scope[TOKEN_ROLE] = self._check_token(headers, scope["method"])
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._allowed_hosts.allows(hosts[0]):
            raise misdirected(
                "The admin listener does not answer to this host name. "
                'Add the name to [admin] hosts in config.toml, such as hosts = ["tasks.example.com"].'
            )

    def _may_see_openapi(self, scope: Scope, headers: Headers) -> bool:
        """Return whether a request for the OpenAPI document comes from this machine, directly and without a token.

        The connection's own addresses decide. A proxy on this machine says by a header that it forwards a request.
        """
        if scope["path"] != OPENAPI_PATH or scope["method"] not in _READING_METHODS or "authorization" in headers:
            return False
        if any(name.startswith(_FORWARDING_HEADERS) for name in headers):
            return False
        ends = [scope.get("client"), scope.get("server")]
        return self._is_local and all(end is not None and is_loopback(end[0]) for end in ends)

    def _check_token(self, headers: Headers, method: str) -> Role:
        """Return the role of the request's token."""
        credentials = headers.getlist("authorization")
        if not credentials:
            detail = f"Send the admin token: Authorization: Bearer TOKEN. {_WHERE_TO_FIND_IT}"
            raise _unauthorized(detail, _REALM)
        scheme, _, token = credentials[0].partition(" ")
        given = token.strip().encode("latin-1")
        is_admin = hmac.compare_digest(given, self._token)
        is_reader = self._read_token is not None and hmac.compare_digest(given, self._read_token)
        if len(credentials) > 1 or scheme.lower() != "bearer" or not (is_admin or is_reader):
            raise _unauthorized(f"This is not the admin token. {_WHERE_TO_FIND_IT}", f'{_REALM}, error="invalid_token"')
        if not is_admin and method not in _READING_METHODS:
            raise _read_only(method)
        return Role.ADMIN if is_admin else Role.READER


def _read_only(method: str) -> Problem:
    detail = f"The read token ([admin] read_token) permits only GET and HEAD, not {method}. Send the admin token."
    return Problem(
        HTTPStatus.FORBIDDEN,
        "read_only",
        detail,
        headers={"www-authenticate": f'{_REALM}, error="insufficient_scope"'},
    )


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"www-authenticate": challenge})
