"""Deletes the console's sessions that were started with other tokens, at the start and after a reload.

They open nothing any more. If they were kept, they would be valid again when an old token comes back.
"""

import asyncio
from datetime import datetime

from receiver.domain.clock import Clock
from receiver.domain.notifier import Notifier
from receiver.domain.worker import run_worker
from receiver.service.admin_token import admin_token
from receiver.settings import Settings
from receiver.store.interfaces import SessionStore
from receiver.web.console.credentials import Credentials


class SessionEnds:
    """Ends the sessions of other tokens than those of the settings."""

    def __init__(self, store: SessionStore, settings: Settings, *, notifier: Notifier, clock: Clock) -> None:
        """*notifier* notifies after each reload."""
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._last = b""
        self._unended: list[bytes] = []  # each change, in order: an old token may be back before the store is writable
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Keep only the sessions of the tokens in *settings*."""
        admin = settings.admin
        credentials = Credentials(token=admin_token(settings), read_token=admin.read_token, named_tokens=admin.tokens)
        if credentials.prefix != self._last:
            self._last = credentials.prefix
            self._unended.append(credentials.prefix)

    async def run(self, stop: asyncio.Event) -> None:
        """End sessions now and after each change of a token, until *stop*."""
        wake = self._notifier.subscribe()
        try:
            await run_worker(self._end, wake=wake, stop=stop, clock=self._clock, name="session_ends")
        finally:
            self._notifier.unsubscribe(wake)

    async def _end(self) -> datetime | None:
        while self._unended:
            await self._store.end_others(self._unended[0])
            del self._unended[0]
        return None
