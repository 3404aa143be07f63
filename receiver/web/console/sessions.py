"""Sessions of the console, and one-time links that start one.

The store has them, so that they hold on every node and survive a restart. It has only a hash of each secret, keyed with
the tokens of the configuration: what the store contains lets no reader in, and a changed token ends all sessions.
:mod:`receiver.service.session_ends` deletes them then, so that they stay ended if the old token comes back.
"""

from datetime import datetime, timedelta

import msgspec
import structlog

from receiver.domain.clock import Clock, Ids
from receiver.domain.console_sessions import ConsoleSession, Visitor
from receiver.domain.errors import StoreUnavailable
from receiver.store.interfaces import SessionStore
from receiver.web.console.credentials import Credentials

IDLE_LIMIT = timedelta(hours=12)
LINK_LIFETIME = timedelta(seconds=60)
MAX_SESSIONS = 100
"""For each role, so that readers cannot end the sessions of administrators."""

_RENEWAL_INTERVAL = timedelta(minutes=1)
_MAX_LINKS = 16
_MAX_NOTICE = 1000

log = structlog.get_logger()


class Session(msgspec.Struct):
    """The session of a request. ``notice`` is a sentence that the next page shows: the outcome of an action.

    A request with a token has no session in the store: its ``key`` is None.
    """

    visitor: Visitor
    notice: str = ""
    key: bytes | None = None

    def take_notice(self) -> str:
        """Return the notice, and forget it."""
        notice, self.notice = self.notice, ""
        return notice


class Sessions:
    """The sessions. One ends at logout, or after 12 hours without a visit. The least recently used make room."""

    def __init__(self, store: SessionStore, credentials: Credentials, clock: Clock) -> None:
        self._store = store
        self._credentials = credentials
        self._clock = clock

    async def start(self, visitor: Visitor) -> str:
        """Start a session, and return its secret for the cookie."""
        secret = Ids.token()
        session = ConsoleSession(visitor=visitor, expires_at=self._clock.now() + IDLE_LIMIT)
        await self._store.start(self._credentials.hash(secret), session, most=MAX_SESSIONS)
        return secret

    async def find(self, secret: str, *, is_visit: bool = True) -> Session | None:
        """Return a live session. Requests that a page sends by itself are not visits."""
        key, now = self._credentials.hash(secret), self._clock.now()
        found = await self._store.find(key, now=now)
        if found is None:
            return None
        if is_visit and now + IDLE_LIMIT - found.expires_at >= _RENEWAL_INTERVAL:
            await self._renew(key, expires_at=now + IDLE_LIMIT)
        return Session(found.visitor, found.notice, key)

    async def save_notice(self, session: Session) -> None:
        """Keep the notice of a session for its next page. Without the store the notice is lost, but not the action."""
        if session.key is None:
            return
        try:
            await self._store.set_notice(session.key, session.notice[:_MAX_NOTICE])
        except StoreUnavailable as exc:
            log.warning("console.notice_lost", reason=exc.message)

    async def end(self, secret: str) -> None:
        """End a session."""
        await self._store.end(self._credentials.hash(secret))

    async def _renew(self, key: bytes, *, expires_at: datetime) -> None:
        try:
            await self._store.renew(key, expires_at=expires_at)
        except StoreUnavailable as exc:  # a page is readable while the disk is full
            log.warning("console.session_not_renewed", reason=exc.message)


class LoginLinks:
    """One-time links. Each starts one session, within 60 seconds."""

    def __init__(self, store: SessionStore, credentials: Credentials, clock: Clock) -> None:
        self._store = store
        self._credentials = credentials
        self._clock = clock

    async def create(self, visitor: Visitor) -> tuple[str, datetime]:
        """Return a new link's secret, and when it expires."""
        secret, expires_at = Ids.token(), self._clock.now() + LINK_LIFETIME
        await self._store.add_link(self._credentials.hash(secret), visitor, expires_at=expires_at, most=_MAX_LINKS)
        return secret, expires_at

    async def redeem(self, secret: str) -> Visitor | None:
        """Return the visitor of a link, once for all nodes. Return None if it was used or has expired."""
        return await self._store.redeem_link(self._credentials.hash(secret), now=self._clock.now())
