"""The tokens that open the console, and the visitor that each one belongs to."""

import hashlib
import hmac
import json
from collections.abc import Mapping

from msgspec.structs import replace

from receiver.domain.console_sessions import Role, Visitor
from receiver.domain.secret import Secret

_PREFIX_SIZE = 2
"""Bytes of a hash that depend on the tokens alone: enough to tell tokens apart, too few to test guesses of a token."""

_SHARED = "console"
"""The name of a visitor with the admin token who gives no other."""


class Credentials:
    """The tokens of the admin listener, as the login form takes them."""

    def __init__(self, *, token: Secret, read_token: Secret | None, named_tokens: Mapping[str, Secret]) -> None:
        self._tokens = [
            (token, Visitor(role=Role.ADMIN, name=_SHARED)),
            *((secret, Visitor(role=Role.ADMIN, name=name)) for name, secret in named_tokens.items()),
            *([(read_token, Visitor(role=Role.READER, name="reader"))] if read_token else []),
        ]
        tokens = [(secret.reveal(), visitor.role, visitor.name) for secret, visitor in self._tokens]
        self._hash_key = hashlib.sha256(json.dumps(tokens).encode()).digest()
        self.prefix = hmac.digest(self._hash_key, b"prefix", "sha256")[:_PREFIX_SIZE]

    def hash(self, secret: str) -> bytes:
        """Return the hash of the secret of a session or a link. After a change of any token it is another one.

        It begins with ``prefix``, by which the sessions of other tokens are found.
        """
        keyed = hmac.digest(self._hash_key, secret.encode("utf-8", "surrogateescape"), "sha256")
        return self.prefix + keyed[_PREFIX_SIZE:]

    def visitor(self, given: str, *, name: str = "") -> Visitor | None:
        """Return the visitor that a token belongs to, or None. *name* is who uses the admin token."""
        token = given.strip().encode("utf-8", "surrogateescape")
        # Every token is compared, so that the time says nothing about which one is near.
        found = [visitor for secret, visitor in self._tokens if hmac.compare_digest(token, secret.reveal().encode())]
        if not found:
            return None
        is_shared = found[0] is self._tokens[0][1]  # a named token may have any name
        return replace(found[0], name=name) if name and is_shared else found[0]
