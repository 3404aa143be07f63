"""Named admin tokens: each person or program has its own token, and the audit log shows the token's name."""

import hmac
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain.secret import Secret
from receiver.web.params import ACTOR_HEADER


class NamedTokens:
    """Middleware that turns a named token into the admin token, and sets the acting user to the token's name.

    The name replaces the one that the client claims. Other tokens pass unchanged; ``TokenAuth`` decides about them.
    """

    def __init__(self, app: ASGIApp, *, tokens: Mapping[str, Secret], token: Secret) -> None:
        self._app = app
        self._named = {name: each.reveal().encode() for name, each in tokens.items()}
        self._admin = f"Bearer {token.reveal()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, under the admin token and the name if its token is a named one."""
        headers = MutableHeaders(raw=list(scope["headers"]))
        credentials = headers.getlist("authorization")
        if self._named and len(credentials) == 1 and (name := self._find_name(credentials[0])):
            headers["authorization"] = self._admin
            headers[ACTOR_HEADER] = name
            scope["headers"] = (
                headers.raw
            )  # not in a copy: the connection writes into this scope when the client leaves
        await self._app(scope, receive, send)

    def _find_name(self, credentials: str) -> str | None:
        scheme, _, token = credentials.partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = token.strip().encode("latin-1")
        # Every token is compared, so that the time says nothing about which one is near.
        matches = [name for name, each in self._named.items() if hmac.compare_digest(given, each)]
        return matches[0] if matches else None
