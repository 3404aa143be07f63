"""The tokens that open the console, and the visitor that each one belongs to."""

import hmac
from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from receiver.domain.secret import Secret

_SHARED = "console"
"""The name of a visitor with the admin token who gives no other."""


class Role(StrEnum):
    """What a visitor may do."""

    ADMIN = "admin"
    READER = "reader"  # sees everything, cannot act


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """A visitor with a session. ``name`` is who acts, for the audit log."""

    role: Role
    name: str

    @property
    def can_act(self) -> bool:
        """Whether the visitor may do more than look."""
        return self.role is Role.ADMIN


class Credentials:
    """The tokens of the admin listener, as the login form takes them."""

    def __init__(self, *, token: Secret, read_token: Secret | None, named_tokens: Mapping[str, Secret]) -> None:
        self._tokens = [
            (token, Visitor(role=Role.ADMIN, name=_SHARED)),
            *((secret, Visitor(role=Role.ADMIN, name=name)) for name, secret in named_tokens.items()),
            *([(read_token, Visitor(role=Role.READER, name="reader"))] if read_token else []),
        ]

    def visitor(self, given: str, *, name: str = "") -> Visitor | None:
        """Return the visitor that a token belongs to, or None. *name* is who uses the admin token."""
        token = given.strip().encode("utf-8", "surrogateescape")
        # Every token is compared, so that the time says nothing about which one is near.
        found = [visitor for secret, visitor in self._tokens if hmac.compare_digest(token, secret.reveal().encode())]
        if not found:
            return None
        return replace(found[0], name=name) if name and found[0].name == _SHARED else found[0]
