"""Sessions of the console and their one-time links in a PostgreSQL store, for all nodes.

A write of one row is a transaction of its own. Those that delete several rows take one lock first, as any order of the
rows could be another transaction's opposite one, and they are rare.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from receiver.domain.clock import micros
from receiver.domain.console_sessions import ConsoleSession, Visitor
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, fetch_row
from receiver.store.postgres.writer import WriteOp, Writer
from receiver.store.session_rows import link_arguments, read_session, read_visitor, session_arguments


class PostgresSessionStore:
    """Sessions of the console."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def start(self, key: bytes, session: ConsoleSession, *, most: int) -> None:
        """Store a session."""
        await self._writer.execute(_START, session_arguments(key, session, most=most))

    async def find(self, key: bytes, *, now: datetime) -> ConsoleSession | None:
        """Return a session that has not expired."""
        return await self._hot.read(_find, {"key": key, "now": micros(now)})

    async def renew(self, key: bytes, *, expires_at: datetime) -> None:
        """Let a session expire later."""
        await self._writer.execute(_RENEW, {"key": key, "expires_at": micros(expires_at)})

    async def set_notice(self, key: bytes, notice: str) -> None:
        """Set what the next page of a session shows."""
        await self._writer.execute(_SET_NOTICE, {"key": key, "notice": notice})

    async def end(self, key: bytes) -> None:
        """End a session. A guess costs no write."""
        if await self._hot.read(_has_session, key):
            await self._writer.execute(_END, {"key": key})

    async def end_others(self, prefix: bytes) -> None:
        """End the sessions and links of other prefixes."""
        await self._writer.execute(_END_OTHERS, {"prefix": prefix, "size": len(prefix)})

    async def add_link(self, key: bytes, visitor: Visitor, *, expires_at: datetime, most: int) -> None:
        """Store a link."""
        await self._writer.execute(_ADD_LINK, link_arguments(key, visitor, expires_at=expires_at, most=most))

    async def redeem_link(self, key: bytes, *, now: datetime) -> Visitor | None:
        """Delete a link and return its visitor. A guess costs no write."""
        if not await self._hot.read(_has_link, key):
            return None
        return await self._writer.execute(_REDEEM_LINK, {"key": key, "now": micros(now)})


async def _find(connection: Connection, arguments: Mapping[str, object]) -> ConsoleSession | None:
    row = await fetch_row(connection, "console_session", arguments)
    return None if row is None else read_session(row)


async def _has_session(connection: Connection, key: bytes) -> bool:
    return await fetch_row(connection, "has_console_session", {"key": key}) is not None


async def _has_link(connection: Connection, key: bytes) -> bool:
    return await fetch_row(connection, "has_console_link", {"key": key}) is not None


async def _redeem_link(connection: Connection, group: Sequence[Mapping[str, object]]) -> Sequence[Visitor | None]:
    found = [await fetch_row(connection, "redeem_link", each) for each in group]
    return [None if row is None else read_visitor(row) for row in found]


def _statements(*names: str, is_durable: bool = True) -> WriteOp[Mapping[str, object], None]:
    """Return a write that runs some statements for each item."""

    async def write(connection: Connection, group: Sequence[Mapping[str, object]]) -> Sequence[None]:
        for arguments in group:
            for name in names:
                await change(connection, name, arguments)
        return [None] * len(group)

    return WriteOp(write=write, is_durable=is_durable)


_START = _statements("lock_sessions", "trim_console_sessions", "insert_console_session")
_RENEW = _statements("renew_console_session", is_durable=False)
_SET_NOTICE = _statements("set_console_notice", is_durable=False)
_END = _statements("delete_console_session")
_END_OTHERS = _statements("lock_sessions", "delete_other_sessions", "delete_other_links")
_ADD_LINK = _statements("lock_sessions", "trim_console_links", "insert_console_link")
_REDEEM_LINK: WriteOp[Mapping[str, object], Visitor | None] = WriteOp(write=_redeem_link)
