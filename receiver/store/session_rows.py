"""How sessions of the console and their links are stored: as the arguments of statements and as rows."""

from collections.abc import Mapping
from datetime import datetime

from receiver.domain.clock import from_micros, micros
from receiver.domain.console_sessions import ConsoleSession, Role, Visitor
from receiver.store.rows import Row, storable_text


def link_arguments(key: bytes, visitor: Visitor, *, expires_at: datetime, most: int) -> Mapping[str, object]:
    """Return the arguments of a new link, and how many older ones are kept."""
    return {
        "key": key,
        "role": visitor.role.value,
        "name": storable_text(visitor.name),
        "expires_at": micros(expires_at),
        "kept": most - 1,
    }


def session_arguments(key: bytes, session: ConsoleSession, *, most: int) -> Mapping[str, object]:
    """Return the arguments of a new session, and how many older ones of its role are kept."""
    arguments = link_arguments(key, session.visitor, expires_at=session.expires_at, most=most)
    return {**arguments, "notice": storable_text(session.notice)}


def read_visitor(row: Row) -> Visitor:
    """Return the visitor of a row."""
    return Visitor(role=Role(row["role"]), name=row["name"])


def read_session(row: Row) -> ConsoleSession:
    """Return the session of a row."""
    return ConsoleSession(visitor=read_visitor(row), expires_at=from_micros(row["expires_at"]), notice=row["notice"])
