"""Sessions of the console, and one-time links that start one.

Both are kept in memory, as hashes only: a restart logs every browser out, and ``kling-receiver console`` logs in again.
So a token that is no longer configured leaves no session behind, and the store holds nothing that lets a reader in.
"""

from datetime import datetime, timedelta

import msgspec

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, Ids, token_hash
from receiver.web.console.credentials import Role, Visitor

IDLE_LIMIT = timedelta(hours=12)
LINK_LIFETIME = timedelta(seconds=60)
MAX_SESSIONS = 100
"""For each role, so that readers cannot end the sessions of administrators."""

_MAX_LINKS = 16


class Session(msgspec.Struct):
    """A visitor's session. ``notice`` is a sentence that the next page shows: the outcome of an action."""

    visitor: Visitor
    used_at: datetime
    notice: str = ""

    def take_notice(self) -> str:
        """Return the notice, and forget it."""
        notice, self.notice = self.notice, ""
        return notice


class Sessions:
    """The sessions. One ends at logout, or after 12 hours without a visit. The least recently used make room."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    def start(self, visitor: Visitor) -> str:
        """Start a session, and return its secret for the cookie."""
        self._make_room(visitor.role)
        secret = Ids.token()
        self._sessions[token_hash(secret)] = Session(visitor, self._clock.now())
        return secret

    def find(self, secret: str, *, is_visit: bool = True) -> Session | None:
        """Return a live session. Requests that a page sends by itself are not visits."""
        key = token_hash(secret)
        session = self._sessions.get(key)
        if session is None:
            return None
        now = self._clock.now()
        if now - session.used_at >= IDLE_LIMIT:
            del self._sessions[key]
            return None
        if is_visit:
            session.used_at = now
        return session

    def end(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(token_hash(secret), None)

    def _make_room(self, role: Role) -> None:
        now = self._clock.now()
        self._sessions = {key: each for key, each in self._sessions.items() if now - each.used_at < IDLE_LIMIT}
        same_role = [key for key, each in self._sessions.items() if each.visitor.role is role]
        if len(same_role) >= MAX_SESSIONS:
            del self._sessions[min(same_role, key=lambda key: self._sessions[key].used_at)]


class LoginLinks:
    """One-time links. Each starts one session, within 60 seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._links: BoundedDict[bytes, tuple[Visitor, datetime]] = BoundedDict(_MAX_LINKS)

    def create(self, visitor: Visitor) -> tuple[str, datetime]:
        """Return a new link's secret, and when it expires."""
        secret, expires_at = Ids.token(), self._clock.now() + LINK_LIFETIME
        self._links[token_hash(secret)] = (visitor, expires_at)
        return secret, expires_at

    def redeem(self, secret: str) -> Visitor | None:
        """Return the visitor of a link and forget the link. Return None if it was used or has expired."""
        visitor, expires_at = self._links.pop(token_hash(secret), (None, None))
        return None if expires_at is None or expires_at <= self._clock.now() else visitor
