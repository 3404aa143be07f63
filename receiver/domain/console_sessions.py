"""Who visits the console: roles, visitors and their sessions."""

from datetime import datetime
from enum import StrEnum

import msgspec


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


class ConsoleSession(msgspec.Struct, frozen=True, kw_only=True):
    """A visitor's session. ``notice`` is a sentence that the next page shows: the outcome of an action."""

    visitor: Visitor
    expires_at: datetime
    notice: str = ""
