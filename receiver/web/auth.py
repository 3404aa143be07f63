"""Who may use the admin listener: whoever has the token, by one of the names the listener answers to."""

import hmac
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain.model import Secret
from receiver.settings import Address
from receiver.web import gateway
from receiver.web.server.allowed_hosts import AllowedHosts, misdirected
from receiver.web.server.problems import Problem

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})

_REALM = 'Bearer realm="kling-receiver"'


class TokenAuth:
    """Lets requests through that name us rightly and carry the admin token."""

    def __init__(self, app: ASGIApp, *, token: Secret, listen: Address, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._token = token.reveal().encode()
        self._allowed_hosts = AllowedHosts(listen, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer strangers, hand the others on."""
        problem = None if scope["path"] in PUBLIC_PATHS else self._check(Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, send)
        elif gateway.is_gateway_path(scope["path"]):
            await gateway.kling_error(problem)(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    def _check(self, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._allowed_hosts.allows(hosts[0]):
            return misdirected()
        shown = headers.getlist("authorization")
        if not shown:
            detail = "Send the admin token: Authorization: Bearer TOKEN."
            return _unauthorized(detail, _REALM)
        scheme, _, token = shown[0].partition(" ")
        known = scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token)
        if len(shown) > 1 or not known:
            return _unauthorized("This is not the admin token.", f'{_REALM}, error="invalid_token"')
        return None


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"www-authenticate": challenge})
