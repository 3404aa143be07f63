"""Tokens that a client of Kling signs itself, with an access key and a secret key: some clients know no other way.

At the gateway, the secret key is the admin token, or another token of the admin listener. The access key may be any
text. The signed token lives half an hour, as at Kling.
"""

import warnings
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver.domain.secret import Secret
from receiver.web.gateway import is_gateway_path
from receiver.web.server.problems import Problem

_LEEWAY_SECONDS = 60  # between the clocks of the client and of this machine
_MAX_TOKEN = 4096
_DOTS = 2


class KeyPairTokens:
    """Middleware of the gateway's paths that turns a signed token into the token that it is signed with."""

    def __init__(self, app: ASGIApp, *, tokens: Iterable[Secret]) -> None:
        self._app = app
        self._tokens = [token.reveal() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raise ``Problem`` (401) for a signed token that is not valid."""
        if is_gateway_path(scope["path"]):
            headers = MutableHeaders(raw=list(scope["headers"]))
            credentials = headers.getlist("authorization")
            if len(credentials) == 1 and (signed := _signed_token(credentials[0])) and signed not in self._tokens:
                headers["authorization"] = f"Bearer {self._signed_with(signed)}"
                scope["headers"] = headers.raw  # not in a copy, as in NamedTokens
        await self._app(scope, receive, send)

    def _signed_with(self, signed: str) -> str:
        import jwt  # noqa: PLC0415 -- most clients send a token as it is, and an idle service does without these 2 MiB
        from jwt.warnings import InsecureKeyLengthWarning  # noqa: PLC0415 -- as above

        for token in self._tokens:
            try:
                with warnings.catch_warnings():  # the operator chooses the length of a token
                    warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                    jwt.decode(
                        signed,
                        token,
                        algorithms=["HS256"],
                        options={"require": ["exp"], "verify_aud": False, "verify_iat": False},
                        leeway=_LEEWAY_SECONDS,
                    )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidTokenError as exc:
                raise _refused(f"The signed token is not valid: {exc}.") from exc
            return token
        raise _refused("The token is not signed with the admin token. Use the admin token as the secret key.")


def _signed_token(credentials: str) -> str | None:
    """Return the signed token (JWT) in an authorization header, or None if it has another kind."""
    scheme, _, token = credentials.partition(" ")
    token = token.strip()
    is_signed = scheme.lower() == "bearer" and token.count(".") == _DOTS and token.startswith("ey")
    return token if is_signed and len(token) <= _MAX_TOKEN else None


def _refused(detail: str) -> Problem:
    headers = {"www-authenticate": 'Bearer realm="kling-receiver", error="invalid_token"'}
    return Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers=headers)
