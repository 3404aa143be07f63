"""Sessions of the console, and one-time links that start one."""

from datetime import datetime
from typing import Protocol

from receiver.domain.console_sessions import ConsoleSession, Visitor


class SessionStore(Protocol):
    """Keeps sessions and links by a hash of their secret, which alone lets a browser in."""

    async def start(self, key: bytes, session: ConsoleSession, *, most: int) -> None:
        """Store a session. Of its role only the *most* that expire last are kept."""
        ...

    async def find(self, key: bytes, *, now: datetime) -> ConsoleSession | None:
        """Return a session that has not expired, or None."""
        ...

    async def renew(self, key: bytes, *, expires_at: datetime) -> None:
        """Let a session expire later. One that was ended stays ended."""
        ...

    async def set_notice(self, key: bytes, notice: str) -> None:
        """Set what the next page of a session shows."""
        ...

    async def end(self, key: bytes) -> None:
        """End a session."""
        ...

    async def end_others(self, prefix: bytes) -> None:
        """End the sessions and links whose keys do not begin with *prefix*."""
        ...

    async def add_link(self, key: bytes, visitor: Visitor, *, expires_at: datetime, most: int) -> None:
        """Store a link. Only the *most* that expire last are kept."""
        ...

    async def redeem_link(self, key: bytes, *, now: datetime) -> Visitor | None:
        """Delete a link and return its visitor, once; None if there is none or it has expired."""
        ...
